"""Index of images: features on disk, found by a coarse search and scored exactly by the model.

A query is compared with a short vector of every image (`encoding.vectors`); the images whose
vectors are nearest, the shortlist, are then scored by the model's own matcher from their whole
features, which are read for them alone. How long the shortlist has to be is measured
(`Index.measure`).
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.data.images.pillow import ImageSource, read_image
from jaxreid.index.about import About, model_digest, read_about
from jaxreid.index.conditions import Moment, Names, condition, seconds
from jaxreid.index.encoding import DTYPES, decode, encode, size_of, vectors
from jaxreid.index.store import Rows, Store
from jaxreid.locks import hold
from jaxreid.names import check_name
from jaxreid.reid.gallery import Candidates, Entry, Filter
from jaxreid.reid.hits import Hit, Hits, listed, name_of
from jaxreid.reid.loaded import LONG, ReID
from jaxreid.runs.log import progress

# Images that become one addition, and images embedded at once.
COMMIT, CHUNK = 1024, 128
# Lengths of the shortlist that are measured; the shortest with this recall is used.
LENGTHS = (50, 100, 200, 400, 800, 1600, 3200)
ENOUGH = 0.99
# Queries of a measurement, and images that each is compared with.
QUERIES, DEEP = 16, 4_000
# Images scored at once.
_SCORED = 512


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
        time: seconds; None if unknown.
        person: name of the person; "" if unknown.
    """

    id: str = ""
    path: str = ""
    time: float | None = None  # type: ignore[assignment]
    person: str = ""


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
            FileExistsError: there is something.
            ModuleNotFoundError: LanceDB is not installed.
        """
        store = Store(path)
        if store.holds_index():
            raise FileExistsError(
                f"{store.place} holds an index already; add to it, or give another place."
            )
        if store.folder is not None and store.folder.exists():
            left = {"lock", "entries.lance"}  # by a process that was killed
            if not store.folder.is_dir() or {p.name for p in store.folder.iterdir()} - left:
                raise FileExistsError(
                    f"{store.place} is not empty; expected a new or an empty folder."
                )
        shape = reid.feature_shape
        kind = dtype or ("int8" if len(shape) == 3 else "float16")
        check_name(kind, DTYPES if len(shape) == 3 else DTYPES[:1], "dtype")
        unit = len(shape) == 1 and getattr(reid.model.matcher, "metric", "") == "cosine"
        about = About(os.path.abspath(reid.path or ""), model_digest(reid), shape, unit, kind)
        index = cls(store, about, reid)
        dim = index._vectors(np.zeros((1, *shape), np.float32)).shape[1]
        with index._writing():
            store.create(about.as_dict(), dim=dim, size=index._size)
        return index

    @classmethod
    def open(cls, path: str | os.PathLike, reid: ReID | None = None) -> "Index":
        """Open an index.

        Args:
            path: its folder, or the URI of an object store.
            reid: the model that it was made with; without one, it can be looked at and entries can
                be removed.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: it is damaged, of another version, or made with another model.
            ModuleNotFoundError: LanceDB is not installed.
        """
        store = Store(path)
        if not store.holds_index():
            raise FileNotFoundError(
                f"no index in {store.place}; `jaxreid index create {store.place}` makes one."
            )
        index = cls(store, read_about(store.read_about(), store.place), None)
        dim = index._vectors(np.zeros((1, *index.about.shape), np.float32)).shape[1]
        if store.layout() != (dim, index._size):
            raise ValueError(
                f"index {store.place} does not hold features of {list(index.about.shape)} as "
                f"{index.about.dtype}, as it says: it is damaged. Restore it from a copy, or "
                "create it again."
            )
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
        """Add images, or features with what is known of them.

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
        self._needed()
        if isinstance(images, tuple) and len(images) == 2 and isinstance(images[1], Mapping):
            images, metadata = images
        if isinstance(images, np.ndarray) and images.dtype.kind in "fV":
            features, sources = self._checked(images), None
        else:
            features, sources = None, listed(images)
        count = len(sources or []) if features is None else len(features)
        columns = _columns(metadata or {}, count)
        new = 0
        with self._writing():
            known = self._store.ids()
            if features is not None:
                batches = self._given(features, columns, known)
            else:
                batches = self._embedded(sources or [], columns, known)
            for batch, held in batches:
                self._store.add(self._vectors(batch), self._encoded(batch), held)
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
            id=id, path=path, camera=camera, person=person, after=after, before=before
        )
        if not where:
            raise ValueError("nothing says what to remove; give ids, paths, cameras or times.")
        with self._writing():
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
        if isinstance(query, np.ndarray) and query.dtype.kind in "fV":
            shape = self.about.shape
            features = self._checked(query[None] if query.shape == shape else query)
            shown: Any = "features"
        else:
            images = listed(query)
            features, shown = reid.embed(images), images[0]
        length = self.about.shortlist if shortlist is None else shortlist
        if length == 0:
            batches: Iterator[Rows] = self._store.batches(where)
        else:
            batches = self._shortlist(features, max(length, top), where)
        scores, columns = self._scored(features, batches)
        scores = scores.mean(axis=0)
        order = np.argsort(-scores, kind="stable")[:top]
        return Hits(shown, [_found(columns, int(row), i, scores) for i, row in enumerate(order)])

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras, sorted."""
        return self._store.cameras()

    def candidates(
        self, model: ReID, query: np.ndarray, where: Filter, left_out: Callable[[Entry], bool]
    ) -> Candidates:
        """Return the images of the shortlists; makes an index a gallery of `ReID.search`."""
        self.attach(model)
        after, before = (t if math.isfinite(t) else None for t in (where.after, where.before))
        sql = condition(camera=where.cameras or None, after=after, before=before)
        batches = self._shortlist(self._checked(query), self.about.shortlist, sql)
        scores, columns = self._scored(query, batches)
        entries = [
            Entry(
                path or name,
                os.path.basename(path or name),
                camera or "",
                math.nan if time is None else time,
            )
            for path, name, camera, time in zip(
                *(columns.get(key, []) for key in ("path", "id", "camera", "time")), strict=True
            )
        ]
        kept = np.array([i for i, entry in enumerate(entries) if not left_out(entry)], int)
        passed = self._store.count(sql) if sql else len(self)
        searched = passed - (len(entries) - len(kept))
        return Candidates([entries[i] for i in kept], kept, scores[:, kept], searched)

    def optimize(self) -> None:
        """Merge small parts, sort vectors into cells, and measure again.

        `add` does so where it is due.
        """
        with self._writing():
            self._optimize()

    def measure(self, *, queries: int = QUERIES, deep: int = DEEP) -> dict[int, float]:
        """Measure which share of the exactly best ten a shortlist holds, and choose its length.

        Images of the index are the queries. Each is scored exactly with the `deep` images whose
        vectors are nearest, of all and not of the nearest cells alone; if the index has no more
        images, this is the exact ranking, else the recall is of the best of these.

        Returns:
            Recall by length of the shortlist.
        """
        self._needed()
        if not (size := len(self)):
            return {}
        rows = self._store.sample(queries)
        features = self._features(rows)
        recalls = []
        for i, own in enumerate(rows.columns["id"]):
            query = features[i : i + 1]
            vector = self._vectors(query)[0]
            every = self._store.nearest(vector, deep + 1, where="", every=True)
            (scores,), columns = self._scored(query, iter([every]))
            ids = np.array(columns["id"])
            best = [name for name in ids[np.argsort(-scores, kind="stable")] if name != own][:10]
            if best:
                coarse = self._store.nearest(vector, LENGTHS[-1] + 1, where="").columns["id"]
                places = {name: place for place, name in enumerate(n for n in coarse if n != own)}
                found = np.array([places.get(name, size) for name in best])
                recalls.append([(found < length).mean() for length in LENGTHS])
        if not recalls:
            return {}
        recall = dict(zip(LENGTHS, np.mean(recalls, 0).round(4).tolist(), strict=True))
        enough = [length for length in LENGTHS if recall[length] >= ENOUGH]
        measured = {"queries": len(recalls), "compared": min(deep, size), "images": size}
        self.about = dataclasses.replace(
            self.about,
            shortlist=enough[0] if enough else LENGTHS[-1],
            recall=recall,
            measured=measured,
        )
        self._store.write_about(self.about.as_dict())
        return recall

    def info(self) -> dict[str, Any]:
        """Return what is in the index, as plain data: images, bytes, model, recall, parts."""
        rows, parts, held = self._store.state()
        folder, about = self._store.folder, self.about
        stored = None
        if folder is not None:
            files = (path for path in folder.rglob("*") if path.is_file())
            stored = sum(_size(path) for path in files)
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

    def _embedded(
        self, sources: Sequence[ImageSource], columns: dict[str, list], known: set[str]
    ) -> Iterator[tuple[np.ndarray, dict[str, list]]]:
        """Yield features and columns of the images that are not known, some at a time."""
        reid = self._needed()
        long = len(sources) >= LONG
        features, held = [], []
        with progress("index", total=len(sources)) if long else contextlib.nullcontext() as bar:
            for first in range(0, len(sources), CHUNK):
                chunk, places, names = [], [], []
                for i in range(first, min(first + CHUNK, len(sources))):
                    source = sources[i]
                    name = name_of(source, i)
                    content, digest = _digest_of(source, name)
                    row = {key: cells[i] for key, cells in columns.items()}
                    row["id"] = row["id"] or digest
                    if isinstance(source, str | os.PathLike):
                        row["path"] = row["path"] or os.path.abspath(source)
                    if row["id"] not in known:
                        known.add(row["id"])
                        chunk.append(content)
                        places.append(row)
                        names.append(name)
                if chunk:
                    features.append(reid.embed(chunk, names=names))
                    held += places
                if bar is not None:
                    bar.update(min(CHUNK, len(sources) - first))
                if held and (len(held) >= COMMIT or first + CHUNK >= len(sources)):
                    yield np.concatenate(features), _turned(held)
                    features, held = [], []

    def _given(
        self, features: np.ndarray, columns: dict[str, list], known: set[str]
    ) -> Iterator[tuple[np.ndarray, dict[str, list]]]:
        """Yield features that are not known with their columns, some at a time."""
        for first in range(0, len(features), COMMIT):
            kept, held = [], []
            for i in range(first, min(first + COMMIT, len(features))):
                row = {key: cells[i] for key, cells in columns.items()}
                row["id"] = row["id"] or _digest(np.ascontiguousarray(features[i]).tobytes())
                if row["id"] not in known:
                    known.add(row["id"])
                    kept.append(i)
                    held.append(row)
            if kept:
                yield features[kept], _turned(held)

    def _shortlist(self, features: np.ndarray, length: int, where: str) -> Iterator[Rows]:
        """Yield the images nearest to any of the queries, each once."""
        seen: set[str] = set()
        for vector in self._vectors(features):
            rows = self._store.nearest(vector, length, where=where)
            new = [i for i, name in enumerate(rows.columns["id"]) if name not in seen]
            seen.update(rows.columns["id"])
            columns = {key: [cells[i] for i in new] for key, cells in rows.columns.items()}
            yield Rows(rows.feature[new], columns)

    def _scored(
        self, query: np.ndarray, batches: Iterator[Rows]
    ) -> tuple[np.ndarray, dict[str, list]]:
        """Return the scores [Q, n] of rows with the queries, and the columns of the rows."""
        reid = self._needed()
        scores: list[np.ndarray] = [np.zeros((len(query), 0), np.float32)]
        columns: dict[str, list] = {}
        for rows in batches:
            for first in range(0, len(rows.feature), _SCORED):
                part = Rows(rows.feature[first : first + _SCORED], {})
                scores.append(reid.score(query, self._features(part)))
            for key, cells in rows.columns.items():
                columns.setdefault(key, []).extend(cells)
        return np.concatenate(scores, axis=1), columns

    def _features(self, rows: Rows) -> np.ndarray:
        if rows.feature.dtype == np.float16:
            return rows.feature.astype(np.float32)
        return decode(rows.feature, self.about.shape, self.about.dtype)

    def _vectors(self, features: np.ndarray) -> np.ndarray:
        return vectors(features, unit=self.about.unit)

    def _encoded(self, features: np.ndarray) -> np.ndarray:
        if not self._size:
            return np.empty((len(features), 0), np.uint8)
        return encode(features, self.about.dtype)

    @property
    def _size(self) -> int:
        """Bytes of one image's features beside the vector."""
        shape = self.about.shape
        return size_of(shape, self.about.dtype) if len(shape) == 3 else 0

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

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep other writers out; in an object store, LanceDB refuses what does not fit."""
        folder = self._store.folder
        if folder is None:
            yield
            return
        with hold(folder / "lock", f"index {folder}", wait=True):
            yield


def _columns(metadata: Mapping[str, Any], count: int) -> dict[str, list]:
    """Return a list of values for each column."""
    columns: dict[str, list] = {key: [None] * count for key in ("id", *_KINDS)}
    for key, value in metadata.items():
        check_name(key, tuple(columns), "metadata")
        single = (
            value is None or isinstance(value, str | os.PathLike) or not hasattr(value, "__len__")
        )
        cells = [value] * count if single else list(value)
        if len(cells) != count:
            raise ValueError(
                f"metadata {key!r} has {len(cells)} values for {count} images; expected one for "
                "each, or one for all."
            )
        if key == "id" and single and count > 1 and value is not None:
            raise ValueError("metadata 'id' is one for all; expected one for each image.")
        convert = _KINDS.get(key, str)
        columns[key] = [None if _unknown(cell) else convert(cell) for cell in cells]
    return columns


_KINDS: dict[str, Callable[[Any], Any]] = {
    "path": os.fspath,
    "camera": str,
    "time": seconds,
    "person": str,
}


def _unknown(cell: Any) -> bool:
    return cell is None or cell == "" or cell != cell  # NaN


def _turned(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def _digest_of(source: ImageSource, name: str) -> tuple[ImageSource, str]:
    """Return an image, read if it is a file, and the digest of its bytes or pixels."""
    if isinstance(source, str | os.PathLike):
        try:
            source = pathlib.Path(source).read_bytes()
        except OSError as error:
            raise type(error)(
                f"cannot read image {name}: {error.strerror}; expected the path of an image file"
            ) from error
    if isinstance(source, bytes):
        return source, _digest(source)
    pixels = read_image(source, name)
    return pixels, _digest(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _found(columns: Mapping[str, list], row: int, place: int, scores: np.ndarray) -> Found:
    cells = {key: values[row] for key, values in columns.items()}
    text: dict[str, Any] = {key: cells[key] or "" for key in ("id", "path", "camera", "person")}
    image = text["path"] or text["id"]
    return Found(image, place, float(scores[row]), time=cells["time"], **text)


def _size(path: pathlib.Path) -> int:
    # A file may go while another process merges parts.
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
