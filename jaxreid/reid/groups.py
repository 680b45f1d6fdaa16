"""Images of unknown people, grouped by person, and the files in which people correct them."""

import csv
import dataclasses
import io
import math
import os
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreid.data.images.pillow import ImageSource
from jaxreid.data.sets.division import Photo
from jaxreid.evaluation.grouping import Probabilities, all_scores, apart, check_count, link
from jaxreid.names import check_name
from jaxreid.pictures.groups import groups_page
from jaxreid.reid.hits import listed
from jaxreid.runs.files import replace_file

TABLE, PAGE, FOLDER = "people.csv", "people.html", "people"
FORMS = ("link", "copy")
# Mean probability of the pairs of two groups from which they are joined. Lower than one half:
# most pairs of a person's images are less sure than the person is.
PROBABILITY = 0.3


@dataclasses.dataclass(frozen=True)
class Groups:
    """Images grouped by person, larger groups first.

    Attributes:
        images: N images.
        group: [N] int64, the group of each, from 0.
        camera: names of their cameras, "" where unknown.
        time: [N] float64, seconds; NaN where unknown.
        kind: "probability" or "score", of the similarities.
        threshold: similarity from which groups were joined; None for a given number of groups.
        fit: [N] float32, mean similarity to the others of its group; NaN for one alone.
        near: the most similar other group of each, as (index, similarity), or None.
        separate: pairs of images that were kept apart, of one camera at one moment.
    """

    images: list[Any]
    group: np.ndarray
    camera: list[str]
    time: np.ndarray
    kind: str
    threshold: float | None
    fit: np.ndarray
    near: list[tuple[int, float] | None]
    separate: int

    def __len__(self) -> int:
        return len(self.near)

    def __repr__(self) -> str:
        sizes = np.bincount(self.group)
        return (
            f"Groups({len(self.images)} images of {len(self)} people, {(sizes == 1).sum()} of them "
            f"on one image; largest {sizes[:5].tolist()})"
        )

    @property
    def names(self) -> list[str]:
        """Name of each group: p001, p002, ..."""
        width = max(3, len(str(len(self))))
        return [f"p{number:0{width}}" for number in range(1, len(self) + 1)]

    def photos(self) -> list[Photo]:
        """Return the images with their groups as people.

        Raises:
            ValueError: images that are not files.
        """
        if other := [i for i in self.images if not isinstance(i, str | os.PathLike)]:
            raise ValueError(
                f"{len(other)} of {len(self.images)} images are not paths; expected files, to name "
                "them in a table."
            )
        names, rows = self.names, zip(self.images, self.group, self.camera, self.time, strict=True)
        return [
            Photo(pathlib.Path(image), pathlib.Path(image).name, names[g], camera, float(time))
            for image, g, camera, time in rows
        ]

    def page(self) -> str:
        """Return an HTML page to correct the groups."""
        photos, names = self.photos(), self.names
        people = [
            {
                "name": name,
                "near": near[0] if near else None,
                "alike": self._words(near[1]) if near else "",
            }
            for name, near in zip(names, self.near, strict=True)
        ]
        # Joined through others of the group, as a chain.
        doubt = self.fit < (-math.inf if self.threshold is None else self.threshold)
        rows = [
            {
                "group": int(g),
                "path": str(photo.image.absolute()),
                "name": photo.name,
                "camera": photo.camera,
                "time": photo.time,
                "doubt": doubt[i],
                "title": photo.name
                + ("" if math.isnan(self.fit[i]) else f"\nits group: {self._words(self.fit[i])}"),
            }
            for i, (photo, g) in enumerate(zip(photos, self.group, strict=True))
        ]
        how = "as many as requested"
        if self.threshold is not None:
            how = f"joined from a {self.kind} of {self.threshold:g}"
        return groups_page(self.images, people, rows, how=how)

    def save(self, folder: str | os.PathLike, *, form: str | None = None) -> None:
        """Write the table people.csv and the page people.html into a folder.

        Args:
            folder: created if it does not exist.
            form: also write a folder `people` with a sub-folder for each, of links to the images
                ("link") or copies of them ("copy").

        Raises:
            ValueError, OSError: images that are not files, or a file cannot be written.
        """
        photos, folder = self.photos(), pathlib.Path(folder)
        if form is not None:
            check_folders(folder, form)
        page = self.page()
        write_people(folder, photos, form=form)
        replace_file(folder / PAGE, page.encode())

    def _words(self, similarity: float) -> str:
        return f"{similarity:.0%}" if self.kind == "probability" else f"{similarity:.3g}"


def make_groups(
    reid: Any,
    images: Sequence[ImageSource],
    *,
    camera: Sequence[str] | None = None,
    time: Sequence[float] | None = None,
    threshold: float | None = None,
    people: int | None = None,
    calibration: Probabilities | None = None,
    features: np.ndarray | None = None,
    keep_apart: bool = True,
) -> Groups:
    """Group images by person, by average linkage of the scores of all pairs.

    Args:
        reid: the model (`ReID`).
        images: N images, as for `ReID.embed`, at most `grouping.LARGEST`.
        camera: names of their cameras; None or "" where unknown.
        time: their times in seconds; None or NaN where unknown.
        threshold: similarity from which groups are joined: a probability (by default
            `PROBABILITY`) with `calibration`, a score of the model without.
        people: number of groups, instead of a threshold.
        calibration: makes probabilities of scores.
        features: [N, ...] features of the images, if known.
        keep_apart: never join images of one camera at one moment, which show two people.

    Raises:
        ValueError: there is neither a threshold nor a number nor a calibration; too many images;
            or an argument does not fit the images.
    """
    images = listed(images)
    check_count(total := len(images))
    if total < 2:
        raise ValueError(f"{total} images; expected two or more to group.")
    cameras = [""] * total if camera is None else [str(name) for name in camera]
    times = np.full(total, np.nan) if time is None else np.asarray(time, np.float64)
    if not total == len(cameras) == len(times):
        raise ValueError(
            f"got {len(cameras)} cameras and {len(times)} times for {total} images; expected one "
            "for each."
        )
    if threshold is not None and people is not None:
        raise ValueError("got a threshold and a number of people; expected one of the two.")
    if calibration is not None and threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; expected a probability of 0 to 1.")
    if people is not None and not 1 <= people <= total:
        raise ValueError(f"people is {people}; expected 1 to {total}, the number of images.")
    if features is None:
        features = reid.embed(images)
    numbers = {name: number for number, name in enumerate(sorted({*cameras} - {""}))}
    camids = np.array([numbers.get(name, -1) for name in cameras])
    pairs = apart(camids, times) if keep_apart else np.zeros((0, 2), np.int64)
    scores = all_scores(reid, features)
    if calibration is not None:
        similarity = np.asarray(calibration.probability(scores), np.float32)
        threshold = PROBABILITY if threshold is None else threshold
    elif threshold is None and people is None:
        raise ValueError(_no_threshold(scores, pairs))
    else:
        similarity = scores
    del scores
    level = -math.inf if people is not None or threshold is None else threshold
    group = link(similarity.copy(), threshold=level, count=people, apart=pairs)
    fit, near = _beside(similarity, group, pairs)
    return Groups(
        images,
        group,
        cameras,
        times,
        kind="score" if calibration is None else "probability",
        threshold=None if people is not None else threshold,
        fit=fit,
        near=near,
        separate=len(pairs),
    )


def _beside(
    similarity: np.ndarray, group: np.ndarray, pairs: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, float] | None]]:
    """Return the fit of each image in its group, and the group most similar to each."""
    count = int(group.max()) + 1
    sizes = np.bincount(group)
    # Sums over the images of each group, [N, K] and [K, K].
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(count))
    sums = np.add.reduceat(similarity[:, order], starts, axis=1)
    own, alone = sums[np.arange(len(group)), group], sizes[group] == 1
    itself = similarity[np.diag_indices(len(group))]
    fit = np.where(alone, np.nan, (own - itself) / np.maximum(sizes[group] - 1, 1))
    means = np.add.reduceat(sums[order], starts, axis=0) / np.outer(sizes, sizes)
    means[np.diag_indices(count)] = -np.inf
    means[group[pairs[:, 0]], group[pairs[:, 1]]] = -np.inf
    means[group[pairs[:, 1]], group[pairs[:, 0]]] = -np.inf
    best = means.argmax(1)
    near = [
        (int(g), float(means[k, g])) if np.isfinite(means[k, g]) else None
        for k, g in enumerate(best)
    ]
    return fit.astype(np.float32), near


def _no_threshold(scores: np.ndarray, pairs: np.ndarray) -> str:
    """Return the message for a missing threshold, with the scores of all pairs."""
    upper = scores[np.triu_indices(len(scores), 1)]
    most = "".join(f", {np.quantile(upper, q):.4g} of {1 - q:.0%}" for q in (0.9, 0.95, 0.99))
    text = (
        "the model has no calibration; expected a threshold, the score from which groups are "
        f"joined, as in --threshold={np.quantile(upper, 0.97):.3g}. Scores of all pairs here are "
        f"at least {most[2:]} of them"
    )
    if len(pairs) >= 10:
        other = scores[pairs[:, 0], pairs[:, 1]]
        text += (
            f"; of {len(pairs)} pairs of one camera at one moment, which are two people, half are "
            f"above {np.median(other):.4g} and one in twenty above {np.quantile(other, 0.95):.4g}"
        )
    return text + ". Or give the number of people (--people=40), or calibrate the model."


def check_folders(folder: pathlib.Path, form: str) -> None:
    """Raise ValueError for an unknown form, or people of an earlier call in the folder."""
    check_name(form, FORMS, "form of the folders")
    place = folder / FOLDER
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(
            f"{place} holds people already; expected no such folder, so that old and new ones do "
            "not mix. Remove it, or give another --out."
        )


def write_people(folder: pathlib.Path, photos: Sequence[Photo], *, form: str | None = None) -> None:
    """Write the table of photos, and with a form, a sub-folder of images for each person.

    Paths in the table are relative to its folder. Photos of the person "-1" are junk: they are in
    the table, so that they are known, and not in the folders.

    Raises:
        ValueError, OSError: as `check_folders`; or a file cannot be written.
    """
    if form is not None:
        check_folders(folder, form)
    folder.mkdir(parents=True, exist_ok=True)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("path", "person", "camera", "time"))
    for photo in photos:
        path = os.path.relpath(photo.image.absolute(), folder.absolute())
        time = "" if math.isnan(photo.time) else f"{photo.time:.3f}"
        writer.writerow((pathlib.Path(path).as_posix(), photo.person, photo.camera, time))
    if form is not None:
        _write_folders(folder / FOLDER, photos, form)
    replace_file(folder / TABLE, file.getvalue().encode("utf-8", "surrogateescape"))


def _write_folders(folder: pathlib.Path, photos: Sequence[Photo], form: str) -> None:
    """Write people as folder: reads them: PERSON/CAMERA/NAME, PERSON/NAME without cameras."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with_camera = all(photo.camera for photo in photos)
    for photo in photos:
        if photo.person in ("", "-1"):
            continue
        place = partial / _safe(photo.person)
        place = place / _safe(photo.camera) if with_camera else place
        place.mkdir(parents=True, exist_ok=True)
        target, number = place / photo.image.name, 1
        while os.path.lexists(target):
            number += 1
            target = place / f"{photo.image.stem}_{number}{photo.image.suffix}"
        if form == "copy":
            shutil.copyfile(photo.image, target)
        else:
            target.symlink_to(photo.image.absolute())
    if not partial.exists():
        raise ValueError(f"no photo has a person; expected one or more for {folder}.")
    if folder.exists():
        folder.rmdir()
    # All folders, or none.
    partial.rename(folder)


def _safe(name: str) -> str:
    """Return a name as a folder can have it."""
    return re.sub(r'[\\/:*?"<>|\0]', "-", name).strip().strip(".") or "-"
