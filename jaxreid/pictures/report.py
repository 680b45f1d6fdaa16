"""Pages of figures and tables for people: one HTML file, without script and network."""

from collections.abc import Sequence

from jaxreid.pictures.results import FOLDER, assembled
from jaxreid.pictures.self_contained import escaped, whole_page


def document(title: str, about: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return a page.

    Args:
        title: any text.
        about: line below the title, any text.
        sections: headings, any text, with their HTML; empty ones are left out.
    """
    parts = "".join(
        f"<h2>{escaped(name)}</h2>\n{part}\n" if name else part for name, part in sections if part
    )
    body = f"""
<h1>{escaped(title)}</h1>
<p class="about">{escaped(about)}</p>
{parts}
<footer>Made by jaxreid from the files of the run; numbers in percent where marked.</footer>
"""
    return whole_page(title, body, style=assembled(FOLDER / "report.css"))


def plots(figures: Sequence[str]) -> str:
    """Return figures side by side; "" without any."""
    return f'<div class="plots">{"".join(figures)}</div>' if any(figures) else ""


def wide(table: str) -> str:
    """Return a table in a frame that scrolls."""
    return f'<div class="wide">{table}</div>'
