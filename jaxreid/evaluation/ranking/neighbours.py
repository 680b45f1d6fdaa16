"""Nearest and k-reciprocal neighbours of N images, and sparse matrices of them.

Source: Zhong et al., CVPR 2017, Sections 3.2 and 3.5.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

# Images processed at a time.
TILE = 128


class Sparse(NamedTuple):
    """Sparse matrix in row order; row i holds the non-zeros start[i] to start[i + 1] - 1.

    Attributes:
        start: [rows + 1] int64.
        column: int32, column of each non-zero.
        value: float32, value of each non-zero.
    """

    start: np.ndarray
    column: np.ndarray
    value: np.ndarray

    @classmethod
    def collect(cls, parts: Iterable[tuple[np.ndarray, ...]], n: int) -> "Sparse":
        """Build a matrix of n rows from row-ordered parts (row, column, value) of non-zeros."""
        row, column, value = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))])
        return cls(start, column.astype(np.int32), value.astype(np.float32))

    def entries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the non-zeros of `rows`, row after row, and the count per row."""
        count = self.start[rows + 1] - self.start[rows]
        shift = self.start[rows] - (np.cumsum(count) - count)
        return np.arange(count.sum()) + np.repeat(shift, count), count

    def by_column(self, first: int) -> "Sparse":
        """Transpose this square matrix without its rows before `first`, which becomes column 0."""
        n = len(self.start) - 1
        row = np.repeat(np.arange(n), np.diff(self.start)) - first
        order = np.argsort(self.column, kind="stable")
        order = order[row[order] >= 0]
        return Sparse.collect([(self.column[order], row[order], self.value[order])], n)


def smallest(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest values of each row, ascending; ties are ordered by column.

    Args:
        rows: [b, N] float. NaN counts as large: it may displace large values, never small ones.
        count: values per row, 1 to N.

    Returns:
        Columns [b, count] int32 and values [b, count].
    """
    n = rows.shape[1]
    # The count-th smallest minimum of disjoint groups is an upper bound of the row's count-th
    # smallest value. Few other values lie below it, so two unordered passes leave little to sort.
    groups = min(n, 4 * count)
    minima = rows[:, :groups].copy()
    for i in range(groups, n - groups + 1, groups):
        np.minimum(minima, rows[:, i : i + groups], out=minima)
    bound = np.partition(minima, count - 1, axis=1)[:, count - 1 : count]
    # `~(>)` keeps NaN, so that each row has at least `count` entries.
    row, column = np.divmod(np.flatnonzero(~(rows > bound)), n)
    counts = np.bincount(row, minlength=len(rows))
    place = np.arange(row.size) - np.repeat(np.cumsum(counts) - counts, counts)
    values = np.full((len(rows), counts.max()), np.inf, rows.dtype)
    columns = np.zeros(values.shape, np.int32)
    values[row, place], columns[row, place] = rows[row, column], column
    order = np.argsort(values, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(columns, order, 1), np.take_along_axis(values, order, 1)


def expanded(nearest: np.ndarray, k1: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield k-reciprocal neighbours, expanded by those of neighbours that share most of them.

    Args:
        nearest: [N, at least min(N, k1 + 1)] int, nearest first, usually the image itself.
        k1: neighbours of an image to consider, excluding itself; half as many of each neighbour.

    Yields:
        Tiles of `TILE` images: (first image, row in the tile [m], neighbour [m]), ascending.
    """
    whole, half = nearest[:, : k1 + 1], nearest[:, : round(k1 / 2) + 1]
    mutual, half_mutual = _mutual(whole), _mutual(half)
    member = np.zeros((TILE, len(nearest)), bool)
    for first in range(0, len(nearest), TILE):
        near, near_mutual = whole[first : first + TILE], mutual[first : first + TILE]
        row = np.arange(len(near))[:, None]
        member[row, near] = near_mutual
        theirs = half[near]
        valid = half_mutual[near] & near_mutual[:, :, None]
        common = valid & member[row[:, :, None], theirs]
        joins = 3 * common.sum(axis=2) > 2 * valid.sum(axis=2)
        where = np.nonzero(valid & joins[:, :, None])
        member[where[0], theirs[where]] = True
        members = np.divmod(np.flatnonzero(member), len(nearest))
        member[members] = False
        yield first, *members


def averaged(code: Sparse, nearest: np.ndarray) -> Sparse:
    """Average the rows of `code` [N, N] over the nearest images [N, k2] (local query expansion)."""
    (n, k2), parts = nearest.shape, []
    for first in range(0, n, TILE):
        tile = nearest[first : first + TILE]
        at, count = code.entries(tile.ravel())
        key = np.repeat(np.arange(first, first + len(tile)).repeat(k2), count) * n + code.column[at]
        key, place = np.unique(key, return_inverse=True)
        value = np.bincount(place, code.value[at], len(key)) / k2
        parts.append((*np.divmod(key, n), value))
    return Sparse.collect(parts, n)


def _mutual(nearest: np.ndarray) -> np.ndarray:
    """Return [N, k] bool: whether the image is in turn among the nearest of its neighbour."""
    image = np.arange(len(nearest))[:, None]
    return np.stack([(nearest[column] == image).any(axis=1) for column in nearest.T], axis=1)
