"""Ranked lists on web pages: cards with their matches, for the page of a search and the service's.

`results.css` is the look of both, `results.js` their hovering, clicks and keys, `colours.css`
the colours of every page. Each page holds them where a comment of its style or script names them.
"""

import pathlib

from jaxreid.pictures.matches import Pair, strongest_links

FOLDER = pathlib.Path(__file__).parent

# x and y in the query, x and y in the gallery image, as fractions of width and height; contribution
# to the score as a share of the strongest match's.
Line = tuple[float, float, float, float, float]


def assembled(path: pathlib.Path) -> str:
    """Return the text of a style, a script or a page, with the shared files where it names them."""
    text = path.read_text(encoding="utf-8")
    for name in ("results.css", "results.js", "colours.css"):
        text = text.replace(f"/* {name} */", (FOLDER / name).read_text(encoding="utf-8"))
    return text


def lines_of(pair: Pair, count: int) -> list[Line]:
    """Return up to `count` matches of a pair as lines to draw, the strongest first."""
    rows, columns = pair.from_query.shape
    links = strongest_links(pair, count)
    strongest = max((link.value for link in links), default=1.0)

    def centre(cell: int) -> tuple[float, float]:
        row, column = divmod(cell, columns)
        return round((column + 0.5) / columns, 4), round((row + 0.5) / rows, 4)

    return [
        (*centre(link.query), *centre(link.gallery), round(link.value / strongest, 3))
        for link in links
    ]
