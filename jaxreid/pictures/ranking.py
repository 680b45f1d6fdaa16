"""Ranked lists: a query on the left, the best gallery images on the right."""

import dataclasses
import pathlib
from collections.abc import Sequence

from PIL import Image

from jaxreid.data.images.pillow import ImageSource
from jaxreid.pictures.canvas import (
    CAPTION,
    FRAME,
    Canvas,
    frame_colour,
    grid,
    image_name,
    wrapped,
)

# Width and height of one image.
CELL = (64, 128)
GAP, MARGIN, HEADING = 6, 14, 34
# Height of each further line of a caption.
LINE = 14
# Gallery images in a row of one person's.
PER_ROW = 12
# Minimum width of the picture, for the titles.
NARROWEST = 420
STEP = CELL[0] + 2 * FRAME + GAP
CAPTION_SIZE, CAPTION_WIDTH = 11, STEP - 2


@dataclasses.dataclass(frozen=True)
class Tile:
    """Image of a ranked list.

    Attributes:
        image: path, encoded bytes, PIL image or uint8 [h, w, 3].
        caption: one or several short lines below the image; lines that are too long are cut.
        right: whether it shows the query's person; None for the query itself, or if unknown.
    """

    image: ImageSource
    caption: str
    right: bool | None


@dataclasses.dataclass(frozen=True)
class Row:
    """Query with the best gallery images, best first."""

    title: str
    query: Tile
    gallery: Sequence[Tile]


def ranking_picture(sections: Sequence[tuple[str, Sequence[Row]]]) -> Image.Image:
    """Draw ranked lists by test set; right images are framed green, wrong ones red, others grey."""
    rows = [row for _, section in sections for row in section]
    tiles = [tile for row in rows for tile in (row.query, *row.gallery)]
    lines = max((tile.caption.count("\n") for tile in tiles), default=0)
    row_height = CAPTION + CELL[1] + 2 * FRAME + CAPTION + lines * LINE + GAP
    longest = max((len(row.gallery) for row in rows), default=0)
    width = max(2 * MARGIN + STEP * (longest + 1) + 2 * GAP, NARROWEST)
    height = 2 * MARGIN + HEADING * len(sections) + row_height * len(rows)
    canvas = Canvas((width, height))
    room, y = width - 2 * MARGIN, MARGIN
    for title, section in sections:
        canvas.text((MARGIN, y + 4), title, 16, width=room)
        y += HEADING
        for row in section:
            canvas.text((MARGIN, y), row.title, 11, width=room)
            _tile(canvas, row.query, (MARGIN, y + CAPTION))
            first = MARGIN + STEP + 2 * GAP, y + CAPTION
            corners = grid(len(row.gallery), longest, (STEP, row_height), first)
            for tile, corner in zip(row.gallery, corners, strict=True):
                _tile(canvas, tile, corner)
            y += row_height
    return canvas.picture()


def person_picture(
    queries: Sequence[ImageSource], hits: Sequence[tuple[ImageSource, str, Sequence[str]]]
) -> Image.Image:
    """Draw the best gallery images of one person, best first, `PER_ROW` in a row.

    Args:
        queries: one or more photos of the person, one beside each row; the first is repeated.
        hits: images with their names, and lines that stand between rank and name.
    """
    rows = []
    for number in range(max(len(queries), -(-len(hits) // PER_ROW))):
        first = number * PER_ROW
        query = queries[number] if number < len(queries) else queries[0]
        tiles = [
            Tile(image, _hit_caption(place, name, lines), None)
            for place, (image, name, lines) in enumerate(hits[first : first + PER_ROW], first + 1)
        ]
        rows.append(Row(image_name(query), Tile(query, "query", None), tiles))
    photos = f", {len(queries)} photos together" if len(queries) > 1 else ""
    return ranking_picture([(f"best {len(hits)} for one person{photos}", rows)])


def _hit_caption(place: int, name: str, lines: Sequence[str]) -> str:
    short = wrapped(pathlib.PurePath(name).name, CAPTION_WIDTH, CAPTION_SIZE, lines=2)
    return f"{place}.  " + "\n".join([*lines, short]).rstrip()


def _tile(canvas: Canvas, tile: Tile, corner: tuple[int, int]) -> None:
    x, y = canvas.cell(corner, tile.image, CELL, frame=frame_colour(tile.right))
    canvas.text((x + 1, y + 2), tile.caption, CAPTION_SIZE, width=CAPTION_WIDTH)
