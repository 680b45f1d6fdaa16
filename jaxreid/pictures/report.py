"""Pages of figures and tables for people: one HTML file, without script and network."""

from collections.abc import Sequence

from jaxreid.pictures.results import FOLDER, assembled
from jaxreid.pictures.self_contained import csp_digest, escaped


def document(title: str, about: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return a page.

    Args:
        title: any text.
        about: line below the title, any text.
        sections: headings, any text, with their HTML; what is empty is left out.
    """
    style = assembled(FOLDER / "report.css")
    policy = (
        f"default-src 'none'; img-src data:; style-src {csp_digest(style)}; base-uri 'none'; "
        "form-action 'none'"
    )
    body = "".join(
        f"<h2>{escaped(name)}</h2>\n{part}\n" if name else part for name, part in sections if part
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="generator" content="jaxreid">
<meta name="referrer" content="no-referrer">
<meta name="robots" content="noindex">
<title>{escaped(title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{escaped(title)}</h1>
<p class="about">{escaped(about)}</p>
{body}
<footer>Made by jaxreid from the files of the run; numbers in percent where they say so.</footer>
</body>
</html>
"""


def plots(figures: Sequence[str]) -> str:
    """Return figures side by side; "" without any."""
    return f'<div class="plots">{"".join(figures)}</div>' if any(figures) else ""


def wide(table: str) -> str:
    """Return a table in a frame that scrolls."""
    return f'<div class="wide">{table}</div>'
