"""Models that come with the package."""

import os
import pathlib

from jaxreid.places import place

FOLDER = pathlib.Path(__file__).resolve().parent / "bundled"
# `drawn`: trained on drawn people alone; docs/drawn.md.
NAMES = ("drawn",)


def located(path: str | os.PathLike) -> pathlib.Path:
    """Return the place of a model: a path, or the file of a bundled one that is named.

    A file or folder of that name in the current folder goes first.
    """
    location = place(path)
    if str(path) in NAMES and not location.exists():
        return FOLDER / f"{path}.safetensors"
    return location
