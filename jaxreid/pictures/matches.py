"""Pictures of matches: lines between the cells of two images that look alike to a matcher."""

import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxreid.pictures.ranking import INK, PLAIN, RIGHT, WRONG

FRAME, GAP, MARGIN, CAPTION, HEADING = 4, 26, 16, 18, 62
NARROWEST = 600  # so that the legend has room
FINE = 3  # lines are drawn this much larger and shrunk: Pillow draws them with steps
WEIGHTS = 1.5, 4.0  # pixels of the weakest and of the strongest line
RAMP = (255, 243, 150), (255, 150, 40), (205, 15, 85)  # weak to strong
SHADE, FAINT = (0, 0, 0, 160), (120, 120, 120)


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Two images and what their score is made of; each is divided into h x w cells.

    Attributes:
        query: encoded bytes.
        gallery: encoded bytes.
        titles: a few characters above the two images.
        right: the same person; None if that is not known.
        from_query: [h, w] float, what each query cell adds to the score.
        from_gallery: [h, w] float, what each gallery cell adds.
        match_in_gallery: [h, w] int, for each query cell its best gallery cell, counted row by row.
        match_in_query: [h, w] int, for each gallery cell its best query cell.
        constant: what is added to them.
        reference: what contributions are told above, or None.
        part: of the features that are compared, the one that this is of; None for all of them.
        whole: the score of all parts.
        reach: rows and columns on each side of a cell that are encoded with it.
    """

    query: bytes
    gallery: bytes
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
        """The sum of all cells and the constant."""
        return float(self.from_query.sum() + self.from_gallery.sum() + self.constant)

    def above(self, query: np.ndarray, gallery: np.ndarray, reference: str) -> "Pair":
        """The same score, told as what other images give and what this pair gives above that.

        Args:
            query: [h, w] float, what the query's cells add with the others.
            gallery: [h, w] float, what the gallery image's cells add with the others.
            reference: what the others are called.
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
    """A match of two cells, counted row by row.

    Attributes:
        query: cell of the query.
        gallery: cell of the gallery image.
        value: what it adds to the score.
        chosen_by: "both", each is the other's best match; or "query" or "gallery", the one whose
            best match the other is.
    """

    query: int
    gallery: int
    value: float
    chosen_by: str


def links_of(pair: Pair) -> list[Link]:
    """Every cell's best match, the strongest first; mutual ones once, with both contributions.

    The values of all links and the constant add up to the score.
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
    """Up to `count` links to draw: those that add most, spread over the image.

    A link is passed over where a stronger one begins and ends beside it: neighbouring cells see
    much the same, and their lines would hide each other. How near that is follows from the number
    of cells and of links. Links that lower the score are not drawn.
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
    """Pairs of images side by side, with their strongest matches as lines.

    Args:
        title: at the top.
        pairs: at least one, of equal maps and reference.
        size: width and height of each image in pixels.
        links: lines in each pair, at most.
        columns: pairs beside each other, at most.

    Returns:
        An RGB picture. Colour and thickness of a line say what its match adds to the score, on one
        scale for all pairs; below a pair stand its score and what it is the sum of.
    """
    chosen = [strongest_links(pair, links) for pair in pairs]
    top = max((link.value for found in chosen for link in found), default=1.0)
    panels = [_panel(*item, size, top) for item in zip(pairs, chosen, strict=True)]
    columns = min(columns, len(panels))
    width, height = panels[0].size
    whole = columns * (width + GAP) - GAP, -(-len(panels) // columns) * (height + GAP) - GAP
    size = max(whole[0], NARROWEST) + 2 * MARGIN, whole[1] + HEADING + MARGIN
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 12), _fitted(title, size[0] - 2 * MARGIN, 16), fill=INK, font=_font(16))
    above = f"above the {pairs[0].reference}" if pairs[0].reference else "to the score"
    _legend(draw, (MARGIN, 38), f"{top:+.2f} {above}")
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        canvas.paste(panel, (MARGIN + column * (width + GAP), HEADING + row * (height + GAP)))
    return canvas


def _panel(pair: Pair, links: Sequence[Link], size: tuple[int, int], top: float) -> Image.Image:
    """One pair with its titles, its lines and its sum."""
    width, height = size
    # The right image hangs lower: lines between cells of equal height would hide each other.
    left = FRAME, CAPTION + FRAME
    right = left[0] + width + 2 * FRAME + width // 2, left[1] + height // 6
    below = right[1] + height + FRAME + 2
    panel = Image.new("RGB", (max(right[0] + width + FRAME, 460), below + 3 * CAPTION), "white")
    draw = ImageDraw.Draw(panel)
    frames = PLAIN, PLAIN if pair.right is None else RIGHT if pair.right else WRONG
    heights = 0, below  # of the titles: where no line goes
    for (x, y), data, frame, title, at in zip(
        (left, right), (pair.query, pair.gallery), frames, pair.titles, heights, strict=True
    ):
        box = x - FRAME, y - FRAME, x + width + FRAME - 1, y + height + FRAME - 1
        draw.rectangle(box, fill=frame)
        with Image.open(io.BytesIO(data)) as image:
            panel.paste(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), (x, y))
        title = _fitted(title, panel.width - x, 12)
        draw.text((x - FRAME, at), title, fill=INK, font=_font(12))
    grid = pair.from_query.shape
    cells, patches = (
        [
            [_cell(i, grid, size, end, reach) for i in range(math.prod(grid))]
            for end in (left, right)
        ]
        for reach in (0, pair.reach)
    )
    layer = _lines(panel.size, links, cells, patches, top)
    panel.paste(layer, (0, 0), layer)
    query, gallery = pair.from_query.sum(), pair.from_gallery.sum()
    drawn = sum(link.value for link in links)
    parts = f"= {query:+.2f} query cells {gallery:+.2f} gallery cells {pair.constant:+.2f}"
    rest = f"{len(links)} lines {drawn:+.2f}, other cells {query + gallery - drawn:+.2f}"
    y, text = below + CAPTION, f"{pair.part or 'score'} {pair.score:+.2f}"
    x = max(95, round(_font(14).getlength(text)) + 12)
    draw.text((0, y), text, fill=INK, font=_font(14))
    if pair.whole is not None:
        draw.text((0, y + CAPTION), f"of {pair.whole:+.2f}", fill=FAINT, font=_font(12))
    draw.text((x, y + 2), f"{parts} {pair.reference or 'constant'}", fill=INK, font=_font(12))
    draw.text((x, y + CAPTION), rest, fill=FAINT, font=_font(12))
    return panel


def _cell(
    index: int, grid: tuple[int, int], size: tuple[int, int], origin: tuple[int, int], reach: int
) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge in the panel of a cell, with those around it."""
    place = np.array(divmod(index, grid[1]))
    first, last = np.maximum(place - reach, 0), np.minimum(place + reach + 1, grid)
    wide, high = size[0] / grid[1], size[1] / grid[0]
    (top, left), (bottom, right) = first, last
    x, y = origin
    return x + left * wide, y + top * high, x + right * wide, y + bottom * high


def _lines(
    size: tuple[int, int],
    links: Sequence[Link],
    cells: Sequence[Sequence],
    patches: Sequence[Sequence],
    top: float,
) -> Image.Image:
    """Outlined patches and the lines between the centres of their cells, transparent elsewhere."""
    layer = Image.new("RGBA", (size[0] * FINE, size[1] * FINE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for link in reversed(links):  # the strongest last, on top
        share = link.value / top
        colour, weight = _colour(share), WEIGHTS[0] + share * (WEIGHTS[1] - WEIGHTS[0])
        boxes, outlines = (
            np.array((of[0][link.query], of[1][link.gallery])) * FINE for of in (cells, patches)
        )
        centres = [tuple(centre) for centre in (boxes[:, :2] + boxes[:, 2:]) / 2]
        for x, y, right, lower in outlines:
            draw.rectangle((x, y, right - 1, lower - 1), outline=colour, width=FINE)
        draw.line(centres, fill=SHADE, width=round((weight + 1.5) * FINE))
        draw.line(centres, fill=colour, width=round(weight * FINE))
        r = (weight / 2 + 2.5) * FINE
        for (x, y), owner in zip(centres, ("query", "gallery"), strict=True):
            fill = colour if link.chosen_by in ("both", owner) else "white"
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=SHADE, width=FINE)
    return layer.resize(size, Image.Resampling.BOX)


def _legend(draw: ImageDraw.ImageDraw, place: tuple[int, int], top: str) -> None:
    """A scale of colours, and what the ends of the lines mean."""
    (x, y), length = place, 110
    draw.text((x, y), "adds 0", fill=INK, font=_font(12))
    x += 46
    for i in range(length):
        draw.line((x + i, y + 3, x + i, y + 13), fill=_colour(i / length))
    text = f"{top}      white end: chosen as best match, but chose another"
    draw.text((x + length + 6, y), text, fill=INK, font=_font(12))


def _colour(share: float) -> tuple[int, int, int]:
    return tuple(
        round(np.interp(share, np.linspace(0, 1, len(RAMP)), part))
        for part in zip(*RAMP, strict=True)
    )


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitted(text: str, width: int, size: int) -> str:
    """The text, or as much of it as is no wider."""
    if _font(size).getlength(text) <= width:
        return text
    while text and _font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
