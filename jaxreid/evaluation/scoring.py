"""Features of images and scores of pairs, on a mesh.

The gallery is sharded over the devices, and queries are streamed past it.
"""

import copy
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxreid.data.images.pillow import image_batches
from jaxreid.evaluation.compiled import make_encode, make_listed, make_nearest, make_score
from jaxreid.mesh import check_divisible, to_devices, to_host
from jaxreid.models.model import Model
from jaxreid.names import check_name
from jaxreid.runs.files import array_in_file

DTYPES = ("float32", "bfloat16")


class Bar(Protocol):
    """Progress bar."""

    def update(self, n: int) -> Any:
        """Advance by n."""


class Gallery:
    """Features of gallery images, as tiles on the devices.

    Tiles stay on the devices up to half of their free memory; the others are sent on each pass. On
    a CPU none stay, because its memory already holds them.

    Args:
        mesh: the devices.
        features: [G, ...], complete on every process.
        tile: images per tile; a multiple of the number of devices.
    """

    def __init__(self, mesh: Mesh, features: np.ndarray, tile: int) -> None:
        self._mesh, self._features, self.tile = mesh, features, tile
        self._held: list[jax.Array] = []
        self._room = sum(map(_free, mesh.local_devices)) // 2

    def __len__(self) -> int:
        return len(self._features)

    def tiles(self) -> Iterator[tuple[int, jax.Array]]:
        """Yield (first image, [tile, ...] sharded over the devices); the last tile is padded."""
        share = self.tile // jax.process_count()
        mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        for number, first in enumerate(range(0, len(self), self.tile)):
            if number < len(self._held):
                yield first, self._held[number]
                continue
            rows = _padded(self._features[first : first + self.tile], self.tile)[mine]
            sent = to_devices(self._mesh, rows)
            if number == len(self._held) and rows.nbytes * (number + 1) <= self._room:
                self._held.append(sent)
            yield first, sent


class Scorer:
    """Encoder of images and scorer of pairs on a mesh; each function is compiled once.

    Args:
        model: model outside a mesh, with `axis_name=None`.
        mesh: the devices.
        variables: {"params", "batch_stats"} of the model; None until `bind`.
        batch_size: images per encoding step; a multiple of the number of devices.
        query_tile: queries per scoring step.
        gallery_tile: gallery images per scoring step, at most; a multiple of the number of devices.
        flip: as for `make_encode`.
        dtype: dtype of the features. "bfloat16" halves the memory and is several times as fast on
            many devices. Scores are float32.
        precision: precision of float32 products, as in `jax.default_matmul_precision`: "highest"
            gives the same results on any device, "default" is the device's fastest.
        memory: GB of features that this process may hold in memory; 0: half of the machine's.
            `features` keeps more than that in a file.
        memory_dir: folder of that file; None: the system's folder for temporary files.

    Raises:
        ValueError: a size is not divisible by the number of devices, or the dtype is unknown.
    """

    def __init__(
        self,
        model: Model,
        mesh: Mesh,
        variables: Any = None,
        *,
        batch_size: int = 64,
        query_tile: int = 32,
        gallery_tile: int = 512,
        flip: bool = False,
        dtype: str = "float32",
        precision: str = "highest",
        memory: float = 0.0,
        memory_dir: str | None = None,
    ) -> None:
        check_divisible(batch_size, mesh, "eval.batch_size")
        check_divisible(gallery_tile, mesh, "eval.gallery_tile")
        check_name(dtype, DTYPES, "eval.dtype")
        self.model, self.batch_size = model, batch_size
        self.query_tile, self.gallery_tile = query_tile, gallery_tile
        self._mesh, self._dtype, self.variables = mesh, jnp.dtype(dtype), variables
        self.precision = precision
        self._memory = memory * 1e9 or _memory_of_machine() / 2
        self._memory_dir = memory_dir
        self._encode = make_encode(model, mesh, flip=flip, precision=precision)
        self._score, self._nearest, self._listed = (
            make(model, mesh, precision=precision)
            for make in (make_score, make_nearest, make_listed)
        )

    def bind(self, variables: Any) -> "Scorer":
        """Return a copy with other variables and the same compiled functions."""
        bound = copy.copy(self)
        bound.variables = variables
        return bound

    def coarser(self, window: tuple[int, int]) -> "Scorer":
        """Return a copy for maps pooled by a window of rows and columns; the matcher must pool."""
        params = self.variables["params"]
        matcher = self.model.matcher.pooled(params["matcher"], window)
        return self.bind({**self.variables, "params": {**params, "matcher": matcher}})

    def encode(
        self, images: Sequence[Any], names: Sequence[str], bar: Bar | None = None
    ) -> np.ndarray:
        """Return features of at least one image, complete on every process.

        Raises:
            ValueError: an image cannot be read, or features are not finite.
        """
        batches = image_batches(
            images,
            names,
            **self.model.image_format,
            batch_size=self.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return self.features(batches, len(images), bar)

    def features(
        self,
        batches: Iterable[np.ndarray],
        count: int,
        bar: Bar | None = None,
    ) -> np.ndarray:
        """Return features of `count` images, complete on every process, in memory or in a file.

        Args:
            batches: this process's part of every batch, [b, H, W, 3] uint8; the last one is padded
                to full size.
            count: images without the padding, at least 1.
            bar: counts the images.

        Raises:
            ValueError: there are fewer images, or features are not finite.
            OSError: the file of features does not fit on the disk.
        """
        features, done = None, 0
        for batch in _one_ahead(
            self._encode(self.variables, to_devices(self._mesh, batch)) for batch in batches
        ):
            rows = to_host(batch)[: count - done]
            # Maxima in the matcher would hide it.
            if not np.isfinite(rows).all():
                raise ValueError(
                    f"the features of images {done} to {done + len(rows) - 1} are not all finite: "
                    "did the training fail, or are the weights damaged?"
                )
            # Allocated once: batches and their concatenation would take twice the memory.
            if features is None:
                features = self._room((count, *rows.shape[1:]))
            features[done : done + len(rows)] = rows
            done += len(rows)
            _advance(bar, len(rows))
        if features is None or done < count:
            raise ValueError(f"got {done} images; expected {count} to extract features from.")
        return features

    def _room(self, shape: tuple[int, ...]) -> np.ndarray:
        if math.prod(shape) * self._dtype.itemsize <= self._memory:
            return np.empty(shape, self._dtype)
        return array_in_file(shape, self._dtype, self._memory_dir)

    def hold(self, gallery: np.ndarray) -> Gallery:
        """Prepare gallery features that are scored more than once, in tiles with little padding."""
        tile = even_tile(len(gallery), self.gallery_tile, self._mesh.size)
        return Gallery(self._mesh, gallery, tile)

    def scores(
        self,
        query: np.ndarray,
        gallery: np.ndarray | Gallery,
        bar: Bar | None = None,
    ) -> np.ndarray:
        """Score all pairs, tile by tile; scores of padding are discarded.

        Args:
            query: [Q, ...] features.
            gallery: [G, ...] features, or the result of `hold`.
            bar: counts the pairs.

        Returns:
            [Q, G] float32; larger is more similar.
        """
        gallery = self._tiled(gallery)
        scores = np.empty((len(query), len(gallery)), np.float32)
        work = (
            (q, g, self._score(self.variables, rows, tile))
            for g, tile in gallery.tiles()
            for q, rows in _tiles(query, self.query_tile)
        )
        for q, g, block in _one_ahead(work):
            target = scores[q : q + self.query_tile, g : g + gallery.tile]
            target[...] = to_host(block)[: target.shape[0], : target.shape[1]]
            _advance(bar, target.size)
        return scores

    def nearest(
        self,
        query: np.ndarray,
        gallery: np.ndarray | Gallery,
        count: int,
        bar: Bar | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Select the best gallery images of every query on the devices.

        Args:
            query: [Q, ...] features.
            gallery: [G, ...] features, or the result of `hold`.
            count: images per query, 1 to G.
            bar: counts the pairs.

        Returns:
            [Q, count] int64 gallery images, best first, ties by index, and [Q, count] float32
            scores.

        Raises:
            ValueError: `count` is out of range, or scores are NaN.
        """
        gallery = self._tiled(gallery)
        if not 1 <= count <= len(gallery):
            raise ValueError(f"count is {count}; expected 1 to {len(gallery)}, the gallery size.")
        # The largest index loses every tie.
        image = np.full((len(query), count), np.iinfo(np.int64).max)
        score = np.full((len(query), count), -np.inf, np.float32)
        work = (
            (q, g, self._nearest(self.variables, rows, tile, len(gallery) - g, count))
            for g, tile in gallery.tiles()
            for q, rows in _tiles(query, self.query_tile)
        )
        for q, g, best in _one_ahead(work):
            target = slice(q, q + self.query_tile)
            rows = len(image[target])
            new_score, new_image = (x[:rows] for x in to_host(best))
            if np.isnan(new_score).any():
                raise ValueError("scores are NaN: did the training fail?")
            scores = np.concatenate([score[target], new_score], axis=1)
            images = np.concatenate([image[target], new_image + g], axis=1)
            order = np.lexsort((images, -scores), axis=1)[:, :count]
            score[target] = np.take_along_axis(scores, order, axis=1)
            image[target] = np.take_along_axis(images, order, axis=1)
            _advance(bar, rows * min(gallery.tile, len(gallery) - g))
        return image, score

    def _tiled(self, gallery: np.ndarray | Gallery) -> Gallery:
        """Return a gallery; one that is not held has the same tile whatever its size."""
        if isinstance(gallery, Gallery):
            return gallery
        return Gallery(self._mesh, gallery, self.gallery_tile)

    def listed(self, query: np.ndarray, gallery: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Score every query with its own list of gallery images, one query per device.

        Args:
            query: [Q, ...] features.
            gallery: [G, ...] features.
            chosen: [Q, m] int, gallery indices.

        Returns:
            [Q, m] float32.
        """
        count = jax.process_count()
        share, me = self._mesh.size // count, jax.process_index()

        def begun() -> Iterator[tuple[int, jax.Array]]:
            for first, images in _tiles(chosen, self._mesh.size):
                mine = slice(me * share, (me + 1) * share)
                rows = _padded(query[first : first + self._mesh.size], self._mesh.size)[mine]
                sent = to_devices(self._mesh, (rows, gallery[images[mine]]))
                yield first, self._listed(self.variables, *sent)

        scores = np.empty(chosen.shape, np.float32)
        for first, block in _one_ahead(begun()):
            target = scores[first : first + self._mesh.size]
            target[...] = to_host(block)[: len(target)]
        return scores


def even_tile(count: int, most: int, devices: int) -> int:
    """Return the size of the tiles that divide a gallery evenly.

    It is a multiple of the devices and of a 16th of `most`, so that galleries of nearly the same
    size share a compiled program.

    Args:
        count: gallery images, at least 1.
        most: largest tile; a multiple of `devices`.
        devices: number of devices.
    """
    unit = max(1, most // devices // 16) * devices
    share = -(-count // -(-count // most))
    return min(most, -(-share // unit) * unit)


def _advance(bar: Bar | None, count: int) -> None:
    if bar is not None:
        bar.update(count)


def _free(device: jax.Device) -> int:
    """Return the free memory in bytes; 0 where the device does not report it."""
    stats = device.memory_stats() or {}
    return max(0, stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0))


def _memory_of_machine() -> float:
    """Return its bytes; infinity where the system does not report them."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _one_ahead(results: Iterable[Any]) -> Iterator[Any]:
    """Yield each result after starting the next, so that computation overlaps with use."""
    waiting = []
    for result in results:
        waiting.append(result)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting


def _tiles(rows: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    for first in range(0, len(rows), size):
        yield first, _padded(rows[first : first + size], size)


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(rows)
    return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else rows
