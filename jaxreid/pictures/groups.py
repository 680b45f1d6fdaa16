"""A page to correct groups of images: one self-contained HTML file, without a network.

Pictures are dragged between people, people renamed, and the result saved as a table.
"""

import hashlib
import importlib.resources
import json
import math
from collections.abc import Sequence
from typing import Any

from PIL import Image

from jaxreid.data.images.pillow import ImageSource
from jaxreid.pictures.self_contained import data_uri

# Largest width and height in pixels of a thumbnail, and its JPEG quality.
LARGEST, QUALITY = (224, 112), 78


def groups_page(
    images: Sequence[ImageSource],
    people: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    *,
    how: str,
) -> str:
    """Return the page.

    Args:
        images: N images.
        people: of each group "name", and "near", the index of the most similar other one or None,
            with "alike", its similarity in words.
        rows: of each image "group", an index of `people`; "path", "name" and "camera"; "time" in
            seconds, NaN where unknown; "doubt", whether to mark it; "title", shown on hover.
        how: how the images were grouped, for the heading.
    """
    shown = [
        {
            **{name: row[name] for name in ("group", "path", "name", "camera", "title")},
            "time": "" if math.isnan(row["time"]) else f"{row['time']:.3f}",
            "clock": "" if math.isnan(row["time"]) else _clock(row["time"]),
            "doubt": bool(row["doubt"]),
            "src": data_uri(image, LARGEST, QUALITY, Image.Resampling.BICUBIC),
        }
        for image, row in zip(images, rows, strict=True)
    ]
    names = "\n".join(f"{row['path']} {row['group']}" for row in rows)
    data = {
        "digest": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:16],
        "how": how,
        "people": list(people),
        "images": shown,
    }
    # Nothing in the data can end the script that holds it.
    text = json.dumps(data).replace("<", "\\u003c")
    page = importlib.resources.files("jaxreid.pictures").joinpath("groups.html")
    return page.read_text(encoding="utf-8").replace("@DATA@", text)


def _clock(seconds: float) -> str:
    """Return the time of day, or minutes on a clock that starts with the cameras."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours % 24}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
