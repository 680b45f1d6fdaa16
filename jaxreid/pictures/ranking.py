"""Pictures of results, drawn on the encoded images that the data sets hold."""

import dataclasses
import io
import pathlib
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from jaxreid.runs.files import replace_file

CELL = (64, 128)  # width, height of one image in a picture
FRAME, GAP, MARGIN, CAPTION = 4, 6, 14, 18
RIGHT, WRONG, PLAIN, INK = (30, 160, 60), (210, 45, 45), (90, 90, 90), (25, 25, 25)


@dataclasses.dataclass(frozen=True)
class Tile:
    """One image of a ranked list.

    Attributes:
        image: encoded bytes.
        caption: a few characters below it.
        right: the same person as the query; None for the query itself.
    """

    image: bytes
    caption: str
    right: bool | None


@dataclasses.dataclass(frozen=True)
class Row:
    """A query with the best of the gallery, best first."""

    title: str
    query: Tile
    gallery: Sequence[Tile]


def ranking_picture(sections: Sequence[tuple[str, Sequence[Row]]]) -> Image.Image:
    """Ranked lists: a query on the left, gallery images on the right.

    Right images are framed green and wrong ones red.

    Args:
        sections: title and rows of each test set.

    Returns:
        An RGB picture.
    """
    font, bold = ImageFont.load_default(11), ImageFont.load_default(16)
    step = CELL[0] + 2 * FRAME + GAP
    row_height = CAPTION + CELL[1] + 2 * FRAME + CAPTION + GAP
    longest = max((len(row.gallery) for _, rows in sections for row in rows), default=0)
    width = 2 * MARGIN + step * (longest + 1) + 2 * GAP
    heading = 34
    height = 2 * MARGIN + sum(heading + row_height * len(rows) for _, rows in sections)
    canvas = Image.new("RGB", (max(width, 420), height), "white")
    draw = ImageDraw.Draw(canvas)
    y = MARGIN
    for title, rows in sections:
        draw.text((MARGIN, y + 4), title, fill=INK, font=bold)
        y += heading
        for row in rows:
            draw.text((MARGIN, y), row.title, fill=INK, font=font)
            for place, tile in enumerate([row.query, *row.gallery]):
                x = MARGIN + place * step + (2 * GAP if place else 0)
                _draw_tile(canvas, draw, tile, x, y + CAPTION, font)
            y += row_height
    return canvas


def _draw_tile(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, x: int, y: int, font
) -> None:
    colour = PLAIN if tile.right is None else RIGHT if tile.right else WRONG
    width, height = CELL
    draw.rectangle((x, y, x + width + 2 * FRAME - 1, y + height + 2 * FRAME - 1), fill=colour)
    with Image.open(io.BytesIO(tile.image)) as image:
        picture = image.convert("RGB").resize(CELL, Image.Resampling.BICUBIC)
    canvas.paste(picture, (x + FRAME, y + FRAME))
    draw.text((x + 1, y + height + 2 * FRAME + 2), tile.caption, fill=INK, font=font)


def save(picture: Image.Image, path: pathlib.Path) -> None:
    """Writes a PNG; an old file of that name is replaced only by a whole new one."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    replace_file(path, file.getvalue())
