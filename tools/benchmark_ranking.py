"""Baselines and data of `benchmark.py ranking`: the algorithms as they are usually written."""

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

# Queries and gallery: those of Market-1501, with its distractors; what a dense re-ranking can hold.
SIZES = {"metrics": (3368, 19732), "rerank": (1000, 10000), "tlift": (3368, 19732)}


def plain_metrics(
    scores: np.ndarray,
    query_pid: np.ndarray,
    query_camid: np.ndarray,
    gallery_pid: np.ndarray,
    gallery_camid: np.ndarray,
) -> tuple[float, float]:
    """Mean average precision and rank-1, by sorting the gallery for one query after the other."""
    order = np.argsort(-scores, axis=1, kind="stable")
    precisions, firsts = [], []
    for q, ranked in enumerate(order):
        keep = (gallery_pid[ranked] != query_pid[q]) | (gallery_camid[ranked] != query_camid[q])
        match = (gallery_pid[ranked] == query_pid[q])[keep]
        if not match.any():
            continue
        hits = match.cumsum()
        precisions.append((hits / np.arange(1, match.size + 1))[match].mean())
        firsts.append(match[0])
    return float(np.mean(precisions)), float(np.mean(firsts))


def plain_rerank(
    matrix: np.ndarray,
    num_query: int,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    squared: bool = False,
    sort: str = "stable",
) -> np.ndarray:
    """k-reciprocal re-ranking, dense, one image after the other; in the matrix's dtype.

    Args:
        matrix: [N, N] distances from each image to each, queries first.
        num_query: Q.
        k1: neighbours.
        k2: images whose descriptions are averaged.
        weight: of the original distance.
        squared: square the distances.
        sort: kind of `np.argsort`.

    Returns:
        [Q, N - Q] distances.

    Source: Zhong et al., CVPR 2017.
    """

    def reciprocal(order: np.ndarray, i: int, k: int) -> np.ndarray:
        near = order[i, : k + 1]
        return near[(order[near, : k + 1] == i).any(axis=1)]

    matrix = matrix**2 if squared else matrix
    matrix = np.ascontiguousarray(np.transpose(matrix / matrix.max(axis=0)))
    n = len(matrix)
    order = np.argsort(matrix, kind=sort).astype(np.int32)
    code = np.zeros_like(matrix)
    for i in range(n):
        own = reciprocal(order, i, k1)
        expanded = own
        for candidate in own:
            theirs = reciprocal(order, candidate, round(k1 / 2))
            if len(np.intersect1d(theirs, own)) > 2 / 3 * len(theirs):
                expanded = np.append(expanded, theirs)
        expanded = np.unique(expanded)
        weights = np.exp(-matrix[i, expanded])
        code[i, expanded] = weights / weights.sum()
    if k2 > 1:
        averaged = np.zeros_like(code)
        for i in range(n):
            averaged[i] = np.mean(code[order[i, :k2]], axis=0)
        code = averaged
    del order
    having = [np.flatnonzero(code[:, i]) for i in range(n)]
    jaccard = np.zeros((num_query, n), matrix.dtype)
    for i in range(num_query):
        shared = np.zeros(n, matrix.dtype)
        for j in np.flatnonzero(code[i]):
            shared[having[j]] += np.minimum(code[i, j], code[having[j], j])
        jaccard[i] = 1 - shared / (2 - shared)
    return (jaccard * (1 - weight) + matrix[:num_query] * weight)[:, num_query:]


def plain_tlift(
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
    """TLift as it is written down: camera by camera, query by query; arguments of `tlift`."""
    nearness = np.zeros(score.shape)
    cameras = np.unique(gallery_camid)
    for own in np.unique(query_camid[query_camid <= max(cameras, default=-1)]):
        rows = np.flatnonzero(query_camid == own)
        for other in cameras:
            columns = np.flatnonzero(gallery_camid == other)
            time = gallery_time[columns]
            for p in rows:
                near = rows[np.abs(query_time[rows] - query_time[p]) < tau]
                pool = score[np.ix_(near, columns)]
                threshold = np.sort(pool, axis=None)[::-1][min(k, pool.size) - 1]
                pivots = time[np.nonzero(pool >= threshold)[1]]
                apart = time[:, None] - pivots
                nearness[p, columns] = np.exp(-(apart**2) / sigma**2).mean(axis=1)
    return (nearness + alpha) * score


def walkers(queries: int, gallery: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict]:
    """Images of people who walk in twos past six cameras.

    Args:
        queries: Q.
        gallery: G.
        seed: of the random numbers.

    Returns:
        [Q + G, 64] float32 embeddings of unit length, queries first; [Q + G] int person; and
        {"camid" [Q + G] int, "time" [Q + G] float seconds}.
    """
    generator = np.random.default_rng(seed)
    n = queries + gallery
    people = max(2, n // 24)
    group = generator.integers(0, people // 2, people)
    start = generator.uniform(0, 3600, people // 2)[group]
    pid, camid = generator.integers(0, people, n), generator.integers(0, 6, n)
    seconds = np.round((start[pid] + 120 * camid + generator.uniform(0, 15, n)) * 25) / 25
    looks = 0.7 * generator.standard_normal((people, 64))
    embedding = (looks[pid] + generator.standard_normal((n, 64))).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding, pid, {"camid": camid, "time": seconds}


def contenders(
    what: str, queries: int, gallery: int
) -> tuple[dict[str, Callable[[], Any]], Callable[[Any, Any], float], int]:
    """What is measured.

    Args:
        what: "metrics", "rerank" or "tlift".
        queries: Q.
        gallery: G.

    Returns:
        Two functions by name, "jaxreid" and "plain"; a function of their two results that tells how
        far they are apart; and the bytes of the score (or distance) matrix both begin with.
    """
    from jaxreid.ranking import rank_queries, summarize
    from jaxreid.ranking.rerank import rerank_matrix
    from jaxreid.ranking.tlift import tlift

    embedding, pid, seen = walkers(queries, gallery)
    q, g = slice(queries), slice(queries, None)
    largest = lambda a, b: float(np.abs(a - b).max())  # noqa: E731
    if what == "rerank":
        distance = 1 - embedding @ embedding.T
        np.fill_diagonal(distance, 0)
        runs = {
            "jaxreid": lambda: rerank_matrix(distance, queries),
            "plain": lambda: plain_rerank(distance, queries),
        }
        return runs, largest, distance.nbytes
    score = embedding[q] @ embedding[g].T
    if what == "tlift":
        score = 1 / (1 + np.exp(-10 * score))
        parts = (("query", q), ("gallery", g))
        images = {f"{name}_{key}": seen[key][part] for name, part in parts for key in seen}
        runs = {
            "jaxreid": lambda: tlift(score, **images),
            "plain": lambda: plain_tlift(score, **images),
        }
        return runs, largest, score.nbytes
    ids = pid[q], seen["camid"][q], pid[g], seen["camid"][g]

    def ours() -> np.ndarray:
        summary = summarize(rank_queries(score, *ids))
        return np.array([summary["mAP"], summary["rank1"]])

    return (
        {"jaxreid": ours, "plain": lambda: np.array(plain_metrics(score, *ids))},
        largest,
        (score.nbytes),
    )


def peak_memory(run: Callable[[], Any]) -> int:
    """Bytes that a call holds at most beyond what was there before it."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def compare(
    what: Sequence[str],
    images: Sequence[int] | None,
    repeats: int,
    take_turns: Callable[..., dict[str, dict[str, float]]],
) -> tuple[list[dict[str, Any]], str]:
    """Times and memory of what is asked for.

    Args:
        what: keys of `SIZES`.
        images: how many queries and gallery images; None for `SIZES`.
        repeats: timed runs of each contender.
        take_turns: times functions in turn, as that of `benchmark.py`.

    Returns:
        A record for each, and a table of them.
    """
    from jaxreid.writer import table

    results, rows = [], []
    with tqdm(total=2 * len(what) * (2 + repeats), unit="run") as progress:
        for name in what:
            queries, gallery = images or SIZES[name]
            progress.set_description(name)
            runs, apart, size = contenders(name, queries, gallery)
            difference = apart(*(run() for run in runs.values()))
            memory = {key: peak_memory(run) for key, run in runs.items()}
            times = take_turns(runs, repeats, progress)
            ratio = times["plain"]["median"] / times["jaxreid"]["median"]
            results.append(
                {
                    "what": name,
                    "queries": queries,
                    "gallery": gallery,
                    "ms": times,
                    "ratio": ratio,
                    "peak_bytes": memory,
                    "matrix_bytes": size,
                    "difference": difference,
                }
            )
            rows.append(
                (
                    name,
                    f"{queries} x {gallery}",
                    *(f"{times[key]['median'] / 1e3:.2f}" for key in runs),
                    f"{ratio:.1f}",
                    *(f"{memory[key] / 2**20:.0f}" for key in runs),
                    f"{size / 2**20:.0f}",
                    f"{difference:.0e}",
                )
            )
    header = ("", "images", "jaxreid s", "plain s", "times as fast", "jaxreid MiB", "plain MiB")
    return results, table((*header, "matrix MiB", "difference"), rows)
