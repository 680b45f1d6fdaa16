"""A data set before anything is read: which images it holds, and what tells it from others.

The function of a data set returns a `Source`, after finding everything that is wrong with a folder
or an option. `load` reads it into memory, through a prepared copy where TFDS is installed.
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
        pid: person id as published; 0 may mean a distractor.
        camid: camera, from 0.
        time: seconds; NaN if unknown.
    """

    image: bytes | pathlib.Path = dataclasses.field(repr=False)
    name: str
    pid: int
    camid: int
    time: float = math.nan


class Records(Protocol):
    """Records of one split: a list, or anything else that has a length and can be read again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A data set found, but not read.

    Attributes:
        name: name of the data set; a Python identifier, which names the folder of prepared copies.
        config: folder of this prepared copy, different for all other files and options.
        fingerprint: short digest of files and options; a result carries it.
        splits: records by split, usually train, query and gallery.
        notices: sentences for the user, such as that images are missing.
        description: paragraph for the prepared copy.
        citation: BibTeX for the prepared copy.
        version: version of the prepared copy; raised when other records come of the same files.
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
    """Returns eight hexadecimal digits that depend on the lines, not on their order."""
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:8]


def split_of(records: Iterable[Record]) -> Split:
    """Returns records as arrays, sorted by name; paths are read."""
    ordered = sorted(records, key=lambda record: record.name)
    return Split(
        image=[r.image if isinstance(r.image, bytes) else r.image.read_bytes() for r in ordered],
        name=[r.name for r in ordered],
        pid=np.array([r.pid for r in ordered], np.int32),
        camid=np.array([r.camid for r in ordered], np.int32),
        time=np.array([r.time for r in ordered], np.float64),
    )
