"""Data sets in folders: finding the folder, listing its images, reading their names.

Listing does not read images, so a wrong folder is reported at once.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import cast

import numpy as np

from jaxreid.data.images.formats import SUFFIXES
from jaxreid.data.images.pillow import check_file
from jaxreid.data.sets.digests import digests_of
from jaxreid.data.sets.source import Record, Source, short_digest
from jaxreid.places import expanded

# Files and folders beside images that systems and data sets leave behind.
_LEFT_BEHIND = (".txt", ".md", ".csv", ".json", ".xml", ".mat", ".db", ".ini", ".html", ".log")
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
UNPACK_AGAIN = "Unpack the data set's archive again, or give another folder."


def folder_source(
    name: str,
    root: pathlib.Path,
    splits: Mapping[str, Sequence[Record]],
    *,
    published: Mapping[str, tuple[int, int]] | None = None,
    options: Mapping[str, str] | None = None,
    combine_all: bool = False,
    distractors: Collection[int] = (),
    test_pids_from: int = 0,
    notices: Sequence[str] = (),
    description: str = "",
    citation: str = "",
) -> Source:
    """Return the source of image files below a folder.

    The fingerprint changes with any path below the folder, byte of a file or option.

    Args:
        name: of the data set.
        root: folder that holds the images of all records.
        splits: records by split; their images are paths below `root`.
        published: (ids, images) of each split of the complete data set, as far as they are known.
        options: everything else that the records depend on.
        combine_all: train on the images of all splits, as the papers do that name a data set
            "(all)"; names in the training split then begin with the name of their split.
        distractors: person ids that are nobody to learn.
        test_pids_from: offset of the person ids of the other splits, if they start anew.
        notices: further warnings.
        description: paragraph for the prepared copy.
        citation: BibTeX for the prepared copy.

    Raises:
        OSError: a file cannot be read.
    """
    options = dict(options or {})
    images = [record.image for records in splits.values() for record in records]
    paths = cast("list[str | pathlib.Path]", images)
    digests = dict(zip(paths, digests_of(paths, root), strict=True))
    # `relative_to` would take longer than all else, with many files.
    start = len(os.path.join(root, ""))
    lines = [f"{os.fspath(path)[start:].replace(os.sep, '/')} {d}" for path, d in digests.items()]
    missing = _difference(name, root, splits, published or {})
    if combine_all:
        splits = _combined(splits, distractors, test_pids_from)
        options["combine_all"] = "all"
    fingerprint = short_digest([*(f"{key}={value}" for key, value in options.items()), *lines])
    return Source(
        name=name,
        config="-".join([*options.values(), fingerprint]),
        fingerprint=fingerprint,
        splits=splits,
        digests=digests,
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
    """List the image files of a folder, and describe what else is in it.

    Returns:
        Files by suffix (`formats.SUFFIXES`), sorted by code point, independent of locale and file
        system; and a sentence about files and folders that are left out, "" without any.
    """
    kept, files, folders = [], [], {}
    with os.scandir(folder) as entries:
        # macOS leaves files such as "._0001_c1s1_..." in archives.
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS:
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


def read_names(
    root: pathlib.Path, parts: Mapping[str, str], pattern: re.Pattern, title: str, example: str
) -> tuple[dict[str, list[tuple[os.DirEntry, re.Match]]], list[str]]:
    """List the images in the folders of a data set, and parse their names.

    Args:
        root: folder of the data set.
        parts: folder below `root` of each split.
        pattern: pattern of whole names, with a group "pid"; -1 is junk and left out.
        title: of the data set, for messages.
        example: a name with its fields: "0001_c1.jpg (pid, camera from 1)".

    Returns:
        Images by split, and sentences about what else is in the folders.

    Raises:
        ValueError: a name is unlike the pattern, or a folder holds no images.
    """
    found, left_out = {}, []
    for split, part in parts.items():
        entries, sentence = list_images(root / part)
        left_out += [sentence] if sentence else []
        # Match the whole bare name: a search in the path would take a folder "exp2_c3" for a
        # camera.
        matches = [(entry, pattern.fullmatch(entry.name)) for entry in entries]
        if unknown := [entry.name for entry, match in matches if match is None]:
            raise ValueError(
                f"{root / part / unknown[0]}: not a {title} file name; expected one like "
                f"{example}. Rename the file, or move it out of the folder."
                + (f" {len(unknown)} of {len(entries)} names: {some(unknown)}." * bool(unknown[1:]))
            )
        found[split] = [(e, match) for e, match in matches if match and match["pid"] != "-1"]
    for split, images in found.items():
        if not images:
            raise ValueError(
                f"{root / parts[split]} holds no images (.jpg, .png, ...; pid -1 is junk); "
                f"expected the images of the {split} split. {' '.join([*left_out, UNPACK_AGAIN])}"
            )
    return found, left_out


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
        shown = name or str(image)
        raise ValueError(f"{shown}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        shown = name or str(image)
        raise ValueError(
            f"{shown}: broken image ({error}). Unpack the data set's archive again, "
            "download it again if the image is broken in it, or remove the file."
        ) from error


def _combined(
    splits: Mapping[str, Sequence[Record]], distractors: Collection[int], offset: int
) -> dict[str, Sequence[Record]]:
    """Return the splits with the people of all of them in the training split."""
    train = tuple(
        dataclasses.replace(
            record,
            name=f"{split}/{record.name}",
            pid=record.pid + (offset if split != "train" else 0),
        )
        for split, records in splits.items()
        for record in records
        if record.pid not in distractors
    )
    return {**splits, "train": train}


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
    sizes = {split: size for split, size in sizes.items() if split in published}
    if sizes == published:
        return None
    differences = ", ".join(
        f"{split} {e[0]:,} ids / {e[1]:,} images, found {f[0]:,} / {f[1]:,}"
        for split, e in published.items()
        if (f := sizes.get(split, (0, 0))) != e
    )
    return (
        f"{name} in {root}: expected {differences}. This is not the complete data set: "
        "results on it are not comparable with published ones."
    )
