"""Galleries: images to search, with their cameras and times.

A search asks a gallery for its best candidates alone, so that an index can answer without looking
at all of its entries; `Images` scores every one.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from jaxreid.data import sets
from jaxreid.data.images.on_disk import ImageFiles
from jaxreid.data.sets import folder, table
from jaxreid.data.sets.files import list_images
from jaxreid.data.sets.photos import photos_at
from jaxreid.data.sets.resolving import OWN, named_set
from jaxreid.places import expanded
from jaxreid.reid.hits import listed, name_of


@dataclasses.dataclass(frozen=True)
class Entry:
    """Image of a gallery.

    Attributes:
        image: path, bytes of an image file, PIL image or uint8 array [h, w, 3].
        name: name, for people.
        camera: name of the camera; "" if unknown.
        time: seconds; NaN if unknown.
    """

    image: Any
    name: str
    camera: str = ""
    time: float = math.nan


@dataclasses.dataclass(frozen=True)
class Filter:
    """Entries to search; those whose camera or time is unknown fail a filter of it.

    Attributes:
        cameras: names of cameras; empty for all.
        after: earliest time in seconds, included.
        before: latest time in seconds, included.
    """

    cameras: tuple[str, ...] = ()
    after: float = -math.inf
    before: float = math.inf

    def passes(self, entry: Entry) -> bool:
        """Return whether an entry is searched."""
        timed = (self.after, self.before) == (-math.inf, math.inf)
        camera = not self.cameras or entry.camera in self.cameras
        return camera and (timed or self.after <= entry.time <= self.before)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Entries that a gallery finds likely.

    Attributes:
        entries: N entries.
        index: [N] int, their numbers in the gallery.
        scores: [Q, N] float32, exact scores of each query photo with each; larger is more similar.
        searched: number of entries that passed the filter.
    """

    entries: Sequence[Entry]
    index: np.ndarray
    scores: np.ndarray
    searched: int


class Gallery(Protocol):
    """Interface of the galleries that `ReID.search` searches."""

    @property
    def cameras(self) -> Sequence[str]:
        """Names of the cameras, sorted."""

    def candidates(
        self, model: "Model", query: np.ndarray, where: Filter, left_out: Callable[[Entry], bool]
    ) -> Candidates:
        """Return at least the best entries for query photos of one person.

        Args:
            model: a `ReID`.
            query: [Q, ...] features.
            where: entries to search.
            left_out: True for entries to leave out, such as the query itself.
        """


class Model(Protocol):
    """The part of `ReID` that galleries use."""

    def embed(self, images: Any, *, names: Sequence[str] | None = None) -> np.ndarray:
        """Return features."""

    def score(self, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Return scores."""


class Images:
    """Gallery of images that are all compared.

    Args:
        entries: at least one.
        features: [N, ...], if they are known; else they are computed when they are needed.
        notices: sentences about files that were left out.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        features: np.ndarray | None = None,
        *,
        notices: Sequence[str] = (),
    ) -> None:
        if not entries:
            raise ValueError("the gallery is empty: expected at least one image.")
        if features is not None and len(features) != len(entries):
            raise ValueError(
                f"got {len(features)} features for {len(entries)} gallery images; expected one "
                "for each."
            )
        self.entries, self._features = list(entries), features
        self.notices = tuple(notices)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras, sorted."""
        return sorted({entry.camera for entry in self.entries} - {""})

    def candidates(
        self, model: Model, query: np.ndarray, where: Filter, left_out: Callable[[Entry], bool]
    ) -> Candidates:
        """Return all entries that pass the filter."""
        index = np.array(
            [i for i, e in enumerate(self.entries) if where.passes(e) and not left_out(e)], int
        )
        entries = [self.entries[i] for i in index]
        if not entries:
            return Candidates([], index, np.zeros((len(query), 0), np.float32), 0)
        if self._features is None:
            names = [entry.name for entry in entries]
            features = model.embed([entry.image for entry in entries], names=names)
        else:
            features = self._features[index]
        return Candidates(entries, index, model.score(query, features), len(entries))


def gallery_of(images: Any, features: np.ndarray | None = None) -> Gallery:
    """Return a gallery: as it is, or of entries, or of images as for `ReID.embed`."""
    if hasattr(images, "candidates"):
        return images
    entries = [
        image if isinstance(image, Entry) else Entry(image, name_of(image, number))
        for number, image in enumerate(listed(images))
    ]
    return Images(entries, features)


def open_gallery(place: str | os.PathLike, *, recursive: bool = False) -> Images:
    """Return the images of a place on disk.

    Args:
        place: folder of images, an image file, or a data set with its place: `table:people.csv`
            and `folder:DIR?pattern={pid}_c{camid}_{time}` also know cameras and times, and people
            need not be known; of another set, such as `market1501:DIR`, the gallery.
        recursive: of a folder, also the images in its subfolders.

    Raises:
        FileNotFoundError: the place does not exist.
        ValueError: it holds no images, or is not understood.
    """
    text = os.fspath(place)
    path = expanded(text)
    if path.is_dir():
        return _below(path, recursive)
    if path.is_file():
        if path.suffix.lower() in table.SUFFIXES:
            return _of_photos(path)
        return Images([Entry(path, path.name)])
    named = named_set(text)
    if named.base not in sets.SETS.names:
        raise FileNotFoundError(
            f"no gallery {text!r}: expected a folder of images, a table (.csv, .jsonl, ...), or a "
            "data set with its place, as in table:people.csv or folder:DIR?pattern={pid}_c{camid}."
        )
    if named.base in OWN:
        return _of_photos(text)
    return Images(_of_set(text))


def _below(root: pathlib.Path, recursive: bool) -> Images:
    if recursive:
        paths, left_out = folder.images_below(root)
    else:
        inside, sentence = list_images(root)
        paths, left_out = [root / entry.name for entry in inside], [sentence]
    if not paths:
        advice = " ".join([*filter(None, left_out), "Search its subfolders with --recursive."])
        raise ValueError(
            f"{root} contains no images (.jpg, .png, ...); expected image files. {advice}"
        )
    entries = [Entry(path, path.relative_to(root).as_posix()) for path in paths]
    return Images(entries, notices=[sentence for sentence in left_out if sentence])


def _of_photos(place: str | os.PathLike) -> Images:
    photos, notices = photos_at(place)
    entries = [Entry(photo.image, photo.name, photo.camera, photo.time) for photo in photos]
    return Images(entries, notices=notices)


def _of_set(name: str) -> list[Entry]:
    splits = sets.load(name)
    if "gallery" not in splits:
        raise ValueError(f"{name} has no gallery; it has {', '.join(splits)}.")
    split = splits["gallery"]
    images = split.image.paths if isinstance(split.image, ImageFiles) else split.image
    return [
        Entry(image, name, f"c{camid + 1}" if camid >= 0 else "", float(time))
        for image, name, camid, time in zip(
            images, split.name, split.camid.tolist(), split.time, strict=True
        )
    ]
