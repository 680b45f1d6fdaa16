"""Image files: the accepted formats, and the one rule by which they become RGB.

Whatever reads an image (training, evaluation, pictures, Python) sees what `to_rgb` returns. Plain
files are those that TensorFlow decodes to the same bytes; training decodes them itself and leaves
all others to this module. Pillow only.
"""

import io
import struct

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from jaxreid.contents import HEAD, content_of

# By content, whatever the suffix; none that runs other programs (EPS) or has layers.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Suffixes of these formats, for the images of a folder.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif"),
)
# Larger images are refused before they are decoded: 268 MB of pixels.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
# Bits that the values of a 16-bit grey image may use: 8 and 12 bits are not stretched by cameras.
_BITS = (8, 12, 16)
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_PLAIN_MODES = {
    "JPEG": ("L", "RGB"),
    "MPO": ("L", "RGB"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
}
# One of these is in every JPEG and PNG file that could say how it has to be turned.
_MAY_BE_TURNED = (b"Exif", b"eXIf", b"exif", b"xmp", b"ns.adobe.com/xap")
_BAD_EXIF = (
    SyntaxError,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    OSError,
    ArithmeticError,
)


def open_image(data: bytes) -> Image.Image:
    """Open an image file of an accepted format without decoding it.

    Raises:
        ValueError: not an image, another format, or more than `MAX_PIXELS`.
    """
    # Looks up formats that this Pillow was built without.
    Image.init()
    try:
        image = Image.open(io.BytesIO(data), formats=[f for f in FORMATS if f in Image.OPEN])
    except UnidentifiedImageError as error:
        content = content_of(data[:HEAD], len(data))
        if not content or content.endswith(" image"):
            raise ValueError("not an image, or an unknown format") from error
        raise ValueError(f"not an image: the file is {content}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"more than {2 * MAX_PIXELS:,} pixels; expected at most {MAX_PIXELS:,}"
        ) from error
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels; expected at most {MAX_PIXELS:,}")
    return image


def to_rgb(image: Image.Image) -> np.ndarray:
    """Return an opened image as RGB, as a viewer shows it.

    The first frame of an animation, turned as its EXIF orientation says. Grey, palette and CMYK
    images become RGB, and an alpha channel is dropped. 16-bit grey images are scaled to 8 bits:
    from 8, 12 or 16 bits, whichever hold their largest value. Of 16-bit colours the upper 8 bits
    are read.

    Returns:
        uint8 [h, w, 3] in 0..255.

    Raises:
        ValueError, OSError, SyntaxError: the image is broken, or its pixels are not of 8 or 16
            bits.
    """
    wide = _is_wide(image)
    image.load()
    if _orientation(image) > 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in _WIDE:
        return _to_8_bits(np.asarray(image))[..., None].repeat(3, axis=-1)
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers; expected 8 or 16 bits per channel")
    if "transparency" in image.info:
        # Pillow would warn that it is dropped.
        image = image.copy()
        del image.info["transparency"]
    pixels = np.asarray(image.convert("RGB"))
    if wide and 0 < pixels.max() < 16:
        raise ValueError(
            "16-bit colours that use at most 12 bits, which would be nearly black; expected 8 bits "
            "per channel"
        )
    return pixels


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width as `to_rgb` returns them, without decoding."""
    width, height = image.size
    # Orientations from 5 on swap the sides.
    return (width, height) if _orientation(image) > 4 else (height, width)


def peculiarity(image: Image.Image, data: bytes) -> str:
    """Describe what TensorFlow decodes differently; "" for a plain file.

    Args:
        image: result of `open_image`, not decoded yet.
        data: the bytes of the file.
    """
    if image.format not in _PLAIN_MODES:
        return f"{image.format} image"
    if image.mode in _WIDE or _is_wide(image):
        return "16-bit image, reduced to 8 bits"
    if image.mode not in _PLAIN_MODES[image.format]:
        return f"{image.mode} image, converted to RGB"
    if any(tag in data for tag in _MAY_BE_TURNED) and _orientation(image) > 1:
        return "image turned by its EXIF orientation"
    return ""


def is_plain(data: bytes) -> bool:
    """Return whether TensorFlow decodes an image file to the bytes of `to_rgb`.

    Only the header is read. Broken files are not plain.
    """
    try:
        return not peculiarity(open_image(data), data)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _is_wide(image: Image.Image) -> bool:
    """Return whether an image that is not decoded yet has 16 bits per channel."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # As viewers do, ignore EXIF data that cannot be read.
    except _BAD_EXIF:
        return 1


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 2**16:
        raise ValueError(f"grey values of {low} to {high}; expected 8 or 16 bits per pixel")
    bits = next(bits for bits in _BITS if high < 2**bits)
    return np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)
