"""Data sets before reading: their records and their fingerprint.

The function of a data set checks its folder and options and returns a `Source`. `load` reads it
into memory, through a prepared copy where TFDS is installed.
"""

import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from jaxreid.data.split import Split

# `Split` and prepared copies hold 32-bit integers.
_LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a data set.

    Attributes:
        image: the encoded file (a format of `images.formats`), or its path.
        name: file name, unique in its split.
        pid: published person id, -1..2**31 - 1; 0 may be a distractor.
        camid: camera, from 0 to 2**31 - 1; -1 if unknown.
        time: seconds; NaN if unknown.

    Raises:
        ValueError: a number is out of its range.
    """

    image: bytes | str | pathlib.Path = dataclasses.field(repr=False)
    name: str
    pid: int
    camid: int
    time: float = math.nan

    def __post_init__(self) -> None:
        if -1 <= self.pid <= _LARGEST and -1 <= self.camid <= _LARGEST:
            return
        for field, value in (("pid", self.pid), ("camid", self.camid)):
            if not -1 <= value <= _LARGEST:
                raise ValueError(
                    f"{self.name}: {field} is {value}; expected -1 to {_LARGEST}. Number people "
                    "and cameras in this range."
                )


class Records(Protocol):
    """Records of one split: a list, or another sized collection that can be iterated repeatedly."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Data set that is found but not read.

    Attributes:
        name: name of the data set and of the folder of its prepared copies; a Python identifier.
        config: folder of this prepared copy, different for other files or options.
        fingerprint: short digest of files and options, recorded with results.
        splits: records by split, usually train, query and gallery.
        digests: of the files by path, where the images of all records are files; they are then
            read where they are, unless a folder for prepared copies is given.
        notices: warnings for the user, such as missing images.
        numbered_anew: with other options, equal ids are other people.
        description: paragraph for the prepared copy.
        citation: BibTeX for the prepared copy.
        version: version of the prepared copy; increase it when the same files yield other records.
    """

    name: str
    config: str
    fingerprint: str
    splits: Mapping[str, Records]
    digests: Mapping[str | pathlib.Path, str] | None = None
    notices: tuple[str, ...] = ()
    numbered_anew: bool = False
    description: str = ""
    citation: str = ""
    version: str = "1.0.0"

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))


def short_digest(lines: Iterable[str]) -> str:
    """Return eight hexadecimal digits that depend on the lines but not on their order."""
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:8]


def split_of(records: Iterable[tuple[Record, bytes]]) -> Split:
    """Return records and the bytes of their images as a split, sorted by name."""
    pairs = sorted(records, key=lambda pair: pair[0].name)
    return columns_of([image for _, image in pairs], [record for record, _ in pairs])


def columns_of(images: Sequence[bytes], records: Sequence[Record]) -> Split:
    """Return images with the labels of their records as a split."""
    return Split(
        image=images,
        name=[r.name for r in records],
        pid=np.array([r.pid for r in records], np.int32),
        camid=np.array([r.camid for r in records], np.int32),
        time=np.array([r.time for r in records], np.float64),
    )
