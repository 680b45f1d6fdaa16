"""Retrieval metrics under the cross-camera protocol: CMC, mAP and mINP.

For each query, gallery images of the same person *and* the same camera are junk and left out. All
other gallery images stay, including distractors (pid 0) and other people seen by the same camera. A
match is a gallery image of the same person from another camera. A query without a match is skipped
and counted.

Ties count against the system: the rank of a match counts every image whose score is at least as
high as its own. A constant score therefore earns the precision of chance, and the result depends
neither on the gallery's order nor on the sorting algorithm. For average precision this is
scikit-learn's rule.

Source: Zheng et al., ICCV 2015 (protocol, mAP); Ye et al., TPAMI 2021, Section 3.3 (mINP).
Differs: most ReID code breaks ties by the order its sort leaves; without ties all agree.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxreid.names import check_name

PRECISIONS = ("standard", "trapezoid")


@dataclasses.dataclass(frozen=True)
class QueryRanks:
    """Ranks and precision of N queries.

    Attributes:
        average_precision: [N] float64 in (0, 1]; NaN for a query without a match.
        first_match: [N] int64, rank of the best match, from 1; 0 without a match.
        inverse_negative_penalty: [N] float64 in (0, 1], matches / rank of the hardest match; NaN
            without a match.
        matches: [N] int64, matches in the gallery; 0 for a query that is skipped.
    """

    average_precision: np.ndarray
    first_match: np.ndarray
    inverse_negative_penalty: np.ndarray
    matches: np.ndarray

    def __len__(self) -> int:
        return len(self.matches)

    @classmethod
    def concatenate(cls, parts: Sequence["QueryRanks"]) -> "QueryRanks":
        """Join the ranks of consecutive tiles of queries, in the order of `parts`.

        Raises:
            ValueError: `parts` is empty.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("no tile of queries to join; rank at least one tile first.")
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})

    def take(self, chosen: np.ndarray) -> "QueryRanks":
        """Select the queries at indices [M] int, in that order."""
        return QueryRanks(**{name: values[chosen] for name, values in vars(self).items()})


def rank_queries(
    scores: np.ndarray,
    query_pid: np.ndarray,
    query_camid: np.ndarray,
    gallery_pid: np.ndarray,
    gallery_camid: np.ndarray,
    *,
    precision: str = "standard",
) -> QueryRanks:
    """Rank each query's matches in the whole gallery.

    Queries are independent, so a large evaluation calls this tile by tile (some queries, the whole
    gallery) and joins the parts with `QueryRanks.concatenate`.

    Args:
        scores: [Q, G] float, without NaN; larger is more similar.
        query_pid: [Q] int, person of each query.
        query_camid: [Q] int, camera of each query.
        gallery_pid: [G] int.
        gallery_camid: [G] int.
        precision: definition of average precision: "standard", the mean over all matches; or
            "trapezoid", the area under the curve of precision over recall, as in QAConv 1.0 and
            1.1. Its values differ slightly: do not mix them.

    Returns:
        Ranks of the Q queries.

    Raises:
        ValueError: shapes do not match, the gallery is empty, a score is NaN, or `precision` is
            unknown.
    """
    check_name(precision, PRECISIONS, "average precision")
    scores = _comparable(scores)
    n = len(scores)
    average_precision, penalty = np.full(n, np.nan), np.full(n, np.nan)
    first_match, matches = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for q, row, match, junk in _rows(scores, query_pid, query_camid, gallery_pid, gallery_camid):
        matches[q] = match.size
        if not match.size:
            continue
        # Ranks are counts, not positions in a sorted gallery, so that ties have no order.
        worst_first = np.sort(row[match])
        hits = _count_at_least(worst_first, worst_first)
        rank = _count_at_least(worst_first, row) - _count_at_least(worst_first, row[junk])
        average_precision[q] = np.mean(hits / rank)
        if precision == "trapezoid":
            above = _count_at_least(worst_first, row, more=True)
            above -= _count_at_least(worst_first, row[junk], more=True)
            hits_above = _count_at_least(worst_first, worst_first, more=True)
            # The curve begins at precision 1.
            before = np.where(above, hits_above / np.maximum(above, 1), 1.0)
            average_precision[q] = np.mean((hits / rank + before) / 2)
        first_match[q] = 1 + rank[-1] - hits[-1]
        penalty[q] = match.size / rank[0]
    return QueryRanks(average_precision, first_match, penalty, matches)


def summarize(ranks: QueryRanks, ks: Iterable[int] = (1, 5, 10)) -> dict[str, float | int]:
    """Average over the queries that have a match.

    Args:
        ranks: ranks of all queries.
        ks: ranks, from 1, at which the cumulative match characteristic is read.

    Returns:
        `rank{k}` for each k, `mAP` and `mINP`, all fractions in [0, 1]; the counts `queries` (those
        averaged over) and `queries_without_match` (those skipped).

    Raises:
        ValueError: no query has a match.
    """
    valid = ranks.matches > 0
    count = int(valid.sum())
    if not count:
        raise ValueError(
            f"none of the {len(ranks)} queries has a match in the gallery: a match has the same "
            "pid and another camid. Check that query and gallery belong together; a set with a "
            "single camera cannot be evaluated across cameras."
        )
    first = ranks.first_match[valid]
    summary: dict[str, float | int] = {f"rank{k}": float(np.mean(first <= k)) for k in ks}
    summary["mAP"] = float(np.mean(ranks.average_precision[valid]))
    summary["mINP"] = float(np.mean(ranks.inverse_negative_penalty[valid]))
    summary["queries"] = count
    summary["queries_without_match"] = len(ranks) - count
    return summary


def top_matches(
    scores: np.ndarray,
    query_pid: np.ndarray,
    query_camid: np.ndarray,
    gallery_pid: np.ndarray,
    gallery_camid: np.ndarray,
    k: int = 10,
) -> np.ndarray:
    """Return the best gallery images of each query, without junk.

    Args:
        scores: [Q, G] float, or [G] for one query, without NaN; larger is more similar.
        query_pid: [Q] int, or a scalar for one query.
        query_camid: [Q] int, or a scalar for one query.
        gallery_pid: [G] int.
        gallery_camid: [G] int.
        k: images per query, at least 1.

    Returns:
        [Q, k] (or [k]) int64 gallery indices, best first, ties in gallery order. Where fewer than k
        images remain without junk, the end is filled with -1.

    Raises:
        ValueError: shapes do not match, the gallery is empty, a score is NaN, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1.")
    scores = _comparable(scores)
    if scores.ndim == 1:
        one = scores[None], np.reshape(query_pid, 1), np.reshape(query_camid, 1)
        return top_matches(*one, gallery_pid, gallery_camid, k)[0]
    top = np.full((len(scores), k), -1, np.int64)
    for q, row, _, junk in _rows(scores, query_pid, query_camid, gallery_pid, gallery_camid):
        keep = np.delete(np.arange(row.size), junk)
        left = row[keep]
        # Keep everything that ties with the k-th, so that the gallery order decides.
        if keep.size > k:
            keep = keep[left >= np.partition(left, keep.size - k)[keep.size - k]]
            left = row[keep]
        best = keep[np.argsort(-left, kind="stable")[:k]]
        top[q, : best.size] = best
    return top


def _comparable(scores: np.ndarray) -> np.ndarray:
    """Convert scores to float32 or float64, whichever holds them exactly; bfloat16 sorts slowly."""
    scores = np.asarray(scores)
    if scores.dtype in (np.float32, np.float64):
        return scores
    return scores.astype(np.float32 if scores.dtype.itemsize <= 2 else np.float64)


def _count_at_least(
    thresholds: np.ndarray, values: np.ndarray, *, more: bool = False
) -> np.ndarray:
    """Count for each of the ascending thresholds [m] the values >= it; return [m] int64.

    With `more`, count the values > it.
    """
    # Most values lie below the lowest threshold and need no sorting. NumPy sorts the rest without
    # indices by vector instructions: several times faster than any argsort and than searching each
    # value among the thresholds. `flatnonzero`, because a boolean index takes three times as long.
    reached = np.sort(values[np.flatnonzero(values >= thresholds[0])])
    return reached.size - np.searchsorted(reached, thresholds, side="right" if more else "left")


def _rows(
    scores: np.ndarray,
    query_pid: np.ndarray,
    query_camid: np.ndarray,
    gallery_pid: np.ndarray,
    gallery_camid: np.ndarray,
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (query index, its scores [G], gallery indices of its matches, of its junk)."""
    query_pid, query_camid = np.asarray(query_pid), np.asarray(query_camid)
    gallery_pid, gallery_camid = np.asarray(gallery_pid), np.asarray(gallery_camid)
    if gallery_pid.size == 0:
        raise ValueError(
            "the gallery is empty: there is nothing to rank. Check the data set's gallery split."
        )
    expected = (query_pid.size, gallery_pid.size)
    if (
        scores.shape != expected
        or query_pid.shape != query_camid.shape
        or gallery_pid.shape != gallery_camid.shape
        or (query_pid.ndim, gallery_pid.ndim) != (1, 1)
    ):
        raise ValueError(
            f"shapes do not match: scores {scores.shape}, query_pid {query_pid.shape}, query_camid "
            f"{query_camid.shape}, gallery_pid {gallery_pid.shape}, gallery_camid "
            f"{gallery_camid.shape}; expected [Q, G], [Q], [Q], [G], [G]. Pass a tile of queries "
            "with its own ids and those of the whole gallery."
        )
    by_person = np.argsort(gallery_pid, kind="stable")
    sorted_pid = gallery_pid[by_person]
    start = np.searchsorted(sorted_pid, query_pid, side="left")
    stop = np.searchsorted(sorted_pid, query_pid, side="right")
    for q, row in enumerate(scores):
        # max propagates NaN and needs no mask of the gallery's size.
        if np.isnan(row.max()):
            raise ValueError(
                f"row {q} of the scores (query pid {query_pid[q]}, camid {query_camid[q]}) holds "
                f"{np.isnan(row).sum()} NaN of {row.size} scores; a ranking needs numbers. Look "
                "for a division by zero or an overflow in this query's features, or in the "
                "gallery's."
            )
        same = by_person[start[q] : stop[q]]
        other_camera = gallery_camid[same] != query_camid[q]
        yield q, row, same[other_camera], same[~other_camera]
