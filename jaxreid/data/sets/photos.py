"""Photos of a folder, a table or a data set, undivided, with the names of people and cameras."""

import os
from collections.abc import Sequence

from jaxreid.data import sets
from jaxreid.data.images.on_disk import ImageFiles
from jaxreid.data.sets import folder, table
from jaxreid.data.sets.division import Photo
from jaxreid.data.sets.resolving import named_set
from jaxreid.names import check_name
from jaxreid.places import expanded

# Options by data set, and those that only divide the images.
_OPTIONS = {"folder": ("pattern", "fps"), "table": ()}
_OF_SPLITS = ("split", "seed", "combine_all", "tested")


def photos_at(place: str | os.PathLike) -> tuple[list[Photo], list[str]]:
    """Return the photos at a place, but those marked as junk (person -1), and notices.

    Args:
        place: a folder or a table (`table.SUFFIXES`), or the name of a data set with its place and
            options (folder:DIR?pattern={camid}_t{time}_f*). People need not be known.

    Raises:
        FileNotFoundError, ValueError: as the data set; or its images are not in files.
    """
    text = os.fspath(place)
    path = expanded(text)
    if path.is_dir():
        _, photos, notices = folder.read_photos(path, split="none")
    elif path.suffix.lower() in table.SUFFIXES and (path.is_file() or ":" not in text):
        _, photos, notices = table.read_photos(path, need_person=False)
    else:
        named = named_set(text)
        if named.base in _OPTIONS and named.place:
            options = {k: v for k, v in named.options if k not in _OF_SPLITS}
            for option in options:
                check_name(option, _OPTIONS[named.base], f"option of {named.base}")
            if named.base == "folder":
                options["pattern"] = str(options.get("pattern", ""))
                _, photos, notices = folder.read_photos(named.place, split="none", **options)
            else:
                _, photos, notices = table.read_photos(named.place, need_person=False)
        elif ":" not in text and named.base not in sets.SETS.names:
            raise FileNotFoundError(
                f"no folder or table {text!r} (from {os.getcwd()}); expected the place of your "
                "images, or the name of a data set, as in market1501:/data/market."
            )
        else:
            photos, notices = _of_splits(text), []
    return [photo for photo in photos if photo.person != "-1"], notices


def _of_splits(name: str) -> list[Photo]:
    photos = []
    for split in sets.load(name).values():
        if not isinstance(split.image, ImageFiles):
            raise ValueError(f"{name}: its images are not in files; expected a folder or table.")
        rows: Sequence = (split.image.paths, split.name, split.pid, split.camid, split.time)
        for path, title, pid, camid, time in zip(*rows, strict=True):
            person = str(pid) if pid > 0 else ""
            camera = str(camid + 1) if camid >= 0 else ""
            photos.append(Photo(expanded(path), title, person, camera, float(time)))
    return photos
