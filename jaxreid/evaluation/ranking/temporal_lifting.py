"""TLift, temporal lifting: people who walk together here may well walk together there.

People seen by the query's camera at about the query's time are its companions. Where any of them
finds good matches in a gallery camera, the query is likely to have passed as well: gallery images
near those matches in time are lifted, all others are held down.

Source: Liao and Shao, ECCV 2020 (arXiv 1904.10424).
"""

import numpy as np

_TILE = 2**20  # numbers of a kernel that are held at once
_FEW = 100  # pivots, up to which their rows of the kernel are added one by one


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
    """Scores lifted by the time at which companions were found.

    With R the queries of the query's camera less than tau seconds from it (itself among them), and
    pivots the k best scored gallery images of one camera over all of R (an image found by two
    companions counts twice, ties with the k-th are pivots too), an image of that camera which is
    d seconds from a pivot gets

        score * (mean over pivots of exp(-(d / sigma)^2) + alpha).

    The query's own camera is lifted like the others. A query's row depends on its companions' rows:
    a caller that streams passes blocks of queries as `companion_blocks` gives them, each with the
    whole gallery, and gets the very numbers of one large call (up to rounding where a query has
    more than 100 pivots, since so many tie or k is so large).

    Args:
        score: [Q, G] float, in [0, 1], larger = more alike: sigmoid(logit / 10) or, as in the
            paper's results, 1 - the distance re-ranked from 1 - sigmoid(logit / 10). Raw logits
            and other scores of both signs are lifted without an error, and without sense.
        query_camid: [Q] int, from 0.
        query_time: [Q] float, seconds; only times of one camera are compared.
        gallery_camid: [G] int, from 0.
        gallery_time: [G] float, seconds, the same.
        tau: seconds, positive; companions are nearer than this.
        sigma: seconds, positive; how far from a pivot an image is still lifted.
        k: pivots of a query in each gallery camera, at least 1.
        alpha: not negative; what is left of a score without any lift.

    Returns:
        [Q, G] float, of the dtype of `score` (float32 for half precision).

    Raises:
        ValueError: shapes do not fit, a score is NaN, a camera is negative, a time is not finite
            (which says which data sets have times), or a parameter is out of its range.

    Source: Liao and Shao, ECCV 2020, in the form of the original code.
    Differs: the original code fails if a camera below the gallery's highest has no gallery image;
        here such a camera has nothing to be lifted, and its queries are lifted as all others. As in
        the original, a query of a camera above the gallery's highest gets alpha * score.
    """
    score = np.asarray(score)
    if score.dtype != np.float64:
        score = score.astype(np.float32, copy=False)
    query_camid, query_time = _sightings("query", query_camid, query_time)
    gallery_camid, gallery_time = _sightings("gallery", gallery_camid, gallery_time)
    if score.shape != (query_camid.size, gallery_camid.size):
        raise ValueError(
            f"shapes do not fit: score {score.shape}, {query_camid.size} queries and "
            f"{gallery_camid.size} gallery images; needed is [Q, G]."
        )
    if not (tau > 0 and sigma > 0 and k >= 1 and alpha >= 0):
        raise ValueError(
            f"tau {tau}, sigma {sigma}, k {k}, alpha {alpha}; needed are tau > 0 and sigma > 0 "
            "(seconds), k >= 1 and alpha >= 0."
        )
    if score.size and np.isnan(score.max()):  # max hands NaN on, and needs no mask of this size
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
            for row, values in zip(rows, own, strict=True):  # a quarter of the time of np.ix_
                score[row].take(columns, out=values, mode="clip")  # "raise" would copy
            found = _pivots(own, first, last, k)
            own *= _nearness(found, gallery_time[columns], sigma, own.dtype) + alpha
            for row, values in zip(rows, own, strict=True):
                lifted[row][columns] = values
    return lifted


def companion_blocks(
    query_camid: np.ndarray, query_time: np.ndarray, *, tau: float = 100.0, size: int = 256
) -> list[np.ndarray]:
    """Splits queries into blocks that `tlift` can take one at a time.

    Queries are put in the order of camera and time, and cut between cameras and at pauses of tau
    or longer, so that no query is parted from a companion. As the blocks are formed before anything
    is scored, an evaluator holds the scores of one block at a time.

    Args:
        query_camid: [Q] int, from 0.
        query_time: [Q] float, seconds.
        tau: seconds, as for `tlift`.
        size: queries which a block may hold, if all stay with their companions. People who
            follow each other without a pause make it larger: the queries of one camera at most.

    Returns:
        Blocks [q] int64, indices of queries; together each of 0 .. Q - 1 once.

    Raises:
        ValueError: shapes do not fit, a camera is negative, or a time is not finite.
    """
    camid, time = _sightings("query", query_camid, query_time)
    order = np.lexsort((time, camid))
    parted = (np.diff(camid[order]) != 0) | ~(np.diff(time[order]) < tau)
    groups = [g for g in np.split(order, 1 + np.flatnonzero(parted)) if g.size]
    blocks: list[list[np.ndarray]] = []
    for group in groups:
        if blocks and sum(g.size for g in blocks[-1]) + group.size <= size:
            blocks[-1].append(group)
        else:
            blocks.append([group])
    return [np.concatenate(block) for block in blocks]


def _cameras(camid: np.ndarray) -> dict[int, np.ndarray]:
    """Indices of each camera's images."""
    return {int(camera): np.flatnonzero(camid == camera) for camera in np.unique(camid)}


def _companions(time: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """For each of the ascending times [q], the window first .. last - 1 nearer than tau."""
    # Asked of differences, as the original code does: |a - b| < tau and a < b + tau round apart.
    first, last = np.empty((2, time.size), np.int64)
    for i, now in enumerate(time):
        near = np.flatnonzero(np.abs(time - now) < tau)
        first[i], last[i] = near[0], near[-1] + 1
    return first, last


def _pivots(score: np.ndarray, first: np.ndarray, last: np.ndarray, k: int) -> np.ndarray:
    """Pivots of all queries on one camera.

    Args:
        score: [q, g], queries in the order of time.
        first: [q] int, a query's first companion.
        last: [q] int, one after its last.
        k: pivots of a query.

    Returns:
        [q, g] int32, by how many companions an image is found as a pivot of a query.
    """
    # What is below the k-th of its own row is not among the k best of several rows.
    kth = _kth_largest(score, k)
    listed = score >= kth[:, None]
    # Rows where many tie with the k-th would make lists of up to q * g entries for each query. Of
    # these ties k are listed, enough to find the k-th of several rows; the others are pivots where
    # that is no higher than they, and a matrix product counts them.
    crowded = np.flatnonzero(np.count_nonzero(listed, axis=1) > 2 * k)
    others = score[crowded] == kth[crowded, None]
    others &= others.cumsum(axis=1) > k
    listed[crowded] &= ~others
    row, column = np.divmod(np.flatnonzero(listed), score.shape[1])  # 5 times as fast as nonzero
    best = score[row, column]
    start = np.searchsorted(row, np.arange(len(score) + 1))
    found, least = np.zeros(score.shape, np.int32), np.empty_like(kth)
    for i, (a, b) in enumerate(zip(start[first], start[last], strict=True)):
        least[i] = _kth_largest(best[a:b], k)
        np.add.at(found[i], column[a:b][best[a:b] >= least[i]], 1)
    if crowded.size:
        near = (first[:, None] <= crowded) & (crowded < last[:, None])
        near &= kth[crowded] == least[:, None]
        found += (near.astype(np.float32) @ others.astype(np.float32)).astype(np.int32)
    return found


def _kth_largest(values: np.ndarray, k: int) -> np.ndarray:
    """Along the last axis; the smallest, if there are fewer."""
    place = max(values.shape[-1] - k, 0)
    return np.partition(values, place)[..., place]


def _nearness(found: np.ndarray, time: np.ndarray, sigma: float, dtype: np.dtype) -> np.ndarray:
    """Mean over a query's pivots, [q, g] as counted, of exp(-(seconds apart / sigma)^2); [q, g]."""
    # Many queries share pivots: the exponential is taken once for each image that is a pivot.
    used = np.flatnonzero(found.max(axis=0))
    found = found[:, used]
    total = found.sum(axis=1)
    # A matrix product bounds the time if there are many. Few are added one by one, in an order that
    # depends on nothing else, so that neither the other queries nor a tile's width change a bit.
    many = np.flatnonzero(total > _FEW)
    weight = found[many].astype(dtype)
    few = {i: np.repeat(np.arange(used.size), found[i]) for i in np.flatnonzero(total <= _FEW)}
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
            kernel[kernel < np.finfo(dtype).tiny] = 0  # subnormal: products take 10 times as long
            nearness[many, tile] = weight @ kernel
    nearness /= total[:, None].astype(dtype)
    return nearness


def _sightings(what: str, camid: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cameras and times [N], float64, found usable."""
    camid, time = np.asarray(camid), np.asarray(time, np.float64)
    if camid.ndim != 1 or camid.shape != time.shape:
        raise ValueError(
            f"shapes do not fit: {what}_camid {camid.shape}, {what}_time {time.shape}; needed is a "
            "camera and a time for each image."
        )
    if (camid < 0).any():
        raise ValueError(f"{(camid < 0).sum()} of {camid.size} {what} images have no camera.")
    unknown = ~np.isfinite(time)
    if unknown.any():
        raise ValueError(
            f"{unknown.sum()} of {time.size} {what} images have no time, and TLift needs all. "
            "Times are known for market1501, dukemtmc, randperson and synthetic_people, not for "
            "msmt17 or cuhk03: switch TLift off there."
        )
    return camid, time
