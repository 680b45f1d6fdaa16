"""Operations of the service: features, scores, probabilities, matches, an index."""

import asyncio
import math
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from anyio import CapacityLimiter, to_thread

from jaxreid.index.additions import digest_of
from jaxreid.pictures.results import Line, lines_of
from jaxreid.pictures.self_contained import data_uri
from jaxreid.reid.explanation import pairs_of
from jaxreid.runs.log import progress
from jaxreid.service.batching import FEW, MANY, Batcher, Full
from jaxreid.service.limits import Limits, Refused
from jaxreid.service.metrics import Metrics
from jaxreid.service.photos import Photo, clean_name, decode, photo_of, read_photo

# Threads that decode, score and search besides the one that embeds.
_THREADS = 4
# Largest width and height in pixels of a thumbnail.
_THUMBNAIL = 256, 256


class Engine:
    """Model with its batcher, for any number of requests at once.

    Args:
        reid: a `jaxreid.ReID`.
        index: a `jaxreid.Index` with this model, or None.
        writable: requests may add to the index and remove from it.
        limits: limits of a request.
        wait: seconds for which an image waits for others to be embedded with.

    Attributes:
        metrics: figures of the service.
    """

    def __init__(
        self,
        reid: Any,
        *,
        index: Any = None,
        writable: bool = False,
        limits: Limits | None = None,
        wait: float = 0.005,
    ) -> None:
        self.reid, self.index = reid, index
        self.limits = limits = limits or Limits()
        self.writable = writable and index is not None
        self.metrics = Metrics()
        self.calibration = reid.calibration
        self.local = hasattr(reid.model.matcher, "explain")
        self._batcher = Batcher(
            reid.embed, wait=wait, room=limits.waiting, observe=self.metrics.embedded
        )
        self.metrics.waiting.set_function(lambda: self._batcher.waiting)
        self._threads: CapacityLimiter | None = None
        self._adding = threading.Lock()

    @property
    def calibrated_on(self) -> str | None:
        """Sentence about the data of the calibration; None without."""
        return None if self.calibration is None else self.calibration.sentence()

    def compile(self) -> None:
        """Run every program once, so that no request waits for the compiler."""
        black = np.zeros((self.reid.model.height, self.reid.model.width, 3), np.uint8)
        features = self.reid.embed([black])
        steps: list[Callable[[], Any]] = [
            lambda: self.reid.embed([black] * FEW),
            lambda: self.reid.embed([black] * MANY),
            lambda: self._scores(features, features),
            lambda: self._scores(features, features.repeat(2, 0)),
            lambda: self._scores(features.repeat(2, 0), features.repeat(2, 0)),
        ]
        if self.local:
            steps += [
                lambda: self._matches(features, features, 1),
                lambda: self._matches(features, features.repeat(2, 0), 1),
            ]
        if self.index is not None and len(self.index):
            steps.append(lambda: self.index.search(features, top=1))
        with progress("compile", total=len(steps) + 1, initial=1, unit="program") as bar:
            for step in steps:
                step()
                bar.update(1)

    def close(self) -> None:
        """Embed the waiting images, and stop."""
        self._batcher.close()

    async def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run blocking work in a thread; a request that gives up does not wait for it."""
        if self._threads is None:
            self._threads = CapacityLimiter(_THREADS)
        return await to_thread.run_sync(
            work, *arguments, limiter=self._threads, abandon_on_cancel=True
        )

    async def read(self, files: Sequence[tuple[bytes, str | None]]) -> list[Photo]:
        """Decode the files of a request, (content, name); raise `Refused`."""

        def read_all() -> list[Photo]:
            return [
                read_photo(content, clean_name(name, i), self.reid.model, self.limits)
                for i, (content, name) in enumerate(files)
            ]

        return await self.run(read_all)

    async def features(self, photos: Sequence[Photo]) -> np.ndarray:
        """Return features [N, ...], embedded together with those of other requests.

        Raises:
            Refused: 503 if too many images wait.
        """
        try:
            future = self._batcher.submit([photo.pixels for photo in photos])
        except Full:
            raise Refused(
                503,
                f"{self._batcher.waiting} images are waiting already; expected at most "
                f"{self.limits.waiting}. Try again later.",
                Retry_After="1",
            ) from None
        return await asyncio.wrap_future(future)

    async def compare(self, a: Photo, b: Photo, prior: float, matches: int) -> dict[str, Any]:
        """Return the score of a pair, with its probability and false-match rate."""
        features = await self.features([a, b])

        def compared() -> dict[str, Any]:
            query, gallery = features[:1], features[1:]
            score = self._scores(query, gallery)[0]
            lines = self._matches(query, gallery, matches)[0] if matches else None
            return {
                **self._worth(score, prior)[0],
                "prior": prior,
                "calibrated_on": self.calibrated_on,
                "matches": lines,
                "notes": notes_of([a, b]),
            }

        return await self.run(compared)

    async def search(
        self,
        query: Sequence[Photo],
        gallery: Sequence[Photo],
        *,
        top: int,
        prior: float | None,
        matches: int,
    ) -> dict[str, Any]:
        """Return the best images of a gallery for photos of one person."""
        features = await self.features([*query, *gallery])
        asked, held = features[: len(query)], features[len(query) :]
        prior = prior or 1 / (len(gallery) + 1)

        def ranked() -> list[dict[str, Any]]:
            scores = self._scores(asked, held)
            mean = scores.mean(0)
            order = np.argsort(-mean, kind="stable")[:top]
            photos = scores.argmax(0)[order]
            pairs = self._best_matches(asked, held[order], photos, matches)
            return [
                {
                    "rank": rank,
                    "name": gallery[g].name,
                    "place": int(g),
                    "id": None,
                    "photo": int(photo),
                    "matches": pair,
                    **worth,
                }
                for rank, (g, photo, pair, worth) in enumerate(
                    zip(order, photos, pairs, self._worth(mean[order], prior), strict=True), 1
                )
            ]

        hits = await self.run(ranked)
        return self._found(hits, len(gallery), prior, notes_of([*query, *gallery]))

    async def search_index(
        self,
        query: Sequence[Photo],
        *,
        top: int,
        prior: float | None,
        matches: int,
        camera: Sequence[str] | None,
        after: float | None,
        before: float | None,
    ) -> dict[str, Any]:
        """Return the best images of the index for photos of one person."""
        asked = await self.features(query)

        def searched() -> tuple[list[Any], int, list[tuple[Photo, str] | None]]:
            ranked = self.index.search(asked, top=top, camera=camera, after=after, before=before)
            return list(ranked), len(self.index), [self._image_of(hit) for hit in ranked]

        ranked, count, images = await self.run(searched)
        prior = prior or 1 / (count + 1)
        shown = [place for place, image in enumerate(images) if image is not None][:matches]
        links: dict[int, Any] = {}
        if shown and self.local:
            held = await self.features([images[place][0] for place in shown])

            def explained() -> list[Any]:
                photos = self._scores(asked, held).argmax(0)
                pairs = self._best_matches(asked, held, photos, len(shown))
                return list(zip(photos.tolist(), pairs, strict=True))

            links = dict(zip(shown, await self.run(explained), strict=True))
        scores = np.array([hit.score for hit in ranked], np.float32)
        hits = []
        for place, (hit, worth) in enumerate(zip(ranked, self._worth(scores, prior), strict=True)):
            photo, pair = links.get(place, (None, None))
            image = images[place]
            hits.append(
                {
                    "rank": place + 1,
                    "name": clean_name(hit.path, place) if hit.path else hit.id,
                    "place": None,
                    "id": hit.id,
                    "photo": photo,
                    "matches": pair,
                    "camera": hit.camera or None,
                    "time": known(hit.time),
                    "person": hit.person or None,
                    "thumbnail": image and image[1],
                    **worth,
                }
            )
        return self._found(hits, count, prior, notes_of(query))

    async def add(self, photos: Sequence[Photo], metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Add images to the index, with their metadata (camera, time, person)."""
        features = await self.features(photos)
        ids = [photo.digest for photo in photos]

        def added() -> dict[str, Any]:
            with self._adding:
                new = self.index.add((features, {"id": ids, **metadata}))
                return {"added": new, "there": len(ids) - new, "images": len(self.index)}

        return {**await self.run(added), "ids": ids}

    async def remove(self, name: str) -> dict[str, Any]:
        """Remove an image from the index by its id."""

        def removed() -> dict[str, Any]:
            with self._adding:
                return {"removed": self.index.remove(id=name), "images": len(self.index)}

        return await self.run(removed)

    def _scores(self, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Return scores [Q, G], a fixed number of gallery images at a time."""
        if len(gallery) == 1 == len(query):
            return self.reid.score(query, gallery)
        parts = []
        for first in range(0, len(gallery), MANY):
            part = gallery[first : first + MANY]
            parts.append(self.reid.score(query, filled(part, MANY))[:, : len(part)])
        return np.concatenate(parts, axis=1)

    def _worth(self, scores: np.ndarray, prior: float) -> list[dict[str, Any]]:
        """Return score, probability and false-match rate of each score."""
        worth: list[Any] = [[None] * len(scores)] * 2
        if self.calibration is not None:
            worth = [
                self.calibration.probability(scores, prior=prior).tolist(),
                self.calibration.false_match_rate(scores).tolist(),
            ]
        return [
            {"score": float(score), "probability": probability, "false_match_rate": rate}
            for score, probability, rate in zip(scores, *worth, strict=True)
        ]

    def _best_matches(
        self, query: np.ndarray, gallery: np.ndarray, photos: np.ndarray, count: int
    ) -> list[Any]:
        """Return the matches of the first `count` gallery images, each with one query photo."""
        matches: list[Any] = [None] * len(gallery)
        for photo in np.unique(photos[:count]):
            places = np.flatnonzero(photos[:count] == photo)
            pairs = self._matches(query[photo : photo + 1], gallery[places], self.limits.matches)
            for place, pair in zip(places, pairs, strict=True):
                matches[place] = pair
        return matches

    def _matches(
        self, query: np.ndarray, gallery: np.ndarray, count: int
    ) -> list[list[Line] | None]:
        """Return up to `count` matches of a query with each gallery image; None without any.

        With parts, those of the first.
        """
        if not self.local:
            return [None] * len(gallery)
        part = next(iter(self.reid.check_explains()), None)
        blank = np.zeros((1, 1, 3), np.uint8)
        matches: list[list[Line] | None] = []
        for first in range(0, len(gallery), FEW):
            chunk = gallery[first : first + FEW]
            size = 1 if len(gallery) == 1 else FEW
            pairs = pairs_of(
                self.reid.contributions,
                np.concatenate([query, filled(chunk, size)]),
                [blank] * (1 + size),
                reaches={part: 0},
                titles=[""] * (1 + size),
                right=None,
                reference=None,
            )
            matches += [lines_of(pair, count) for pair in pairs[: len(chunk)]]
        return matches

    def _image_of(self, hit: Any) -> tuple[Photo, str] | None:
        """Return the image of an index, if its file still is what was indexed, and its thumbnail.

        The path is one that the index was filled with on this machine; requests cannot set one.
        """
        if not hit.path:
            return None
        path = pathlib.Path(hit.path)
        try:
            if not path.is_file() or path.stat().st_size > self.limits.body:
                return None
            content = path.read_bytes()
            if digest_of(content) != hit.id:
                return None
            name = clean_name(hit.path, 0)
            pixels = decode(content, name, self.limits)
            photo = photo_of(pixels, name, hit.id, self.reid.model)
            return photo, data_uri(pixels, _THUMBNAIL)
        except (OSError, ValueError, Refused):
            return None

    def _found(
        self, hits: list[dict[str, Any]], count: int, prior: float, notes: list[str]
    ) -> dict[str, Any]:
        return {
            "hits": hits,
            "searched": count,
            "prior": prior,
            "calibrated_on": self.calibrated_on,
            "notes": notes,
        }


def filled(features: np.ndarray, size: int) -> np.ndarray:
    """Pad features to at least `size` by repeating the last one."""
    missing = max(0, size - len(features))
    return np.concatenate([features, features[-1:].repeat(missing, 0)]) if missing else features


def notes_of(photos: Sequence[Photo]) -> list[str]:
    """Return warnings about images that are probably whole frames."""
    wide = [photo.name for photo in photos if photo.size[1] > photo.size[0]]
    if not wide:
        return []
    more = f" and {len(wide) - 3} more" if len(wide) > 3 else ""
    return [
        f"Wider than high, so perhaps a whole frame: {', '.join(wide[:3])}{more}. Expected one "
        "person cut out of a frame."
    ]


def known(time: float | None) -> float | None:
    """Return a time, None for NaN."""
    return None if time is None or math.isnan(time) else float(time)
