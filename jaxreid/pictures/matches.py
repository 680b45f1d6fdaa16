"""Pictures of matches: lines between cells of two images that a matcher finds similar."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxreid.data.images.pillow import ImageSource
from jaxreid.pictures.canvas import (
    CAPTION,
    FRAME,
    LIGHT,
    PLAIN,
    Canvas,
    Colour,
    Place,
    frame_colour,
    grid,
    text_width,
)

GAP, MARGIN, HEADING = 26, 16, 62
# Minimum width of the picture, for the legend.
NARROWEST = 600
# Minimum width of a panel, for the sum.
NARROWEST_PANEL = 460
FINENESS = 3
# Width in pixels of the weakest and of the strongest line.
WEIGHTS = 1.5, 4.0
# Colours of lines, from weak to strong.
RAMP = (255, 243, 150), (255, 150, 40), (205, 15, 85)
SHADE = (0, 0, 0, 160)

# Left, upper, right and lower edge.
Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Two images of h x w cells each, and the contributions that make up their score.

    Attributes:
        query: path, encoded bytes, PIL image or uint8 [H, W, 3].
        gallery: gallery image, of the same types.
        titles: short titles of the two images.
        right: whether both show the same person; None if unknown.
        from_query: [h, w] float, contribution of each query cell to the score.
        from_gallery: [h, w] float, contribution of each gallery cell.
        match_in_gallery: [h, w] int, best gallery cell for each query cell, numbered row by row.
        match_in_query: [h, w] int, best query cell for each gallery cell.
        constant: remainder of the score.
        reference: name of the reference for the contributions, or None.
        part: part of the features that the pair shows; None for all of them.
        whole: score of all parts together.
        reach: rows and columns on each side of a cell that are encoded with it.
    """

    query: ImageSource
    gallery: ImageSource
    titles: tuple[str, str]
    right: bool | None
    from_query: np.ndarray
    from_gallery: np.ndarray
    match_in_gallery: np.ndarray
    match_in_query: np.ndarray
    constant: float
    reference: str | None = None
    part: str | None = None
    whole: float | None = None
    reach: int = 0

    @property
    def score(self) -> float:
        """Sum of all cells and the constant."""
        return float(self.from_query.sum() + self.from_gallery.sum() + self.constant)

    def above(self, query: np.ndarray, gallery: np.ndarray, reference: str) -> "Pair":
        """Return this pair, with contributions measured relative to a reference.

        Args:
            query: [h, w] float, contributions of the query's cells with the reference images.
            gallery: [h, w] float, contributions of the gallery image's cells.
            reference: name of the reference.
        """
        return dataclasses.replace(
            self,
            from_query=self.from_query - query,
            from_gallery=self.from_gallery - gallery,
            constant=float(self.constant + query.sum() + gallery.sum()),
            reference=reference,
        )


@dataclasses.dataclass(frozen=True)
class Link:
    """Match of two cells, numbered row by row.

    Attributes:
        query: cell of the query.
        gallery: cell of the gallery image.
        value: contribution to the score.
        chosen_by: "both" if each is the other's best match; "query" or "gallery" if the match is
            the best only for the cell of that image.
    """

    query: int
    gallery: int
    value: float
    chosen_by: str


def links_of(pair: Pair) -> list[Link]:
    """Return the best match of every cell, by decreasing contribution.

    Mutual matches appear once, with both contributions, so that the values of all links and the
    constant add up to the score.
    """
    there, back = pair.match_in_gallery.ravel(), pair.match_in_query.ravel()
    from_query, from_gallery = pair.from_query.ravel(), pair.from_gallery.ravel()
    links = []
    for query, gallery in enumerate(there):
        mutual = back[gallery] == query
        value = from_query[query] + (from_gallery[gallery] if mutual else 0)
        links.append(Link(query, int(gallery), float(value), "both" if mutual else "query"))
    for gallery, query in enumerate(back):
        if there[query] != gallery:
            links.append(Link(int(query), gallery, float(from_gallery[gallery]), "gallery"))
    return sorted(links, key=lambda link: -link.value)


def strongest_links(pair: Pair, count: int) -> list[Link]:
    """Return up to `count` links to draw: large positive contributions, spread over the image.

    A link is skipped if a stronger one begins and ends next to it: neighbouring cells have similar
    content, and their lines would hide each other. The required distance follows from the numbers
    of cells and of links.
    """
    rows, columns = pair.from_query.shape
    reach = max(0, int((math.sqrt(rows * columns / count) - 1) / 2))

    def near(a: int, b: int) -> bool:
        down, across = abs(a // columns - b // columns), abs(a % columns - b % columns)
        return max(down, across) <= reach

    chosen: list[Link] = []
    for link in links_of(pair):
        if link.value <= 0 or len(chosen) == count:
            break
        if not any(near(link.query, c.query) and near(link.gallery, c.gallery) for c in chosen):
            chosen.append(link)
    return chosen


def correspondence_picture(
    title: str, pairs: Sequence[Pair], *, size: tuple[int, int], links: int, columns: int = 3
) -> Image.Image:
    """Draw pairs of images side by side, with their strongest matches as lines.

    Colour and width of a line show what its match adds to the score, on one scale for all pairs.
    Below a pair are its score and the summands.

    Args:
        title: title at the top.
        pairs: at least one, with equal numbers of cells and the same reference.
        size: width and height of each image in pixels.
        links: maximum number of lines per pair.
        columns: maximum number of pairs per row.

    Returns:
        RGB picture.
    """
    chosen = [strongest_links(pair, links) for pair in pairs]
    strongest = max((link.value for links in chosen for link in links), default=1.0)
    panels = [_panel(*item, size, strongest) for item in zip(pairs, chosen, strict=True)]
    columns = min(columns, len(panels))
    step = panels[0].size[0] + GAP, panels[0].size[1] + GAP
    width = max(columns * step[0] - GAP, NARROWEST) + 2 * MARGIN
    height = HEADING + -(-len(panels) // columns) * step[1] - GAP + MARGIN
    canvas = Canvas((width, height))
    canvas.text((MARGIN, 12), title, 16, width=width - 2 * MARGIN)
    above = f"above the {pairs[0].reference}" if pairs[0].reference else "to the score"
    _legend(canvas, (MARGIN, 38), f"{strongest:+.2f} {above}")
    corners = grid(len(panels), columns, step, (MARGIN, HEADING))
    for panel, corner in zip(panels, corners, strict=True):
        canvas.paste(panel, corner)
    return canvas.picture()


def _panel(pair: Pair, links: Sequence[Link], size: tuple[int, int], strongest: float) -> Canvas:
    """Draw one pair with its titles, lines and sum."""
    width, height = size
    # The right image is lower, because lines between cells of equal height would hide each other.
    left = FRAME, CAPTION + FRAME
    right = left[0] + width + 2 * FRAME + width // 2, left[1] + height // 6
    below = right[1] + height + FRAME + 2
    panel = Canvas((max(right[0] + width + FRAME, NARROWEST_PANEL), below + 3 * CAPTION))
    frames = PLAIN, frame_colour(pair.right)
    # No line passes there.
    title_heights = 0, below
    for (x, y), image, frame, title, title_height in zip(
        (left, right), (pair.query, pair.gallery), frames, pair.titles, title_heights, strict=True
    ):
        panel.cell((x - FRAME, y - FRAME), image, size, frame=frame)
        panel.text((x - FRAME, title_height), title, width=panel.size[0] - x)
    shape = pair.from_query.shape
    cells, patches = (
        [
            [_cell(index, shape, size, corner, reach) for index in range(math.prod(shape))]
            for corner in (left, right)
        ]
        for reach in (0, pair.reach)
    )
    panel.paste(_lines(panel.size, links, cells, patches, strongest))
    _sum(panel, below + CAPTION, pair, links)
    return panel


def _cell(
    index: int, shape: tuple[int, int], size: tuple[int, int], corner: Place, reach: int
) -> Box:
    """Return the box of a cell, numbered row by row, with `reach` cells on each side of it.

    `shape` counts the rows and columns of cells; `size` and upper left `corner` are the image's.
    """
    place = np.array(divmod(index, shape[1]))
    first, last = np.maximum(place - reach, 0), np.minimum(place + reach + 1, shape)
    wide, high = size[0] / shape[1], size[1] / shape[0]
    (top, left), (bottom, right) = first, last
    x, y = corner
    return x + left * wide, y + top * high, x + right * wide, y + bottom * high


def _lines(
    size: tuple[int, int],
    links: Sequence[Link],
    cells: Sequence[Sequence[Box]],
    patches: Sequence[Sequence[Box]],
    strongest: float,
) -> Canvas:
    """Draw outlined patches and the lines between the centres of their cells, as a layer."""
    layer = Canvas(size, fineness=FINENESS, transparent=True)
    # The strongest last, on top.
    for link in reversed(links):
        share = link.value / strongest
        colour, weight = _colour(share), WEIGHTS[0] + share * (WEIGHTS[1] - WEIGHTS[0])
        boxes, outlines = (
            (side[0][link.query], side[1][link.gallery]) for side in (cells, patches)
        )
        centres = [((x + right) / 2, (y + lower) / 2) for x, y, right, lower in boxes]
        for outline in outlines:
            layer.rectangle(outline, outline=colour)
        layer.line(centres, SHADE, weight + 1.5)
        layer.line(centres, colour, weight)
        for centre, owner in zip(centres, ("query", "gallery"), strict=True):
            fill = colour if link.chosen_by in ("both", owner) else LIGHT.paper
            layer.dot(centre, weight / 2 + 2.5, fill, outline=SHADE)
    return layer


def _sum(panel: Canvas, y: int, pair: Pair, links: Sequence[Link]) -> None:
    """Write the score of a pair and its summands."""
    query, gallery = pair.from_query.sum(), pair.from_gallery.sum()
    drawn = sum(link.value for link in links)
    score = f"{pair.part or 'score'} {pair.score:+.2f}"
    parts = f"= {query:+.2f} query cells {gallery:+.2f} gallery cells {pair.constant:+.2f}"
    rest = f"{len(links)} lines {drawn:+.2f}, other cells {query + gallery - drawn:+.2f}"
    x = max(95, round(text_width(score, 14)) + 12)
    panel.text((0, y), score, 14)
    if pair.whole is not None:
        panel.text((0, y + CAPTION), f"of {pair.whole:+.2f}", colour=LIGHT.faint)
    panel.text((x, y + 2), f"{parts} {pair.reference or 'constant'}")
    panel.text((x, y + CAPTION), rest, colour=LIGHT.faint)


def _legend(canvas: Canvas, place: tuple[int, int], strongest: str) -> None:
    """Draw the scale of colours, and explain the ends of the lines."""
    (x, y), length = place, 110
    canvas.text((x, y), "adds 0")
    x += 46
    for i in range(length):
        canvas.rectangle((x + i, y + 3, x + i + 1, y + 14), fill=_colour(i / length))
    text = f"{strongest}      white end: chosen as best match, but chose another"
    canvas.text((x + length + 6, y), text)


def _colour(share: float) -> Colour:
    return tuple(
        round(np.interp(share, np.linspace(0, 1, len(RAMP)), part))
        for part in zip(*RAMP, strict=True)
    )
