"""The canvas of all pictures: colours, fitted text, framed images, grids, smooth lines, files.

Places and sizes are (x, y) and (width, height) in pixels of the finished picture.
"""

import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from jaxreid.data.images.pillow import ImageSource, read_image
from jaxreid.runs.files import replace_file

Colour = tuple[int, int, int] | tuple[int, int, int, int] | str
Place = tuple[float, float]

RIGHT, WRONG, PLAIN = (30, 160, 60), (210, 45, 45), (90, 90, 90)  # frames
FRAME = 4  # pixels around an image
CAPTION = 18  # height of a line of text at an image
SPACING = 3  # between two lines of a text


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours of the paper and of what is written on it."""

    paper: Colour
    ink: Colour
    faint: Colour


LIGHT = Palette((255, 255, 255), (25, 25, 25), (120, 120, 120))
DARK = Palette((24, 26, 30), (236, 236, 232), (160, 164, 170))


class Canvas:
    """A picture in the making.

    Args:
        size: width and height.
        palette: colours of paper and text.
        fineness: everything is drawn this much larger and shrunk at the end, for smooth lines:
            Pillow's own have steps.
        transparent: a layer without paper, to be pasted onto another canvas.
    """

    def __init__(
        self,
        size: tuple[int, int],
        palette: Palette = LIGHT,
        *,
        fineness: int = 1,
        transparent: bool = False,
    ) -> None:
        self.size, self.palette = size, palette
        self._fineness, self._transparent = fineness, transparent
        mode, paper = ("RGBA", (0, 0, 0, 0)) if transparent else ("RGB", palette.paper)
        self._image = Image.new(mode, (size[0] * fineness, size[1] * fineness), paper)
        self._draw = ImageDraw.Draw(self._image)

    def text(
        self,
        place: Place,
        text: str,
        size: int = 12,
        *,
        colour: Colour | None = None,
        width: float | None = None,
        anchor: str | None = None,
    ) -> None:
        """Writes one or several lines.

        Args:
            place: of the anchor.
            text: the lines.
            size: of the font.
            colour: ink by default.
            width: longer lines are cut.
            anchor: Pillow's, for a single line; the upper left corner by default.
        """
        if width is not None:
            text = "\n".join(fitted(line, width, size) for line in text.split("\n"))
        self._draw.text(
            self._fine(*place),
            text,
            fill=self.palette.ink if colour is None else colour,
            font=font(size * self._fineness),
            anchor=anchor,
            spacing=SPACING * self._fineness,
        )

    def cell(
        self,
        place: tuple[int, int],
        image: ImageSource,
        size: tuple[int, int],
        *,
        frame: Colour | None = None,
    ) -> tuple[int, int]:
        """Draws an image, stretched to a size, with a frame around it.

        Args:
            place: upper left corner of the frame, or of an image without one.
            image: path, encoded bytes, PIL image or uint8 [h, w, 3].
            size: of the image alone.
            frame: colour of the frame, `FRAME` pixels wide; None for none.

        Returns:
            The lower left corner, below which a caption may stand.
        """
        (x, y), (width, height) = place, size
        border = 0 if frame is None else FRAME
        whole = width + 2 * border, height + 2 * border
        if frame is not None:
            self.rectangle((x, y, x + whole[0], y + whole[1]), fill=frame)
        picture = Image.fromarray(read_image(image))
        picture = picture.resize(self._fine(width, height), Image.Resampling.BICUBIC)
        self._image.paste(picture, self._fine(x + border, y + border))
        return x, y + whole[1]

    def line(self, points: Sequence[Place], colour: Colour, width: float) -> None:
        """Draws a line through two or more points."""
        fine = [self._fine(*point) for point in points]
        self._draw.line(fine, fill=colour, width=round(width * self._fineness), joint="curve")

    def dot(
        self, place: Place, radius: float, colour: Colour, *, outline: Colour | None = None
    ) -> None:
        """Draws a disk, outlined by a line as thin as the canvas can draw smoothly."""
        x, y = self._fine(*place)
        r = radius * self._fineness
        box = x - r, y - r, x + r, y + r
        self._draw.ellipse(box, fill=colour, outline=outline, width=self._fineness)

    def rectangle(
        self,
        box: tuple[float, float, float, float],
        *,
        fill: Colour | None = None,
        outline: Colour | None = None,
        width: int = 1,
    ) -> None:
        """Draws a rectangle; its right and lower edges lie outside, its outline inside."""
        left, top, right, bottom = (value * self._fineness for value in box)
        box = left, top, right - 1, bottom - 1
        self._draw.rectangle(box, fill=fill, outline=outline, width=width * self._fineness)

    def paste(self, other: "Canvas", place: tuple[int, int] = (0, 0)) -> None:
        """Puts another canvas onto this one, seen through where it is transparent."""
        layer = other.picture()
        mask = layer if other._transparent else None
        self._image.paste(layer, self._fine(*place), mask)

    def picture(self) -> Image.Image:
        """Returns what has been drawn: an RGB picture, RGBA if the canvas is transparent."""
        if self._fineness == 1:
            return self._image
        # Lanczos is sharper, and overshoots where something ends in transparency.
        method = Image.Resampling.BOX if self._transparent else Image.Resampling.LANCZOS
        return self._image.resize(self.size, method)

    def _fine(self, x: float, y: float) -> Place:
        return x * self._fineness, y * self._fineness


def frame_colour(right: bool | None) -> Colour:
    """Returns the frame of a right or wrong image, or of one where that is not known."""
    return PLAIN if right is None else RIGHT if right else WRONG


def grid(
    count: int, columns: int, step: tuple[int, int], origin: tuple[int, int] = (0, 0)
) -> list[tuple[int, int]]:
    """Returns the upper left corners of `count` cells, row by row.

    Args:
        count: of cells.
        columns: cells in a row.
        step: from a corner to the next one on the right and below.
        origin: the first corner.
    """
    places = (divmod(number, columns) for number in range(count))
    return [(origin[0] + column * step[0], origin[1] + row * step[1]) for row, column in places]


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Returns the font that comes with Pillow."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> float:
    """Returns the width of a line in pixels."""
    return font(size).getlength(text)


def fitted(text: str, width: float, size: int) -> str:
    """Returns a line, or its beginning and "…" where it is wider."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def wrapped(text: str, width: float, size: int, lines: int) -> str:
    """Returns a file name as up to `lines` lines; the last one is cut where it is too wide."""
    result = []
    while len(result) < lines - 1 and text_width(text, size) > width:
        fits = sum(text_width(text[: end + 1], size) <= width for end in range(len(text)))
        result.append(text[: max(fits, 1)])
        text = text[max(fits, 1) :]
    return "\n".join([*result, fitted(text, width, size)])


def image_name(image: ImageSource) -> str:
    """Returns the file name of an image, and "" if it is not from a file."""
    path = image if isinstance(image, str | os.PathLike) else getattr(image, "filename", "")
    return pathlib.PurePath(path).name


def save(picture: Image.Image, path: str | os.PathLike) -> None:
    """Writes a PNG; an old file of that name is replaced only by a whole new one."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    replace_file(pathlib.Path(path), file.getvalue())
