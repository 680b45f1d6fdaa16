"""Index of images: features on disk, found by a coarse search and scored exactly by the model.

A query is compared with a short vector of every image (`encoding.vectors`), then with pooled maps
of those whose vectors are nearest (`encoding.pooled`). The most similar of these, the shortlist,
are scored by the model's own matcher from their whole features, which are read for them alone. How
long the shortlist has to be is measured (`Index.measure`).
"""

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from jaxreid.data.images.pillow import ImageSource
from jaxreid.index.about import About, about_model, model_digest, read_about
from jaxreid.index.additions import Addition, columns_of, of_features, of_images
from jaxreid.index.conditions import Moment, Names, condition
from jaxreid.index.found import entry_of, found_of
from jaxreid.index.reading import Rows
from jaxreid.index.recall import DEEP, QUERIES, with_recall
from jaxreid.index.shortlist import scored, shortlists
from jaxreid.index.store import Store
from jaxreid.reid.gallery import Candidates, Entry, Filter
from jaxreid.reid.hits import Hits, listed
from jaxreid.reid.loaded import ReID


class Index:
    """Images on disk or in an object store, searched by a model; made by `create` and `open`.

    One process adds or removes at a time, the others wait for it; any number of threads and
    processes search meanwhile, each search in the last complete state.

    Attributes:
        about: model, form on disk and measured recall.
        reid: the model; None if the index was opened without one.
    """

    def __init__(self, store: Store, about: About, reid: ReID | None) -> None:
        self._store, self.about, self.reid = store, about, reid

    @classmethod
    def create(cls, path: str | os.PathLike, reid: ReID, *, dtype: str | None = None) -> "Index":
        """Create an empty index.

        Args:
            path: new or empty folder, or the URI of an object store ("s3://bucket/people").
            reid: model whose features it holds.
            dtype: dtype of feature maps on disk: "int8" (default) or "float16". Embeddings are
                float16.

        Raises:
            FileExistsError: the place is not empty.
            ModuleNotFoundError: LanceDB is not installed.
        """
        store = Store(path)
        if store.holds_index():
            raise FileExistsError(
                f"{store.place} holds an index already; add to it, or give another place."
            )
        if not store.is_empty():
            raise FileExistsError(f"{store.place} is not empty; expected a new or an empty folder.")
        about = about_model(reid, dtype)
        with store.writing():
            store.create(about.as_dict(), about.layout)
        return cls(store, about, reid)

    @classmethod
    def open(cls, path: str | os.PathLike, reid: ReID | None = None) -> "Index":
        """Open an index.

        Args:
            path: its folder, or the URI of an object store.
            reid: the model that it was made with; without one, it can be looked at and entries can
                be removed.

        Raises:
            FileNotFoundError: the place does not hold an index.
            ValueError: it is damaged, of another version, or made with another model.
            ModuleNotFoundError: LanceDB is not installed.
        """
        store = Store(path)
        if not store.holds_index():
            raise FileNotFoundError(
                f"no index in {store.place}; `jaxreid index create {store.place}` makes one."
            )
        about = read_about(store.read_about(), store.place)
        if store.layout() != about.layout:
            raise ValueError(
                f"index {store.place} does not hold features of {list(about.shape)} as "
                f"{about.dtype}, as described: it is damaged. Restore it from a copy, or create it "
                "again."
            )
        index = cls(store, about, None)
        if reid is not None:
            index.attach(reid)
        return index

    def attach(self, reid: ReID) -> None:
        """Search with a model from now on.

        Raises:
            ValueError: the index was made with another one.
        """
        if (digest := model_digest(reid)) != self.about.digest:
            raise ValueError(
                f"index {self._store.place} was made with the model {self.about.digest} of "
                f"{self.about.model}, got {digest} of {reid.path}: features of different models "
                "cannot be compared. Use that model, or create an index for this one."
            )
        self.reid = reid

    def __len__(self) -> int:
        return len(self._store)

    def __repr__(self) -> str:
        return f"Index({self._store.place}, {len(self):,} images)"

    def add(
        self,
        images: Sequence[ImageSource] | np.ndarray | tuple[np.ndarray, Mapping[str, Any]],
        metadata: Mapping[str, Any] | None = None,
    ) -> int:
        """Add images, or features with their metadata.

        An image whose bytes are in the index already is left out. Images are committed some at a
        time: after an interruption, the same call adds the others.

        Args:
            images: images as for `ReID.embed`; or [N, ...] float features as it returns them; or
                features and metadata as a pair.
            metadata: "path", "camera", "time" (seconds, or a date as text), "person" and "id", each
                a value for all or a sequence of N; None where unknown. Paths of image files are
                known. An id is the digest of the image, or of the features where there is none.

        Returns:
            Number of images that are new.

        Raises:
            ValueError, OSError: an image cannot be read, features or metadata do not fit, or the
                index cannot be written; what was committed before stays.
        """
        reid = self._needed()
        if isinstance(images, tuple) and len(images) == 2 and isinstance(images[1], Mapping):
            images, metadata = images
        additions: Callable[[dict[str, list], set[str]], Iterator[Addition]]
        if _are_features(images):
            features = self._checked(images)
            count, additions = len(features), functools.partial(of_features, features)
        else:
            sources = listed(images)
            count, additions = len(sources), functools.partial(of_images, reid, sources)
        columns = columns_of(metadata or {}, count)
        new = 0
        with self._store.writing():
            for batch, held in additions(columns, self._store.ids()):
                self._store.add(self.about.content(batch), held)
                new += len(batch)
                if self._store.is_slow():
                    self._optimize()
        return new

    def remove(
        self,
        *,
        id: Names = None,
        path: Names = None,
        camera: Names = None,
        person: Names = None,
        after: Moment = None,
        before: Moment = None,
        erase: bool = False,
    ) -> int:
        """Remove the images for which all of these hold, at once and as a whole.

        Args:
            id: one of these ids.
            path: one of these paths, or below one of these folders.
            camera: one of these cameras.
            person: one of these people.
            after: seen at this time or later: seconds, or a date as text.
            before: seen at this time or earlier.
            erase: also write the index anew, so that no file holds their features any more.

        Returns:
            Number of images removed.

        Raises:
            ValueError: no condition is given, or one cannot be read.
        """
        where = condition(
            id=id, camera=camera, person=person, path=path, after=after, before=before
        )
        if not where:
            raise ValueError("no images selected; expected ids, paths, cameras or times.")
        with self._store.writing():
            if count := self._store.count(where):
                self._store.remove(where)
            if erase:
                self._store.erase()
        return count

    def search(
        self,
        query: ImageSource | Sequence[ImageSource] | np.ndarray,
        *,
        top: int = 10,
        camera: Names = None,
        after: Moment = None,
        before: Moment = None,
        person: Names = None,
        shortlist: int | None = None,
    ) -> Hits:
        """Find the images that are most similar to a person.

        Args:
            query: one image or several of one person, as for `ReID.embed`, or [N, ...] float
                features of them. The scores of several are averaged.
            top: length of the list.
            camera: look at these cameras alone.
            after: at images seen at this time or later: seconds, or a date as text.
            before: at images seen at this time or earlier.
            person: at images of these people.
            shortlist: images scored exactly for each query image; the measured number by default,
                0 for all images of the index, which takes long.

        Returns:
            `Found` images, best first.

        Raises:
            ValueError: the index has no model, or an argument does not fit.
        """
        reid = self._needed()
        if top < 1:
            raise ValueError(f"top is {top}; expected at least 1.")
        if shortlist is not None and shortlist < 0:
            raise ValueError(f"shortlist is {shortlist}; expected at least 0.")
        where = condition(camera=camera, person=person, after=after, before=before)
        shown: Any = "features"
        if _are_features(query):
            shape = self.about.shape
            features = self._checked(query[None] if query.shape == shape else query)
        else:
            images = listed(query)
            features, shown = reid.embed(images), images[0]
        length = self.about.shortlist if shortlist is None else shortlist
        scores, columns = self._scored(features, max(length, top) if length else None, where)
        scores = scores.mean(axis=0)
        order = np.argsort(-scores, kind="stable")[:top]
        hits = [
            found_of(columns, row, place, float(scores[row]))
            for place, row in enumerate(order.tolist())
        ]
        return Hits(shown, hits)

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras, sorted."""
        return self._store.cameras()

    def candidates(
        self, model: ReID, query: np.ndarray, where: Filter, left_out: Callable[[Entry], bool]
    ) -> Candidates:
        """Return the images of the shortlists; makes an index a gallery of `ReID.search`."""
        if model is not self.reid:
            self.attach(model)
        after, before = (t if math.isfinite(t) else None for t in (where.after, where.before))
        sql = condition(camera=where.cameras or None, after=after, before=before)
        scores, columns = self._scored(self._checked(query), self.about.shortlist, sql)
        entries = [entry_of(columns, row) for row in range(scores.shape[1])]
        kept = np.array([i for i, entry in enumerate(entries) if not left_out(entry)], int)
        passed = self._store.count(sql) if sql else len(self)
        searched = passed - (len(entries) - len(kept))
        return Candidates([entries[i] for i in kept], kept, scores[:, kept], searched)

    def optimize(self) -> None:
        """Merge small parts, sort vectors into cells, and measure again if the index has doubled.

        `add` does so where it is due.
        """
        with self._store.writing():
            self._optimize()

    def measure(self, *, queries: int = QUERIES, deep: int = DEEP) -> dict[int, float]:
        """Measure which share of the exactly best ten a shortlist holds, and choose its length.

        Images of the index are the queries. Each is scored exactly with the `deep` images that a
        search of all vectors, with a longer list of pooled maps, puts first; if the index has no
        more images, this is the exact ranking, else the recall is of the best of these.

        Returns:
            Recall by length of the shortlist.
        """
        about = with_recall(self._needed(), self._store, self.about, queries=queries, deep=deep)
        if about is None:
            return {}
        self.about = about
        self._store.write_about(about.as_dict())
        return dict(about.recall)

    def info(self) -> dict[str, Any]:
        """Describe the index as plain data: images, bytes, model, recall, parts."""
        rows, parts, held = self._store.state()
        stored, about = self._store.bytes_on_disk(), self.about
        return {
            "place": self._store.place,
            "images": rows,
            "bytes": stored,
            "bytes_per_image": stored / rows if stored and rows else None,
            "model": about.model,
            "digest": about.digest,
            "features": list(about.shape),
            "dtype": about.dtype,
            "shortlist": about.shortlist,
            "recall": about.recall.get(about.shortlist),
            "recall_by_shortlist": {str(k): v for k, v in about.recall.items()},
            "measured": dict(about.measured),
            "parts": parts,
            "in_cells": held,
        }

    def _optimize(self) -> None:
        self._store.optimize()
        if self.reid is not None and len(self) >= 2 * self.about.measured.get("images", 0):
            self.measure()

    def _scored(
        self, query: np.ndarray, length: int | None, where: str
    ) -> tuple[np.ndarray, dict[str, list]]:
        """Return the exact scores [Q, n] of shortlists, of all images without a length."""
        if length is None:
            batches: Iterator[Rows] = self._store.batches(where)
        else:
            batches = shortlists(self._store, self.about, query, length, where)
        return scored(self._needed(), self.about, query, batches)

    def _checked(self, features: np.ndarray) -> np.ndarray:
        features = np.asarray(features, np.float32)
        if features.shape[1:] != self.about.shape or not np.isfinite(features).all():
            raise ValueError(
                f"features are {list(features.shape)}, or not all finite; expected [N, "
                f"{', '.join(map(str, self.about.shape))}], as embed returns them."
            )
        return features

    def _needed(self) -> ReID:
        if self.reid is None:
            raise ValueError(
                f"index {self._store.place} was opened without its model: "
                f"Index.open(path, jaxreid.load({self.about.model!r}))."
            )
        return self.reid


def _are_features(images: Any) -> TypeGuard[np.ndarray]:
    return isinstance(images, np.ndarray) and images.dtype.kind in "fV"
