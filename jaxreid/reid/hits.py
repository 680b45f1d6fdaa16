"""Ranked lists: the best gallery images for a person."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxreid.pictures.canvas import save
from jaxreid.pictures.matches import Pair
from jaxreid.pictures.numbers import probability_text
from jaxreid.pictures.page import Card, search_page
from jaxreid.pictures.ranking import person_picture
from jaxreid.runs.files import replace_file

# Suffixes of files that a ranked list can be saved as.
SUFFIXES = (".html", ".png", ".jsonl")


@dataclasses.dataclass(frozen=True)
class Hit:
    """Image of a ranked list.

    Attributes:
        image: image as passed: a path, bytes, a PIL image or an array.
        index: index in the gallery.
        score: score with the query; larger is more similar.
        name: name of the image, for people.
        camera: name of the camera; "" if unknown.
        time: seconds; NaN if unknown.
        probability: probability of the same person; None without a calibration.
        false_match_rate: share of other people that score as high; None without a calibration.
        photo: number of the query photo that is most similar.
    """

    image: Any
    index: int
    score: float
    name: str = ""
    camera: str = ""
    time: float = math.nan
    probability: float | None = None
    false_match_rate: float | None = None
    photo: int = 0

    @property
    def title(self) -> str:
        """Name to show."""
        return self.name or name_of(self.image, self.index)

    def as_json(self) -> dict[str, Any]:
        """Return plain data; null for unknown values."""
        return {
            "image": self.title,
            "path": os.fspath(self.image) if isinstance(self.image, str | os.PathLike) else None,
            "index": self.index,
            "score": self.score,
            "probability": self.probability,
            "false_match_rate": self.false_match_rate,
            "camera": self.camera or None,
            "time": None if math.isnan(self.time) else self.time,
            "photo": self.photo,
        }


class Hits(Sequence[Hit]):
    """Query and its best gallery images, best first.

    Args:
        query: image, or a list of images of one person.
        hits: the images, best first.
        notes: sentences about the search, for pages.
        resolution: smallest false-match rate that the calibration can see; 0 without one.
        explain: the local matches of query photo number `photo` with images, a pair for each; None
            for a model without them.
    """

    def __init__(
        self,
        query: Any,
        hits: Sequence[Hit],
        *,
        notes: Sequence[str] = (),
        resolution: float = 0.0,
        explain: Callable[[int, Sequence[Any]], list[Pair]] | None = None,
    ) -> None:
        self.query, self._hits = query, list(hits)
        self.notes, self.resolution, self._explain = tuple(notes), resolution, explain

    def __len__(self) -> int:
        return len(self._hits)

    def __getitem__(self, place: Any) -> Any:
        return self._hits[place]

    def __repr__(self) -> str:
        lines = (f"{hit.score:+8.3f}  {hit.title}" for hit in self)
        names = ", ".join(name_of(query, i) for i, query in enumerate(self.queries))
        return "\n".join([f"{len(self)} hits for {names}", *lines])

    @property
    def queries(self) -> list[Any]:
        """Query photos."""
        return listed(self.query)

    def save(self, path: str | os.PathLike) -> None:
        """Write the ranked list: a picture (.png), a page (.html) or lines of JSON (.jsonl).

        The page is one file that holds its images and needs no network. It draws the matches of a
        model with local matches, which are computed now.

        Raises:
            ValueError: another suffix.
            OSError: the file cannot be written, or an image not be read.
        """
        path = pathlib.Path(path)
        if path.suffix.lower() == ".html":
            replace_file(path, self._page().encode())
        elif path.suffix.lower() == ".jsonl":
            lines = [
                json.dumps({"rank": rank, **hit.as_json()}, ensure_ascii=False) + "\n"
                for rank, hit in enumerate(self, 1)
            ]
            replace_file(path, "".join(lines).encode())
        elif path.suffix.lower() == ".png":
            save(person_picture(self.queries, [_lines(hit) for hit in self]), path)
        else:
            raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}.")

    def _page(self) -> str:
        pairs: dict[int, Pair] = {}
        if self._explain is not None:
            for photo in sorted({hit.photo for hit in self}):
                places = [place for place, hit in enumerate(self) if hit.photo == photo]
                explained = self._explain(photo, [self[place].image for place in places])
                pairs.update(zip(places, explained, strict=True))
        cards = [
            Card(
                image=hit.image,
                name=hit.title,
                score=hit.score,
                probability=hit.probability,
                false_match_rate=hit.false_match_rate,
                camera=hit.camera,
                time=hit.time,
                photo=hit.photo,
                pair=pairs.get(place),
            )
            for place, hit in enumerate(self)
        ]
        queries = [(query, name_of(query, number)) for number, query in enumerate(self.queries)]
        return search_page(queries, cards, self.notes, self.resolution)


def _lines(hit: Hit) -> tuple[Any, str, list[str]]:
    """Return image, name and lines of a hit, as `person_picture` takes them."""
    worth = [] if hit.probability is None else [probability_text(hit.probability)]
    name = hit.title
    return hit.image, name, [*worth, f"{hit.score:+.2f}"]


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
