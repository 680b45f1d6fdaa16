"""k-reciprocal re-ranking: images that share their neighbourhoods are similar.

An image is described by its k-reciprocal neighbours: images near it that also have it near them.
The Jaccard distance between the descriptions of two images is mixed with their original distance.
Only some tens of N images are neighbours, so distances are requested block by block, reduced at
once to the nearest few of each image, and dropped. Memory grows with N * k.

Source: Zhong et al., CVPR 2017, Sections 3.2 to 3.5.
Differs: exact up to float32 rounding, where the usual code holds dense N x N descriptions, some in
    half precision. Equal distances are ordered by image index, not by the sorting algorithm. An
    image at distance 0 from all others keeps these distances, where others divide 0 by 0.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from jaxreid.evaluation.ranking.neighbours import TILE, Sparse, averaged, expanded, smallest

Distances = Callable[[np.ndarray], np.ndarray]
Pairs = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Distances kept of each image, as a multiple of the neighbourhood.
_KEPT = 4
# Numbers processed at a time where every distance is touched; they stay in the cache.
_CACHED = 2**18


def rerank(
    distances: Distances,
    num_query: int,
    num_gallery: int,
    *,
    pairs: Pairs | None = None,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    squared: bool = False,
    normalize: bool = True,
    block: int = 256,
) -> np.ndarray:
    """Return re-ranked distances of all queries to the whole gallery.

    Images 0 to Q - 1 are the queries, Q to Q + G - 1 = N - 1 the gallery. Distances are converted
    to float32. A pair must have the same distance in every call.

    Args:
        distances: `distances(images)` takes `images` [m] int64, m at most `block`, and returns
            [m, N] float: row i is the distance of every image *to* images[i]. Where distances are
            not symmetric, these are columns of the matrix [from, to], as in the usual code. Called
            once for each run of `block` images, then again for some images (see `pairs`).
        num_query: Q, at least 1.
        num_gallery: G, at least 1.
        pairs: `pairs(to, source)` returns the distances [m] float of the images `source` [m] int64
            to the images `to` [m]. An expanded neighbourhood may reach far beyond the nearest
            images, whose distances are kept. Without `pairs`, `distances` is called again for the
            images with such a neighbourhood, `block` at a time and each once: from one in a
            hundred, where people are well separated, to most.
        k1: neighbours of an image, excluding itself, at least 1. May exceed N.
        k2: nearest images, including itself, whose descriptions are averaged, at least 1; 1
            averages nothing.
        weight: weight of the original distance in the result, 0 to 1 (lambda in the paper).
        squared: square the distances, as torchreid does with Euclidean ones. QAConv does not.
        normalize: divide each image's distances by their largest, as all published code does.
        block: images per call of `distances`. The result does not depend on it.

    Returns:
        [Q, G] float32; smaller is more similar.

    Raises:
        ValueError: an argument is out of range, or distances have the wrong shape, are not finite,
            are negative with `squared`, or with `normalize` have negative values and no positive
            one to divide by (such as raw logits times -1).
    """
    problem = _Problem(
        distances, num_query, num_gallery, pairs, k1, k2, weight, squared, normalize, block
    )
    result = np.empty((num_query, num_gallery), np.float32)
    for queries, rows in problem.solve(problem.blocks(np.arange(num_query)), keep=result):
        result[queries] = rows
    return result


def rerank_blocks(
    distances: Distances,
    num_query: int,
    num_gallery: int,
    *,
    parts: Sequence[np.ndarray] | None = None,
    **options,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return an iterator over re-ranked distances, some queries at a time.

    For callers that reduce them at once: no Q x G matrix is held, but the distances to the queries
    are requested twice.

    Args:
        distances: as in `rerank`.
        num_query: Q, at least 1.
        num_gallery: G, at least 1.
        parts: queries [q] int to return together; runs of `block` queries if None.
        **options: options of `rerank`.

    Returns:
        Pairs of (queries [q] int, [q, G] float32), one for each part: the rows of `rerank`.

    Raises:
        ValueError: as `rerank`; errors of the distances are raised with the first pair.
    """
    problem = _Problem(distances, num_query, num_gallery, **options)
    return problem.solve(problem.blocks(np.arange(num_query)) if parts is None else parts)


def rerank_matrix(matrix: np.ndarray, num_query: int, **options) -> np.ndarray:
    """Return re-ranked distances from the full matrix of the original ones.

    Args:
        matrix: [N, N] float, from each image to each, queries first. Need not be symmetric.
        num_query: Q, from 1 to N - 1.
        **options: options of `rerank`, except `pairs`.

    Returns:
        [Q, N - Q] float32; smaller is more similar.

    Raises:
        ValueError: the matrix is not square, and as `rerank`.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"the matrix is {list(matrix.shape)}; expected [N, N], from all images (queries and "
            "gallery) to all. Distances between queries and gallery alone do not suffice."
        )
    n = len(matrix)

    def columns(images: np.ndarray) -> np.ndarray:
        # `images` is one run: all other distances are requested from `pairs`.
        run = slice(images[0], images[-1] + 1)
        rows = np.empty((len(images), n), np.float32)
        # Seven times faster than all at once, which leaves the cache.
        for i in range(0, n, 512):
            rows[:, i : i + 512] = matrix[i : i + 512, run].T
        return rows

    options["pairs"] = lambda to, source: matrix[source, to]
    return rerank(columns, num_query, n - num_query, **options)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Distances and options of one re-ranking; see `rerank`."""

    distances: Distances
    num_query: int
    num_gallery: int
    pairs: Pairs | None = None
    k1: int = 20
    k2: int = 6
    weight: float = 0.3
    squared: bool = False
    normalize: bool = True
    block: int = 256

    def __post_init__(self):
        for name in ("num_query", "num_gallery", "k1", "k2", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight}; expected a number from 0 to 1.")

    def solve(
        self, parts: Iterable[np.ndarray], keep: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows of each part; [Q, G] `keep` saves requesting their distances again."""
        nearest, distance, scale = self._nearest(keep)
        code = self._codes(nearest, distance, scale)
        if self.k2 > 1:
            code = averaged(code, nearest[:, : self.k2])
        postings = code.by_column(self.num_query)
        for part in parts:
            rows = np.empty((len(part), self.num_gallery), np.float32)
            for start in range(0, len(part), self.block):
                queries = part[start : start + self.block]
                tile = rows[start : start + self.block]
                tile[:] = (
                    keep[queries] if keep is not None else self._ask(queries)[:, -tile.shape[1] :]
                )
                tile[:] = self.weight * self._scaled(tile, scale[queries, None])
                for row, query in zip(tile, queries, strict=True):
                    row += (1 - self.weight) * self._jaccard(code, postings, query)
            yield part, rows

    def blocks(self, images: np.ndarray) -> Iterator[np.ndarray]:
        return (images[i : i + self.block] for i in range(0, len(images), self.block))

    def _ask(self, images: np.ndarray) -> np.ndarray:
        rows = np.asarray(self.distances(images), np.float32)
        expected = len(images), self.num_query + self.num_gallery
        if rows.shape != expected:
            raise ValueError(
                f"distances(images) of {len(images)} images has shape {list(rows.shape)}; expected "
                f"{list(expected)}: from all queries and gallery images to each of these images."
            )
        return rows

    def _nearest(self, keep: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return each image's nearest [N, count], their distances, and the divisors [N]."""
        n = self.num_query + self.num_gallery
        count = min(n, _KEPT * (max(self.k1, self.k2) + 1))
        nearest, distance = np.empty((n, count), np.int32), np.empty((n, count), np.float32)
        largest, height = np.empty(n, np.float32), max(1, _CACHED // n)
        for images in self.blocks(np.arange(n)):
            start, stop = int(images[0]), int(images[-1]) + 1
            rows = self._ask(images)
            if keep is not None:
                keep[start:stop] = rows[: max(self.num_query - start, 0), self.num_query :]
            for i in range(start, stop, height):
                part = np.ascontiguousarray(rows[i - start : i - start + height])
                span = slice(i, i + len(part))
                largest[span] = part.max(axis=1)
                nearest[span], distance[span] = smallest(part, count)
            self._check(start, distance[start:stop, 0], largest[start:stop])
        return nearest, distance, np.where(self.normalize & (largest != 0), largest, 1)

    def _check(self, first: int, least: np.ndarray, largest: np.ndarray):
        def refuse(bad: np.ndarray, expected: str):
            if bad.any():
                i = int(bad.argmax())
                raise ValueError(
                    f"the distances to image {first + i} lie between {least[i]:g} and "
                    f"{largest[i]:g}; expected {expected}"
                )

        finite = np.isfinite(least) & np.isfinite(largest)
        refuse(~finite, "finite numbers. Look for NaN, infinity or overflow in the features.")
        if self.squared:
            # Tolerate rounding errors, as of |a|^2 + |b|^2 - 2ab.
            bad = least < -1e-3 * np.abs(largest)
            refuse(bad, "distances of at least 0 to square. For others set squared=False.")
        if self.normalize:
            refuse(
                (least < 0) & (largest <= 0),
                "at least one above 0, because all are divided by the largest. Convert scores to "
                "distances first, such as 1 - sigmoid(score / 10), or set normalize=False.",
            )

    def _scaled(self, distance: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return np.square(distance / scale) if self.squared else distance / scale

    def _codes(self, nearest: np.ndarray, distance: np.ndarray, scale: np.ndarray) -> Sparse:
        """Compute each image's weights of its expanded k-reciprocal neighbours; equation 7."""
        n, parts = len(nearest), []
        known = np.full((TILE, n), np.nan, np.float32)
        for first, row, column in expanded(nearest, self.k1):
            tile = slice(first, first + TILE)
            kept = np.arange(len(nearest[tile]))[:, None], nearest[tile]
            known[kept] = distance[tile]
            parts.append((row + first, column, known[row, column]))
            known[kept] = np.nan
        row, column, value = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        self._complete(row, column, value)
        value = self._scaled(value.astype(np.float64), scale[row])
        closest = np.full(n, np.inf)
        np.minimum.at(closest, row, value)
        # Subtracting the closest keeps logits from overflowing and cancels in the normalisation.
        value = np.exp(closest[row] - value)
        return Sparse.collect([(row, column, value / np.bincount(row, value)[row])], n)

    def _complete(self, row: np.ndarray, column: np.ndarray, value: np.ndarray):
        """Request the distances that were not kept."""
        missing = np.flatnonzero(np.isnan(value))
        if self.pairs and len(missing):
            got = np.asarray(self.pairs(row[missing], column[missing]), np.float32)
            if got.shape != missing.shape or not np.isfinite(got).all():
                raise ValueError(
                    f"pairs(to, source) of {list(missing.shape)} images has shape "
                    f"{list(got.shape)}; expected as many finite distances."
                )
            value[missing] = got
            return
        # Ascending, because the rows are.
        to = row[missing]
        for images in self.blocks(np.unique(to)):
            at = missing[slice(*np.searchsorted(to, (images[0], images[-1] + 1)))]
            value[at] = self._ask(images)[np.searchsorted(images, row[at]), column[at]]

    def _jaccard(self, code: Sparse, postings: Sparse, query: int) -> np.ndarray:
        """Return the distances of one query to the gallery [G] float64; equation 10."""
        own = slice(code.start[query], code.start[query + 1])
        at, count = postings.entries(code.column[own])
        common = np.minimum(np.repeat(code.value[own], count), postings.value[at])
        shared = np.bincount(postings.column[at], common, self.num_gallery)
        return 1 - shared / (2 - shared)
