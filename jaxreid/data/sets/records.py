"""Records of images whose file names hold the labels."""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping

from jaxreid.data.sets.source import Record


def named_records(
    images: Mapping[str, Iterable[tuple[os.DirEntry, re.Match]]],
    camid: Callable[[re.Match], int] = lambda match: int(match["camera"]) - 1,
    time: Callable[[re.Match], float] = lambda match: math.nan,
) -> dict[str, tuple[Record, ...]]:
    """Return the records of the images that `files.read_names` lists.

    Args:
        images: files and matches by split, with a group "pid".
        camid: camera from a match; by default group "camera", which counts from 1.
        time: seconds from a match; by default unknown.

    Raises:
        ValueError: a number is too large for a record.
    """
    return {
        split: tuple(
            Record(
                image=file.path,
                name=file.name,
                pid=int(match["pid"]),
                camid=camid(match),
                time=time(match),
            )
            for file, match in pairs
        )
        for split, pairs in images.items()
    }
