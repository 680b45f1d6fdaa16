"""Data sets in folders: finding the folder, listing its images, reporting missing ones.

Listing does not read images, so a wrong folder is reported at once.
"""

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from jaxreid.data.images.formats import SUFFIXES
from jaxreid.data.images.pillow import check_file
from jaxreid.data.sets.digests import digests_of
from jaxreid.data.sets.source import Record, Source, short_digest
from jaxreid.places import expanded

# Files and folders beside images that systems and data sets leave behind.
_LEFT_BEHIND = (".txt", ".md", ".csv", ".json", ".xml", ".mat", ".db", ".ini", ".html", ".log")
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
UNPACK_AGAIN = "Unpack the data set's archive again, or give another folder."


def folder_source(
    name: str,
    root: pathlib.Path,
    splits: Mapping[str, Sequence[Record]],
    *,
    published: Mapping[str, tuple[int, int]],
    options: Mapping[str, str],
    notices: Sequence[str] = (),
    description: str = "",
    citation: str = "",
) -> Source:
    """Return the source of image files below a folder.

    The fingerprint changes with any path below the folder, byte of a file or option.

    The images of all records are paths below `root`. `published` gives (ids, images) of each split
    of the complete data set, `options` everything else that the records depend on, and `notices`
    further warnings.

    Raises:
        OSError: a file cannot be read.
    """
    paths = [record.image for records in splits.values() for record in records]
    lines = [
        f"{path.relative_to(root).as_posix()} {digest}"
        for path, digest in zip(paths, digests_of(paths, root), strict=True)
    ]
    fingerprint = short_digest([*(f"{key}={value}" for key, value in options.items()), *lines])
    missing = _difference(name, root, splits, published)
    return Source(
        name=name,
        config="-".join([*options.values(), fingerprint]),
        fingerprint=fingerprint,
        splits=splits,
        notices=(*([missing] if missing else []), *notices),
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
    folder, parts = expanded(folder), list(parts)
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


def list_images(folder: pathlib.Path) -> tuple[list[os.DirEntry], str]:
    """List the image files of a folder, and say what else is in it.

    Returns:
        Files by suffix (`formats.SUFFIXES`), sorted by code point, independent of locale and file
        system; and a sentence about files and folders that are left out, "" without any.
    """
    kept, files, folders = [], [], {}
    with os.scandir(folder) as entries:
        # macOS leaves files such as "._0001_c1s1_..." in archives.
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith(".") or entry.name in _SYSTEM_FOLDERS:
                continue
            if entry.is_dir():
                if count := _count_images(entry.path):
                    folders[entry.name] = count
            elif entry.name.lower().endswith(SUFFIXES):
                kept.append(entry)
            elif not entry.name.lower().endswith(_LEFT_BEHIND):
                files.append(entry.name)
    parts = []
    if folders:
        parts.append(
            "images in subfolders are not read, move them up: "
            f"{sum(folders.values())} ({some(folders)})"
        )
    if files:
        parts.append(
            "files of other formats are not read, convert images to JPEG or PNG: "
            f"{len(files)} ({some(files)})"
        )
    return kept, f"{folder}: {'; '.join(parts)}." if parts else ""


def some(names: Iterable[str], count: int = 3) -> str:
    """Return the first names, for messages."""
    names = list(names)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def check_image(
    image: str | os.PathLike | bytes,
    name: str = "",
    agrees: Callable[[bytes, np.ndarray], bool] | None = None,
) -> tuple[bytes, str, tuple[int, int]]:
    """Decode a whole image, so that a broken one is found now and not during a run.

    Args:
        image: path of an image file, or its bytes.
        name: name for the message; by default the path.
        agrees: whether another decoder gives the same pixels for a plain file.

    Returns:
        The bytes of the file, how it is not plain (`formats.peculiarity`), and its height and
        width.

    Raises:
        ValueError: the file cannot be read, is not an image, or is truncated.
    """
    try:
        data = image if isinstance(image, bytes) else pathlib.Path(image).read_bytes()
        pixels, kind = check_file(data)
        if not kind and agrees is not None and not agrees(data, pixels):
            raise ValueError("damaged, so that decoders differ")
        return data, kind, pixels.shape[:2]
    except OSError as error:
        raise ValueError(f"{name or image}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(
            f"{name or image}: broken image ({error}). Unpack the data set's archive again, "
            "download it again if the image is broken in it, or remove the file."
        ) from error


def _count_images(folder: str) -> int:
    walk = (files for _, _, files in os.walk(folder))
    return sum(name.lower().endswith(SUFFIXES) for files in walk for name in files)


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
