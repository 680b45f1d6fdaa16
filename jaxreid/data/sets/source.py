"""Data sets before reading: their records and their fingerprint.

The function of a data set checks its folder and options and returns a `Source`. `load` reads it
into memory, through a prepared copy where TFDS is installed.
"""

import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np

from jaxreid.data.split import Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a data set.

    Attributes:
        image: the encoded file (JPEG or PNG), or its path.
        name: file name, unique in its split.
        pid: published person id; 0 may be a distractor.
        camid: camera, from 0.
        time: seconds; NaN if unknown.
    """

    image: bytes | pathlib.Path = dataclasses.field(repr=False)
    name: str
    pid: int
    camid: int
    time: float = math.nan


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
        notices: warnings for the user, such as missing images.
        description: paragraph for the prepared copy.
        citation: BibTeX for the prepared copy.
        version: version of the prepared copy; increase it when the same files yield other records.
    """

    name: str
    config: str
    fingerprint: str
    splits: Mapping[str, Records]
    notices: tuple[str, ...] = ()
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


def split_of(records: Iterable[Record]) -> Split:
    """Read records into a split, sorted by name."""
    ordered = sorted(records, key=lambda record: record.name)
    return Split(
        image=[r.image if isinstance(r.image, bytes) else r.image.read_bytes() for r in ordered],
        name=[r.name for r in ordered],
        pid=np.array([r.pid for r in ordered], np.int32),
        camid=np.array([r.camid for r in ordered], np.int32),
        time=np.array([r.time for r in ordered], np.float64),
    )
