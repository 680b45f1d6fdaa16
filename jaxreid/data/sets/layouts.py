"""Two layouts of small data sets: one folder for all images, and one folder for each camera."""

import os
import pathlib
import re
from collections.abc import Sequence

from jaxreid.data.images.formats import SUFFIXES
from jaxreid.data.sets.files import UNPACK_AGAIN, read_names, some
from jaxreid.data.sets.source import Record
from jaxreid.places import expanded


def find_images(folder: str | os.PathLike, title: str, places: Sequence[str]) -> pathlib.Path:
    """Return the first of the places below the user's folder that itself holds images.

    Raises:
        FileNotFoundError: the folder does not exist, or none of the places holds images; the
            message lists the content of the folder.
    """
    folder = expanded(folder)
    for place in places:
        if _holds_images(folder / place):
            return folder / place
    if folder.is_dir():
        held = some(sorted(os.listdir(folder)), 8) or "nothing"
        state = f"{folder} is not {title}: it holds {held}"
    else:
        state = f"no folder {str(folder)!r} (from {os.getcwd()})"
    raise FileNotFoundError(
        f"{state}. Expected the images of {title}, in the given folder or in one of its subfolders "
        f"{some((place for place in places if place != '.'), 4)}. {UNPACK_AGAIN}"
    )


def camera_records(
    root: pathlib.Path, folders: Sequence[str], pattern: re.Pattern, title: str, example: str
) -> tuple[list[Record], list[str]]:
    """Read a data set with a folder for each camera.

    Args:
        root: folder of the data set.
        folders: of the cameras, below `root`; `camid` is the place in this list.
        pattern: pattern of whole names, with a group "pid".
        title: of the data set, for messages.
        example: a name with its fields.

    Returns:
        Records named by folder and file ("cam_a/000_45.bmp"), with unknown times; and sentences
        about what else is in the folders.

    Raises:
        ValueError: a name is unlike the pattern, or a folder holds no images.
    """
    found, left_out = read_names(root, {part: part for part in folders}, pattern, title, example)
    records = [
        Record(image=file.path, name=f"{part}/{file.name}", pid=int(match["pid"]), camid=camid)
        for camid, (part, images) in enumerate(found.items())
        for file, match in images
    ]
    return records, left_out


def _holds_images(folder: pathlib.Path) -> bool:
    # macOS leaves files such as "._0001.jpg" in archives.
    return folder.is_dir() and any(
        name.lower().endswith(SUFFIXES) and not name.startswith(".") for name in os.listdir(folder)
    )
