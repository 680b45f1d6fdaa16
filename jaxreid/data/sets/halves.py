"""The protocol of small data sets: half of the people train, the others are queries and gallery.

Papers draw the halves ten times and report means, but rarely publish their draws. Those made here
are this library's own, the same on every machine. Others can be read from the file of splits that
torchreid leaves beside a data set.
"""

import json
import os
from collections.abc import Callable, Collection, Sequence
from typing import cast

from jaxreid.data.sets.draws import shuffled
from jaxreid.data.sets.files import some
from jaxreid.data.sets.source import Record, short_digest
from jaxreid.places import expanded

# Everybody is tested: for models that were trained elsewhere.
ALL = "all"

_DRAWS = 10
_PARTS = ("train", "query", "gallery")

Divided = dict[str, list[Record]]


def from_first_camera(record: Record) -> str:
    """Return the split of a tested person's image: queries are from camera 0."""
    return "query" if record.camid == 0 else "gallery"


def half_split(
    name: str,
    records: Sequence[Record],
    split: int | str,
    file: str | os.PathLike | None = None,
    *,
    test_part: Callable[[Record], str] = from_first_camera,
    distractors: Collection[int] = (),
) -> tuple[Divided, dict[str, str]]:
    """Divide a data set by a draw, or by a file of splits.

    Args:
        name: of the data set; each has its own draws.
        records: all images.
        split: number of the draw, 0 to 9, or "all" to test everybody; in a file, number of the
            split from 0.
        file: torchreid's splits.json, which replaces the draws and `test_part`.
        test_part: split of a tested person's image: "query", "gallery", or "" for neither.
        distractors: person ids that are nobody to learn.

    Returns:
        Records by split, and the options for `files.folder_source`.

    Raises:
        FileNotFoundError: `file` does not exist.
        ValueError: `split` is out of range, or `file` does not fit the records.
    """
    if file is not None:
        divided = listed_split(file, split, records)
        lines = [f"{part} {r.name}" for part, those in divided.items() for r in those]
        return divided, {"split": f"split{split}", "splits": short_digest(lines)}
    check_split(name, split)
    people = {record.pid for record in records} - set(distractors)
    # The key is a word, so that 3 and NumPy's 3 are the same draw.
    trained = [] if split == ALL else shuffled(people, name, str(split))[: len(people) // 2]
    return divide(records, trained, test_part), {"split": f"split{split}"}


def divide(
    records: Sequence[Record],
    trained: Collection[int],
    test_part: Callable[[Record], str] = from_first_camera,
) -> Divided:
    """Divide images by the people who train; splits without images are left out."""
    trained = frozenset(trained)
    parts = ["train" if record.pid in trained else test_part(record) for record in records]
    divided = {p: [r for r, own in zip(records, parts, strict=True) if own == p] for p in _PARTS}
    return {part: those for part, those in divided.items() if those}


def check_split(name: str, split: int | str, more: str = "") -> None:
    """Raise ValueError unless `split` is 0 to 9 or "all"; `more` ends the message."""
    if isinstance(split, bool) or split not in (*range(_DRAWS), ALL):
        raise ValueError(
            f"{name}?split={split}: expected a split from 0 to {_DRAWS - 1}, or {ALL} to test "
            f"everybody.{more}"
        )


def listed_split(file: str | os.PathLike, split: int | str, records: Sequence[Record]) -> Divided:
    """Divide images as a file lists them: torchreid's splits.json.

    The file is a list of `{"train": [[path, pid, camid], ...], "query": ..., "gallery": ...}` with
    absolute paths, usually of another machine. Images are recognised by the end of their path;
    person and camera come from their own names.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another content, lacks this split, or lists other images.
    """
    path = expanded(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {str(path)!r} (from {os.getcwd()}); expected the splits.json of torchreid."
        )
    try:
        listed = [
            {part: [str(image).replace("\\", "/") for image, *_ in held[part]] for part in _PARTS}
            for held in json.loads(path.read_bytes())
        ]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a file of splits ({type(error).__name__}: {error}); expected a list "
            f"of {', '.join(_PARTS)} with paths of images, as in the splits.json of torchreid."
        ) from error
    if isinstance(split, bool) or split not in range(len(listed)):
        raise ValueError(
            f"split={split}: {path} has {len(listed)} splits; expected 0 to {len(listed) - 1}."
        )
    known = {record.name: record for record in records}
    # All names of a data set have the same number of folders.
    depth = 1 + records[0].name.count("/")
    ends = {
        part: ["/".join(image.split("/")[-depth:]) for image in images]
        for part, images in listed[cast("int", split)].items()
    }
    if missing := [end for part in _PARTS for end in ends[part] if end not in known]:
        raise ValueError(
            f"{path} lists images that are not in the folder: {len(missing)} ({some(missing)}). "
            "Expected the splits of this data set, and the complete data set."
        )
    return {
        part: [known[end] for end in dict.fromkeys(those)] for part, those in ends.items() if those
    }
