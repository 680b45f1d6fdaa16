"""TLift, temporal lifting: people who walk together in one camera may do so in another.

People seen by the query's camera at about the query's time are its companions. Where any of them
has good matches in a gallery camera, the query has probably passed too: gallery images near those
matches in time are lifted, all others are suppressed.

Source: Liao and Shao, ECCV 2020 (arXiv 1904.10424).
"""

import numpy as np

# Numbers of a kernel that are held at once.
_TILE = 2**20
# Number of pivots up to which their kernel rows are added one by one.
_FEW = 100


def tlift(
    score: np.ndarray,
    *,
    query_camid: np.ndarray,
    query_time: np.ndarray,
    gallery_camid: np.ndarray,
    gallery_time: np.ndarray,
    tau: float = 100.0,
    sigma: float = 200.0,
    k: int = 10,
    alpha: float = 0.2,
) -> np.ndarray:
    """Lift scores by the times at which companions are matched.

    Let R be the queries from the query's camera less than tau seconds from it, including itself.
    The pivots are the k best scored gallery images of one camera over all of R; an image matched by
    two companions counts twice, and ties with the k-th are pivots too. An image of that camera that
    is d seconds from a pivot gets

        score * (mean over pivots of exp(-(d / sigma)^2) + alpha).

    The query's own camera is lifted like the others. A query's row depends on its companions' rows:
    a streaming caller passes the blocks of queries that `companion_blocks` returns, each with the
    whole gallery, and gets the numbers of one large call (up to rounding where a query has more
    than 100 pivots because of many ties or a large k).

    Args:
        score: [Q, G] float, in [0, 1], larger is more similar: sigmoid(logit / 10) or, as in the
            paper's results, 1 - the distance re-ranked from 1 - sigmoid(logit / 10). Raw logits and
            other scores of both signs raise no error, but lifting them is meaningless.
        query_camid: [Q] int, from 0.
        query_time: [Q] float, seconds; compared only within a camera.
        gallery_camid: [G] int, from 0.
        gallery_time: [G] float, seconds; compared only within a camera.
        tau: seconds, positive; companions are closer than this.
        sigma: seconds, positive; time scale of the lift around a pivot.
        k: pivots of a query in each gallery camera, at least 1.
        alpha: share of a score that remains without any lift; not negative.

    Returns:
        [Q, G] float, of the dtype of `score` (float32 for half precision).

    Raises:
        ValueError: shapes do not match, a score is NaN, a camera is negative, a time is not finite
            (the message lists the data sets with times), or a parameter is out of its range.

    Source: Liao and Shao, ECCV 2020, in the form of the original code.
    Differs: the original code fails if a camera below the gallery's highest has no gallery image;
        here nothing is lifted in such a camera, and its queries are lifted like all others. As in
        the original, a query from a camera above the gallery's highest gets alpha * score.
    """
    score = np.asarray(score)
    if score.dtype != np.float64:
        score = score.astype(np.float32, copy=False)
    query_camid, query_time = _sightings("query", query_camid, query_time)
    gallery_camid, gallery_time = _sightings("gallery", gallery_camid, gallery_time)
    if score.shape != (query_camid.size, gallery_camid.size):
        raise ValueError(
            f"shapes do not match: score {score.shape}, {query_camid.size} queries and "
            f"{gallery_camid.size} gallery images; expected [Q, G]."
        )
    if not (tau > 0 and sigma > 0 and k >= 1 and alpha >= 0):
        raise ValueError(
            f"tau {tau}, sigma {sigma}, k {k}, alpha {alpha}; expected tau > 0 and sigma > 0 "
            "(seconds), k >= 1 and alpha >= 0."
        )
    # max propagates NaN and needs no mask of this size.
    if score.size and np.isnan(score.max()):
        raise ValueError(f"{np.isnan(score).sum()} of {score.size} scores are NaN.")
    alpha = score.dtype.type(alpha)
    lifted = alpha * score
    galleries = _cameras(gallery_camid)
    for camera, rows in _cameras(query_camid).items():
        if camera > max(galleries, default=-1):
            continue
        rows = rows[np.argsort(query_time[rows], kind="stable")]
        first, last = _companions(query_time[rows], tau)
        for columns in galleries.values():
            own = np.empty((rows.size, columns.size), score.dtype)
            # Row by row takes a quarter of the time of np.ix_; mode="raise" would copy.
            for row, values in zip(rows, own, strict=True):
                score[row].take(columns, out=values, mode="clip")
            counts = _pivots(own, first, last, k)
            own *= _nearness(counts, gallery_time[columns], sigma, own.dtype) + alpha
            for row, values in zip(rows, own, strict=True):
                lifted[row][columns] = values
    return lifted


def companion_blocks(
    query_camid: np.ndarray, query_time: np.ndarray, *, tau: float = 100.0, size: int = 256
) -> list[np.ndarray]:
    """Split queries into blocks that `tlift` can take one at a time.

    Queries are sorted by camera and time, and cut between cameras and at pauses of tau or longer,
    so that no query is separated from a companion. The blocks are formed before anything is scored,
    so an evaluator holds the scores of one block at a time.

    Args:
        query_camid: [Q] int, from 0.
        query_time: [Q] float, seconds.
        tau: seconds, as for `tlift`.
        size: queries per block, if companions allow it. People who follow each other without a
            pause make a block larger, up to all queries of one camera.

    Returns:
        Blocks [q] int64 of query indices; together each of 0 .. Q - 1 once.

    Raises:
        ValueError: shapes do not match, a camera is negative, or a time is not finite.
    """
    camid, time = _sightings("query", query_camid, query_time)
    order = np.lexsort((time, camid))
    separated = (np.diff(camid[order]) != 0) | ~(np.diff(time[order]) < tau)
    groups = [g for g in np.split(order, 1 + np.flatnonzero(separated)) if g.size]
    blocks: list[list[np.ndarray]] = []
    for group in groups:
        if blocks and sum(g.size for g in blocks[-1]) + group.size <= size:
            blocks[-1].append(group)
        else:
            blocks.append([group])
    return [np.concatenate(block) for block in blocks]


def _cameras(camid: np.ndarray) -> dict[int, np.ndarray]:
    """Return the indices of each camera's images."""
    return {int(camera): np.flatnonzero(camid == camera) for camera in np.unique(camid)}


def _companions(time: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of the ascending times [q] the window first .. last - 1 closer than tau."""
    # Compare differences, as the original code does: |a - b| < tau and a < b + tau round
    # differently.
    first, last = np.empty((2, time.size), np.int64)
    for i, now in enumerate(time):
        near = np.flatnonzero(np.abs(time - now) < tau)
        first[i], last[i] = near[0], near[-1] + 1
    return first, last


def _pivots(score: np.ndarray, first: np.ndarray, last: np.ndarray, k: int) -> np.ndarray:
    """Count the pivots of all queries in one camera.

    Args:
        score: [q, g], queries in the order of time.
        first: [q] int, first companion of each query.
        last: [q] int, one past its last companion.
        k: pivots per query.

    Returns:
        [q, g] int32, number of companions by which an image is a pivot of a query.
    """
    # A score below the k-th of its own row is not among the k best of several rows.
    kth = _kth_largest(score, k)
    listed = score >= kth[:, None]
    # Rows where many scores tie with the k-th would make lists of up to q * g entries per query.
    # Only k of these ties are listed, which suffices to find the k-th of several rows. The others
    # are pivots where that k-th is not higher than they are; a matrix product counts them.
    crowded = np.flatnonzero(np.count_nonzero(listed, axis=1) > 2 * k)
    others = score[crowded] == kth[crowded, None]
    others &= others.cumsum(axis=1) > k
    listed[crowded] &= ~others
    # Five times as fast as nonzero.
    row, column = np.divmod(np.flatnonzero(listed), score.shape[1])
    best = score[row, column]
    start = np.searchsorted(row, np.arange(len(score) + 1))
    counts, least = np.zeros(score.shape, np.int32), np.empty_like(kth)
    for i, (a, b) in enumerate(zip(start[first], start[last], strict=True)):
        least[i] = _kth_largest(best[a:b], k)
        np.add.at(counts[i], column[a:b][best[a:b] >= least[i]], 1)
    if crowded.size:
        near = (first[:, None] <= crowded) & (crowded < last[:, None])
        near &= kth[crowded] == least[:, None]
        counts += (near.astype(np.float32) @ others.astype(np.float32)).astype(np.int32)
    return counts


def _kth_largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the k-th largest value along the last axis, or the smallest if there are fewer."""
    place = max(values.shape[-1] - k, 0)
    return np.partition(values, place)[..., place]


def _nearness(count: np.ndarray, time: np.ndarray, sigma: float, dtype: np.dtype) -> np.ndarray:
    """Return [q, g]: mean over the pivots counted in `count` of exp(-(seconds apart / sigma)^2)."""
    # Queries share pivots, so the exponential is computed once for each image that is a pivot.
    used = np.flatnonzero(count.max(axis=0))
    count = count[:, used]
    total = count.sum(axis=1)
    # A matrix product bounds the time for many pivots. Few pivots are added one by one in a fixed
    # order, so that neither the other queries nor the width of a tile change a bit.
    many = np.flatnonzero(total > _FEW)
    weight = count[many].astype(dtype)
    few = {i: np.repeat(np.arange(used.size), count[i]) for i in np.flatnonzero(total <= _FEW)}
    nearness = np.empty((total.size, time.size), dtype)
    width = max(1, _TILE // used.size)
    for left in range(0, time.size, width):
        tile = slice(left, left + width)
        # Seconds may be too large for float32; their differences, where they matter, are not.
        apart = np.empty((used.size, time[tile].size), dtype)
        np.subtract(time[used, None], time[tile], out=apart, casting="same_kind")
        apart /= sigma
        kernel = np.exp(np.multiply(apart, -apart, out=apart), out=apart)
        for i, pivots in few.items():
            np.add.reduce(kernel[pivots], axis=0, out=nearness[i, tile])
        if many.size:
            # Products of subnormal numbers take ten times as long.
            kernel[kernel < np.finfo(dtype).tiny] = 0
            nearness[many, tile] = weight @ kernel
    nearness /= total[:, None].astype(dtype)
    return nearness


def _sightings(split: str, camid: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return checked cameras [N] and times [N] float64; `split` is "query" or "gallery"."""
    camid, time = np.asarray(camid), np.asarray(time, np.float64)
    if camid.ndim != 1 or camid.shape != time.shape:
        raise ValueError(
            f"shapes do not match: {split}_camid {camid.shape}, {split}_time {time.shape}; "
            "expected a camera and a time for each image."
        )
    if (camid < 0).any():
        without = (camid < 0).sum()
        raise ValueError(f"no camera is known for {without} of {camid.size} {split} images.")
    unknown = ~np.isfinite(time)
    if unknown.any():
        raise ValueError(
            f"no time is known for {unknown.sum()} of {time.size} {split} images; TLift needs the "
            "time of every image. Times are known for market1501, dukemtmcreid, clonedperson, "
            "randperson and synthetic_people, not for msmt17 or cuhk03: switch TLift off there."
        )
    return camid, time
