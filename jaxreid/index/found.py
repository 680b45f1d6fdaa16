"""Images of an index as rows of its table describe them: found, or entries of a gallery."""

import dataclasses
import math
import os
from collections.abc import Mapping

from jaxreid.reid.gallery import Entry
from jaxreid.reid.hits import Hit


@dataclasses.dataclass(frozen=True)
class Found(Hit):
    """Image of an index in a ranked list.

    Attributes:
        image: path of the image; its id without one.
        index: place in the list, from 0.
        score: score with the query; larger is more similar. The mean over several query images.
        id: digest of the image.
        path: path of the image; "" if unknown.
        camera: name of the camera; "" if unknown.
        time: seconds; NaN if unknown.
        person: name of the person; "" if unknown.
    """

    id: str = ""
    path: str = ""
    person: str = ""


def entry_of(columns: Mapping[str, list], row: int) -> Entry:
    """Return a row as an entry of a gallery."""
    image = columns["path"][row] or columns["id"][row]
    time = columns["time"][row]
    return Entry(
        image,
        os.path.basename(image),
        columns["camera"][row] or "",
        math.nan if time is None else time,
    )


def found_of(columns: Mapping[str, list], row: int, place: int, score: float) -> Found:
    """Return a row at a place of a ranked list."""
    entry = entry_of(columns, row)
    return Found(
        entry.image,
        place,
        score,
        camera=entry.camera,
        time=entry.time,
        id=columns["id"][row],
        path=columns["path"][row] or "",
        person=columns["person"][row] or "",
    )
