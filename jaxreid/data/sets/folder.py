"""Data sets in folders: finding the folder, listing its images, reporting missing ones.

Listing does not read images, so a wrong folder is reported at once.
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
    """Return the source of image files below a folder.

    The fingerprint changes with any path below the folder, file size or option. It misses changed
    content of exactly the same size: reading every image at every start would take longer than
    the rest of the start.

    The images of all records are paths below `root`. `published` gives (ids, images) of each split
    of the complete data set, `options` everything else that the records depend on.
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
    """Return the folder that holds all parts of a data set, which are folders themselves.

    `candidates` are paths below the user's folder to search, the first being ".".

    Raises:
        FileNotFoundError: the folder does not exist, or a part is missing; the message lists the
            content of the folder.
    """
    folder, parts = pathlib.Path(folder).expanduser(), list(parts)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {str(folder)!r} (from {os.getcwd()}); expected the folder of {title} that "
            f"holds {', '.join(parts)}, or its parent folder."
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
        f"{best} is not a complete {title}: {', '.join(missing)} missing; it holds {listing}. "
        f"Expected the folders {', '.join(parts)}, in the given folder or in one of its "
        f"subfolders {', '.join(candidates[1:])}. {UNPACK_AGAIN}"
    )


def list_images(folder: pathlib.Path) -> list[os.DirEntry]:
    """Return image files sorted by code point, independent of locale and file system."""
    with os.scandir(folder) as entries:
        # macOS leaves files such as "._0001_c1s1_..." in archives.
        kept = [
            entry
            for entry in entries
            if not entry.name.startswith(".") and entry.name.lower().endswith(IMAGE_SUFFIXES)
        ]
    return sorted(kept, key=lambda entry: entry.name)


def check_image(path: str | os.PathLike) -> None:
    """Decode a whole image file, so that a broken one is found now and not during a run.

    Raises:
        ValueError: the file is not an image, or is truncated.
    """
    try:
        with Image.open(path) as image:
            image.load()
    # Pillow raises all three on broken files.
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{path}: broken image ({error}). Unpack the data set's archive again, download the "
            "archive again if the image is broken in it, or remove the file."
        ) from error


def _difference(
    name: str,
    root: pathlib.Path,
    splits: Mapping[str, Sequence[Record]],
    published: Mapping[str, tuple[int, int]],
) -> str | None:
    """Describe in one line how sizes differ from the published ones; None if they do not."""
    sizes = {s: (len({r.pid for r in records}), len(records)) for s, records in splits.items()}
    if sizes == published:
        return None
    differences = ", ".join(
        f"{split} {e[0]:,} ids / {e[1]:,} images, found {f[0]:,} / {f[1]:,}"
        for (split, e), f in zip(published.items(), sizes.values(), strict=True)
        if f != e
    )
    return (
        f"{name} in {root}: expected {differences}. This is not the complete data set: "
        "results on it are not comparable with published ones."
    )
