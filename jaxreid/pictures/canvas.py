"""Canvas of all pictures: colours, fitted text, framed images, grids, smooth lines, files.

Positions and sizes are (x, y) and (width, height) in pixels of the finished picture.
"""

import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from jaxreid.data.images.pillow import ImageSource, read_image
from jaxreid.places import place
from jaxreid.runs.files import replace_file

Colour = tuple[int, int, int] | tuple[int, int, int, int] | str
Place = tuple[float, float]

# Colours of frames.
RIGHT, WRONG, PLAIN = (30, 160, 60), (210, 45, 45), (90, 90, 90)
# Width of the frame around an image.
FRAME = 4
# Height of a line of text next to an image.
CAPTION = 18
# Space between two lines of a text.
SPACING = 3


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours of paper and text."""

    paper: Colour
    ink: Colour
    faint: Colour


LIGHT = Palette((255, 255, 255), (25, 25, 25), (120, 120, 120))
DARK = Palette((24, 26, 30), (236, 236, 232), (160, 164, 170))


class Canvas:
    """Picture to draw on.

    Args:
        size: width and height.
        palette: colours of paper and text.
        fineness: supersampling factor. Everything is drawn this much larger and shrunk at the end
            for smooth lines, because Pillow's own are jagged.
        transparent: layer without paper, to be pasted onto another canvas.
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
        """Write one or several lines.

        Args:
            place: position of the anchor.
            text: the lines.
            size: font size.
            colour: text colour; ink by default.
            width: maximum width; longer lines are cut.
            anchor: Pillow's anchor, for a single line; the upper left corner by default.
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
        """Draw an image, stretched to a size, with a frame around it.

        Args:
            place: upper left corner of the frame, or of an image without one.
            image: path, encoded bytes, PIL image or uint8 [h, w, 3].
            size: size of the image without the frame.
            frame: colour of the frame, `FRAME` pixels wide; None for no frame.

        Returns:
            The lower left corner, below which a caption can be placed.
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
        """Draw a line through two or more points."""
        fine = [self._fine(*point) for point in points]
        self._draw.line(fine, fill=colour, width=round(width * self._fineness), joint="curve")

    def dot(
        self, place: Place, radius: float, colour: Colour, *, outline: Colour | None = None
    ) -> None:
        """Draw a disk; its outline is as thin as the canvas can draw smoothly."""
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
        """Draw a rectangle up to, not including, its right and lower edges; outlined inside."""
        left, top, right, bottom = (value * self._fineness for value in box)
        box = left, top, right - 1, bottom - 1
        self._draw.rectangle(box, fill=fill, outline=outline, width=width * self._fineness)

    def paste(self, other: "Canvas", place: tuple[int, int] = (0, 0)) -> None:
        """Paste another canvas onto this one, which shows through transparent areas."""
        layer = other.picture()
        mask = layer if other._transparent else None
        self._image.paste(layer, self._fine(*place), mask)

    def picture(self) -> Image.Image:
        """Return the drawing as an RGB picture, or RGBA if the canvas is transparent."""
        if self._fineness == 1:
            return self._image
        # Lanczos is sharper, but overshoots at edges to transparency.
        method = Image.Resampling.BOX if self._transparent else Image.Resampling.LANCZOS
        return self._image.resize(self.size, method)

    def _fine(self, x: float, y: float) -> Place:
        return x * self._fineness, y * self._fineness


def frame_colour(right: bool | None) -> Colour:
    """Return the frame colour of a right or wrong image; None stands for unknown."""
    return PLAIN if right is None else RIGHT if right else WRONG


def grid(
    count: int, columns: int, step: tuple[int, int], origin: tuple[int, int] = (0, 0)
) -> list[tuple[int, int]]:
    """Return the upper left corners of `count` cells, row by row.

    Args:
        count: number of cells.
        columns: cells per row.
        step: distance to the next corner on the right and below.
        origin: first corner.
    """
    places = (divmod(number, columns) for number in range(count))
    return [(origin[0] + column * step[0], origin[1] + row * step[1]) for row, column in places]


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that comes with Pillow."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> float:
    """Return the width of a line in pixels."""
    return font(size).getlength(text)


def fitted(text: str, width: float, size: int) -> str:
    """Return a line, or its beginning and "…" if it is too wide."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def wrapped(text: str, width: float, size: int, lines: int) -> str:
    """Wrap a file name to at most `lines` lines; cut the last one if it is too wide."""
    result = []
    while len(result) < lines - 1 and text_width(text, size) > width:
        fits = sum(text_width(text[: end + 1], size) <= width for end in range(len(text)))
        result.append(text[: max(fits, 1)])
        text = text[max(fits, 1) :]
    return "\n".join([*result, fitted(text, width, size)])


def image_name(image: ImageSource) -> str:
    """Return the file name of an image, or "" if it is not from a file."""
    path = image if isinstance(image, str | os.PathLike) else getattr(image, "filename", "")
    return pathlib.PurePath(path).name


def save(picture: Image.Image, path: str | os.PathLike, *, colours: int = 0) -> None:
    """Write a PNG; an old file of that name is replaced only by a complete new one.

    With up to 256 `colours` (0: all), the file is about a third as large.
    """
    file = io.BytesIO()
    if colours:
        picture = picture.quantize(colours, dither=Image.Dither.NONE)
    picture.save(file, format="PNG")
    replace_file(place(path), file.getvalue())
