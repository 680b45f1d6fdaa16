"""Data sets in folders: finding the folder, listing its images, and noticing what is missing.

Listing a folder reads no image, so a wrong folder is found in a moment.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

from jaxreid.data.sets.source import Record, Source, short_digest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

UNPACK_AGAIN = "Unpack the data set's archive again, or give another folder."


def folder_source(
    name: str,
    root: pathlib.Path,
    splits: Mapping[str, Sequence[Record]],
    *,
    published: Mapping[str, tuple[int, int]],
    options: Mapping[str, str],
    description: str = "",
    citation: str = "",
) -> Source:
    """Returns the source of image files below a folder.

    Its fingerprint changes with a path below the folder, the size of a file, or an option. Changed
    content of exactly the same size goes unseen: reading every image at every start would take
    longer than the rest of it.

    Args:
        name: name of the data set.
        root: folder that holds the images.
        splits: records by split, whose images are paths.
        published: (ids, images) of each split of the whole data set.
        options: everything else that decides about the records.
        description: as for `Source`.
        citation: as for `Source`.
    """
    paths = [record.image for records in splits.values() for record in records]
    lines = [f"{path.relative_to(root).as_posix()} {path.stat().st_size}" for path in paths]
    fingerprint = short_digest([*(f"{key}={value}" for key, value in options.items()), *lines])
    missing = _difference(name, root, splits, published)
    return Source(
        name=name,
        config="-".join([*options.values(), fingerprint]),
        fingerprint=fingerprint,
        splits=splits,
        notices=(missing,) if missing else (),
        description=description,
        citation=citation,
    )


def find_root(
    folder: str | os.PathLike, title: str, candidates: Sequence[str], parts: Iterable[str]
) -> pathlib.Path:
    """Returns the folder that holds all parts of a data set.

    Args:
        folder: folder that the user gave.
        title: name of the data set for messages.
        candidates: places below the folder to look in, from "." on.
        parts: folders that must be there.

    Raises:
        FileNotFoundError: no such folder, or a part is missing; says what is there.
    """
    folder, parts = pathlib.Path(folder).expanduser(), list(parts)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {str(folder)!r} (from {os.getcwd()}); expected the folder of {title} with "
            f"{', '.join(parts)} in it, or the one above."
        )
    best, missing = folder, parts
    for candidate in candidates:
        root = folder / candidate
        absent = [part for part in parts if not (root / part).is_dir()]
        if not absent:
            return root
        if len(absent) < len(missing):
            best, missing = root, absent
    held = sorted(entry.name for entry in os.scandir(best))
    listing = ", ".join(held[:8]) + (", ..." if len(held) > 8 else "") if held else "nothing"
    raise FileNotFoundError(
        f"{best} is not complete as {title}: {', '.join(missing)} missing; it holds {listing}. "
        f"Expected the folders {', '.join(parts)}, in the folder given or below it in one of "
        f"{', '.join(candidates[1:])}. {UNPACK_AGAIN}"
    )


def list_images(folder: pathlib.Path) -> list[os.DirEntry]:
    """Image files sorted by code point, so that no locale and no file system changes the order."""
    with os.scandir(folder) as entries:
        # "._0001_c1s1_..." is what macOS leaves in archives; Thumbs.db has another suffix
        kept = [
            entry
            for entry in entries
            if not entry.name.startswith(".") and entry.name.lower().endswith(IMAGE_SUFFIXES)
        ]
    return sorted(kept, key=lambda entry: entry.name)


def check_image(path: str | os.PathLike) -> None:
    """Decodes a whole image file, so that a broken one is found now and not in the middle of a run.

    Raises:
        ValueError: the file is not an image, or only a part of one.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on broken files
        raise ValueError(
            f"{path}: broken image ({error}). Unpack the data set's archive again, or fetch the "
            "archive again if it is broken in there, or remove the file."
        ) from error


def _difference(
    name: str,
    root: pathlib.Path,
    splits: Mapping[str, Sequence[Record]],
    published: Mapping[str, tuple[int, int]],
) -> str | None:
    """Says in one line how sizes differ from the published ones; None if they do not."""
    sizes = {s: (len({r.pid for r in records}), len(records)) for s, records in splits.items()}
    if sizes == published:
        return None
    differences = ", ".join(
        f"{split} {e[0]:,} ids / {e[1]:,} images, found {f[0]:,} / {f[1]:,}"
        for (split, e), f in zip(published.items(), sizes.values(), strict=True)
        if f != e
    )
    return (
        f"{name} in {root}: expected {differences}. This is not the whole data set: "
        "results on it do not compare with published ones."
    )
