"""Ranked lists: a query on the left, the best gallery images on the right."""

import dataclasses
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


def hits_picture(
    queries: Sequence[ImageSource],
    hits: Sequence[Sequence[tuple[ImageSource, float]]],
    title: str = "",
) -> Image.Image:
    """Draw the best gallery images for each query, best first, where the right ones are unknown.

    The caption of each image is its rank, its score, and its name if it has a path.
    """
    rows = [
        Row(
            image_name(query) or f"query {number}",
            Tile(query, "query", None),
            [
                Tile(image, _hit_caption(place, image, score), None)
                for place, (image, score) in enumerate(entries, 1)
            ],
        )
        for number, (query, entries) in enumerate(zip(queries, hits, strict=True), 1)
    ]
    return ranking_picture([(title or _title(rows), rows)])


def _hit_caption(place: int, image: ImageSource, score: float) -> str:
    name = wrapped(image_name(image), CAPTION_WIDTH, CAPTION_SIZE, lines=2)
    return f"{place}.  {score:+.2f}\n{name}".rstrip()


def _title(rows: Sequence[Row]) -> str:
    longest = max((len(row.gallery) for row in rows), default=0)
    return f"{len(rows)} queries and their best {longest}" if len(rows) > 1 else f"best {longest}"


def _tile(canvas: Canvas, tile: Tile, corner: tuple[int, int]) -> None:
    x, y = canvas.cell(corner, tile.image, CELL, frame=frame_colour(tile.right))
    canvas.text((x + 1, y + 2), tile.caption, CAPTION_SIZE, width=CAPTION_WIDTH)
