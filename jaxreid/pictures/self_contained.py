"""Self-contained pages: text, images as data URIs, digests of the style and script that may run."""

import base64
import hashlib
import html
import io

from PIL import Image

from jaxreid.data.images.pillow import ImageSource, read_image


def data_uri(
    image: ImageSource,
    largest: tuple[int, int],
    quality: int = 85,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> str:
    """Return an image as a JPEG in a data URI.

    Args:
        image: path, encoded bytes, PIL image or uint8 [h, w, 3].
        largest: width and height in pixels; larger images are shrunk to fit.
        quality: JPEG quality.
        resampling: filter for shrinking.
    """
    picture = Image.fromarray(read_image(image))
    picture.thumbnail(largest, resampling)
    picture.save(file := io.BytesIO(), format="JPEG", quality=quality)
    return f"data:image/jpeg;base64,{_base64(file.getvalue())}"


def csp_digest(text: str) -> str:
    """Return the source of a content security policy that allows this style or script alone."""
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def escaped(text: str) -> str:
    """Escape text for HTML; what UTF-8 or HTML cannot hold is replaced."""
    clean = "".join(c if c.isprintable() or c == " " else "\N{REPLACEMENT CHARACTER}" for c in text)
    return html.escape(clean.encode("utf-8", "replace").decode(), quote=True)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
