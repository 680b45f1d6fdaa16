"""Ranked lists: the best gallery images for a query."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreid.pictures.canvas import save
from jaxreid.pictures.ranking import hits_picture


@dataclasses.dataclass(frozen=True)
class Hit:
    """Image of a ranked list.

    Attributes:
        image: image as passed: a path, bytes, a PIL image or an array.
        index: index in the gallery.
        score: score with the query; larger is more similar.
    """

    image: Any
    index: int
    score: float


class Hits(Sequence[Hit]):
    """Query and its best gallery images, best first."""

    def __init__(self, query: Any, hits: Sequence[Hit]) -> None:
        self.query, self._hits = query, list(hits)

    def __len__(self) -> int:
        return len(self._hits)

    def __getitem__(self, place: Any) -> Any:
        return self._hits[place]

    def __repr__(self) -> str:
        lines = (f"{hit.score:+8.3f}  {name_of(hit.image, hit.index)}" for hit in self)
        return "\n".join([f"{len(self)} hits for {name_of(self.query, 0)}", *lines])

    def save(self, path: str | os.PathLike) -> None:
        """Write the ranked list as a picture (PNG)."""
        entries = [(hit.image, hit.score) for hit in self]
        save(hits_picture([self.query], [entries]), path)


def listed(images: Any) -> list[Any]:
    """Return images as a list, also for a single one."""
    single = isinstance(images, str | os.PathLike | bytes) or hasattr(images, "convert")
    if isinstance(images, np.ndarray):
        single = images.ndim == 3
    return [images] if single else list(images)


def name_of(image: Any, place: int) -> str:
    """Return the path or file name of an image; "image 3" without one."""
    named = isinstance(image, str | os.PathLike)
    return os.fspath(image) if named else getattr(image, "filename", "") or f"image {place}"
