"""Images that a request brings, as the model's pixels. Nothing here opens a path."""

import dataclasses
from typing import Any

import numpy as np

from jaxreid.data.images.formats import open_image
from jaxreid.data.images.pillow import read_image, resize
from jaxreid.index.additions import digest_of
from jaxreid.service.limits import Limits, Refused

# Of the formats that the package reads, those that cameras and browsers write.
TYPES = ("JPEG", "MPO", "PNG", "WEBP", "BMP")
_EXPECTED = "expected JPEG, PNG, WebP or BMP"
_LONGEST_NAME = 120


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """Image of a request.

    Attributes:
        name: name for messages; never opened.
        pixels: uint8 [height, width, 3] of the model's size.
        size: height and width of the image.
        digest: digest of the file, as in an index.
    """

    name: str
    pixels: np.ndarray
    size: tuple[int, int]
    digest: str


def read_photo(content: bytes, name: str, model: Any, limits: Limits) -> Photo:
    """Decode the bytes of an image file, and resize it for a model.

    Args:
        content: the bytes.
        name: name for messages.
        model: has height, width and interpolation.
        limits: largest number of pixels.

    Raises:
        Refused: as `decode`.
    """
    return photo_of(decode(content, name, limits), name, digest_of(content), model)


def photo_of(pixels: np.ndarray, name: str, digest: str, model: Any) -> Photo:
    """Return a decoded image, uint8 [h, w, 3], as a photo of a model's size."""
    small = resize(pixels, model.height, model.width, model.interpolation)
    return Photo(name, small, pixels.shape[:2], digest)


def decode(content: bytes, name: str, limits: Limits) -> np.ndarray:
    """Decode the bytes of an image file; return uint8 [h, w, 3].

    Raises:
        Refused: 413 for too many pixels, 415 for another type, 422 for a broken image.
    """
    if not content:
        raise Refused(422, f"{name} is empty; {_EXPECTED}.")
    try:
        image = open_image(content)
    except ValueError as error:
        status = 413 if "pixels" in str(error) else 415
        raise Refused(status, f"{name}: {error}; {_EXPECTED}.") from None
    except Exception as error:
        # Pillow's readers of headers raise anything.
        raise Refused(422, f"{name} is a broken image ({type(error).__name__}).") from None
    if image.format not in TYPES:
        raise Refused(415, f"{name} is {image.format}; {_EXPECTED}.")
    if image.width * image.height > limits.pixels:
        raise Refused(
            413,
            f"{name} has {image.width} x {image.height} pixels; expected at most "
            f"{limits.pixels:,}.",
        )
    try:
        return read_image(content, name)
    except (ValueError, MemoryError) as error:
        raise Refused(422, f"{error}.") from None


def clean_name(name: str | None, number: int) -> str:
    """Return the last part of a file's name, as one short line of printable text."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in last).strip()
    return text[:_LONGEST_NAME] or f"image {number + 1}"
