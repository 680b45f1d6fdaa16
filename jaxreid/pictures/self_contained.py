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


def whole_page(title: str, body: str, *, style: str, script: str = "") -> str:
    """Return an HTML page that runs its own style and script alone, and asks no other host.

    Args:
        title: any text.
        body: HTML.
        style: style sheet.
        script: of the end of the body; "" for none.
    """
    policy = f"default-src 'none'; img-src data:; style-src {csp_digest(style)}; "
    policy += f"script-src {csp_digest(script)}; " if script else ""
    policy += "base-uri 'none'; form-action 'none'"
    end = f"<script>{script}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="generator" content="jaxreid">
<meta name="referrer" content="no-referrer">
<meta name="robots" content="noindex">
<title>{escaped(title)}</title>
<style>{style}</style>
</head>
<body>
{body.strip()}
{end}</body>
</html>
"""


def csp_digest(text: str) -> str:
    """Return the source of a content security policy that allows this style or script alone."""
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def escaped(text: str) -> str:
    """Escape text for HTML; characters that UTF-8 or HTML cannot hold are replaced."""
    clean = "".join(c if c.isprintable() or c == " " else "\N{REPLACEMENT CHARACTER}" for c in text)
    return html.escape(clean.encode("utf-8", "replace").decode(), quote=True)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
