"""Tables as text, Markdown, LaTeX, HTML, CSV and JSON."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxreid.pictures.self_contained import escaped

# Characters that LaTeX reads as commands.
_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    cells = [[re.sub(r"([\\|`*_<])", r"\\\1", cell) for cell in row] for row in (header, *rows)]
    rule = ["---"] * len(header)
    return "".join(f"| {' | '.join(row)} |\n" for row in (cells[0], rule, *cells[1:]))


def latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a tabular for LaTeX, with the rules of the package booktabs."""

    def line(row: Sequence[str]) -> str:
        return " & ".join("".join(_TEX.get(c, c) for c in cell) for cell in row) + r" \\" + "\n"

    body = "".join(map(line, rows))
    columns = "l" * len(header)
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(header)}\\midrule\n{body}"
        "\\bottomrule\n\\end{tabular}\n"
    )


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a page, its text escaped."""

    def line(row: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escaped(cell)}</{tag}>" for cell in row) + "</tr>\n"

    body = "".join(line(row, "td") for row in rows)
    return f"<table>\n<thead>{line(header, 'th')}</thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of one form as CSV, with their keys as the header."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_json(value: Any) -> str:
    """Return a value as JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
