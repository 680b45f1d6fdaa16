"""Baselines and data of `benchmark.py ranking`: straightforward implementations in NumPy."""

import pathlib
import tracemalloc
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxreid.evaluation.ranking import rank_queries, summarize
from jaxreid.evaluation.ranking.k_reciprocal import rerank_blocks, rerank_matrix
from jaxreid.evaluation.ranking.temporal_lifting import tlift

# (queries, gallery images): as in Market-1501 with distractors; fewer for dense re-ranking, which
# holds the full distance matrix.
SIZES = {
    "metrics": (3368, 19732),
    "evaluation": (3368, 19732),
    "rerank": (1000, 10000),
    "rerank streamed": (3368, 19732),
    "tlift": (3368, 19732),
}
# No baseline: the plain algorithm would need tens of GB.
ALONE = ("rerank streamed",)
# Images per block of distances, as eval.gallery_tile of the recipes.
TILE = 512
FALSE_POSITIVE_RATES = (1e-4, 1e-3, 1e-2)
HEADER = (
    "what",
    "images",
    "jaxreid s",
    "plain s",
    "times as fast",
    "jaxreid MiB",
    "plain MiB",
    "jaxreid resident MiB",
    "matrix MiB",
    "difference",
)


def plain_metrics(
    scores: np.ndarray,
    query_pid: np.ndarray,
    query_camid: np.ndarray,
    gallery_pid: np.ndarray,
    gallery_camid: np.ndarray,
) -> tuple[float, float]:
    """Compute mAP and rank-1 query by query, sorting the gallery for each."""
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


def plain_roc(
    scores: np.ndarray,
    query_pid: np.ndarray,
    query_camid: np.ndarray,
    gallery_pid: np.ndarray,
    gallery_camid: np.ndarray,
) -> tuple[float, ...]:
    """Compute TPR at `FALSE_POSITIVE_RATES` and the equal error rate by sorting all pairs."""
    same = query_pid[:, None] == gallery_pid
    keep = ~same | (query_camid[:, None] != gallery_camid)
    score, match = scores[keep], same[keep]
    order = np.argsort(-score)
    hits = match[order].cumsum()
    # Last position of each group of ties.
    last = np.append(np.flatnonzero(np.diff(score[order])), score.size - 1)
    tpr = np.append(0, hits[last] / hits[-1])
    fpr = np.append(0, (1 + last - hits[last]) / (score.size - hits[-1]))
    rates = [tpr[np.searchsorted(fpr, f, side="right") - 1] for f in FALSE_POSITIVE_RATES]
    at = np.argmax(fpr >= 1 - tpr)
    (a, b), (c, d) = fpr[at - 1 : at + 1], 1 - tpr[at - 1 : at + 1]
    return *map(float, rates), float(a + (b - a) * (c - a) / (c - a + b - d))


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
    """Re-rank by k-reciprocal encoding, dense and image by image, in the matrix's dtype.

    Args:
        matrix: [N, N] distances between all images, queries first.
        num_query: Q.
        k1: number of neighbours.
        k2: images averaged in local query expansion.
        weight: weight of the original distance.
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
    """Apply TLift as published, camera by camera and query by query; arguments as for `tlift`."""
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
    """Simulate Q query and G gallery images of people who walk in pairs past six cameras.

    Returns:
        [Q + G, 64] float32 embeddings of unit length, queries first; [Q + G] int identities; and
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


def contenders(what: str, queries: int, gallery: int) -> tuple[dict[str, Callable[[], Any]], int]:
    """Make the contenders of one measurement, `what`, which is a key of `SIZES`.

    Returns:
        Functions by name, "jaxreid" and (except for `ALONE`) "plain", that return arrays of the
        same numbers; and the bytes of their input matrix of scores or distances, also if it is
        streamed and never held.
    """
    embedding, pid, seen = walkers(queries, gallery)
    q, g = slice(queries), slice(queries, None)
    if what == "rerank streamed":
        return {"jaxreid": lambda: _streamed(embedding, queries)}, 4 * len(pid) ** 2
    if what == "rerank":
        distance = 1 - embedding @ embedding.T
        np.fill_diagonal(distance, 0)
        return {
            "jaxreid": lambda: rerank_matrix(distance, queries),
            "plain": lambda: plain_rerank(distance, queries),
        }, distance.nbytes
    score = embedding[q] @ embedding[g].T
    if what == "tlift":
        score = 1 / (1 + np.exp(-10 * score))
        parts = (("query", q), ("gallery", g))
        images = {f"{name}_{key}": seen[key][part] for name, part in parts for key in seen}
        return {
            "jaxreid": lambda: tlift(score, **images),
            "plain": lambda: plain_tlift(score, **images),
        }, score.nbytes
    ids = pid[q], seen["camid"][q], pid[g], seen["camid"][g]
    if what == "metrics":
        return {
            "jaxreid": lambda: _metrics(score, ids),
            "plain": lambda: np.array(plain_metrics(score, *ids)),
        }, score.nbytes
    return {
        "jaxreid": _evaluation(score, ids),
        "plain": lambda: np.array(plain_metrics(score, *ids) + plain_roc(score, *ids)),
    }, score.nbytes


def _streamed(embedding: np.ndarray, queries: int) -> np.ndarray:
    """Compute the re-ranked distance [Q] of each query's nearest gallery image."""

    def distances(images: np.ndarray) -> np.ndarray:
        rows = embedding[images] @ embedding.T
        np.subtract(1, rows, out=rows)
        rows[np.arange(images.size), images] = 0
        return rows

    blocks = rerank_blocks(distances, queries, len(embedding) - queries, block=TILE)
    return np.concatenate([tile.min(axis=1) for _, tile in blocks])


def _metrics(score: np.ndarray, ids: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the numbers of `plain_metrics` with this package."""
    summary = summarize(rank_queries(score, *ids))
    return np.array([summary["mAP"], summary["rank1"]])


def _evaluation(score: np.ndarray, ids: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
    """Make a function for the numbers of `plain_metrics` and `plain_roc`, plus the best matches."""
    # Imported late, because it imports JAX, which counts the cores.
    from jaxreid.evaluation.results import Ranking
    from jaxreid.evaluation.retrieval import BLOCK_SIZE

    class Images(types.SimpleNamespace):
        def __len__(self) -> int:
            return len(self.pid)

    query, gallery = (
        Images(pid=pid, camid=camid, name=[""] * len(pid)) for pid, camid in (ids[:2], ids[2:])
    )
    size = max(1, BLOCK_SIZE // len(gallery))
    rates = [f"tpr_at_fpr_{f:g}" for f in FALSE_POSITIVE_RATES]

    def run() -> np.ndarray:
        ranking = Ranking(query, gallery)
        for part in np.split(np.arange(len(query)), range(size, len(query), size)):
            ranking.add(part, score[part[0] : part[-1] + 1])
        metrics = ranking.result().metrics
        return np.array([metrics[name] for name in ("mAP", "rank1", *rates, "equal_error_rate")])

    return run


def measure_memory(run: Callable[[], Any]) -> tuple[Any, int, int | None]:
    """Call a function and measure its peak memory.

    Returns:
        The result; the peak bytes of Python objects and arrays (tracemalloc); and the peak growth
        of the process's resident memory, including libraries, or None if the system does not report
        it. Freed memory that the process still holds lowers the latter.
    """
    before = _resident("VmRSS") if _reset_peak() else None
    tracemalloc.start()
    try:
        result = run()
        traced = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return result, traced, None if before is None else _resident("VmHWM") - before


def _reset_peak() -> bool:
    """Reset the process's peak resident memory; return False except on Linux."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(field: str) -> int:
    """Read the resident bytes of the process: "VmRSS" now, "VmHWM" at the peak."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith(field + ":"))
    return 1024 * int(size)


def compare(
    what: Sequence[str],
    images: Sequence[int] | None,
    repeats: int,
    take_turns: Callable[..., dict[str, dict[str, float]]],
) -> list[dict[str, Any]]:
    """Measure time and memory.

    Args:
        what: keys of `SIZES`.
        images: numbers of queries and gallery images; None for `SIZES`.
        repeats: timed runs of each contender.
        take_turns: times functions alternately, as in `benchmark.py`.

    Returns:
        One record per key: "what", "queries" and "gallery"; by contender "ms", "peak_bytes" and
        "resident_bytes" (see `measure_memory`); "matrix_bytes" (see `contenders`); and "ratio" of
        the times and "difference" of the results, both None for `ALONE`.
    """
    results = []
    runs = sum(1 if name in ALONE else 2 for name in what) * (2 + repeats)
    with tqdm(total=runs, unit="run") as progress:
        for name in what:
            progress.set_description(name)
            queries, gallery = images or SIZES[name]
            record = _compare_one(
                *contenders(name, queries, gallery), repeats, take_turns, progress
            )
            results.append({"what": name, "queries": queries, "gallery": gallery, **record})
    return results


def _compare_one(
    runs: dict[str, Callable[[], Any]],
    matrix_bytes: int,
    repeats: int,
    take_turns: Callable[..., dict[str, dict[str, float]]],
    progress: tqdm,
) -> dict[str, Any]:
    """Make the measured part of a record of `compare`."""
    # Memory first, before other runs leave freed memory in the process.
    output, traced, resident = zip(*map(measure_memory, runs.values()), strict=True)
    times = take_turns(runs, repeats, progress)
    alone = len(runs) == 1
    return {
        "ms": times,
        "ratio": None if alone else times["plain"]["median"] / times["jaxreid"]["median"],
        "peak_bytes": dict(zip(runs, traced, strict=True)),
        "resident_bytes": dict(zip(runs, resident, strict=True)),
        "matrix_bytes": matrix_bytes,
        "difference": None if alone else float(np.abs(output[0] - output[1]).max()),
    }


def row(record: dict[str, Any]) -> tuple[str, ...]:
    """Format a record of `compare` as a row under `HEADER`, with "-" for missing values."""

    def text(value: float | None, form: str, unit: float = 1) -> str:
        return "-" if value is None else format(value / unit, form)

    seconds = (record["ms"].get(key, {}).get("median") for key in ("jaxreid", "plain"))
    return (
        record["what"],
        f"{record['queries']} x {record['gallery']}",
        *(text(value, ".2f", 1e3) for value in seconds),
        text(record["ratio"], ".1f"),
        *(text(record["peak_bytes"].get(key), ".0f", 2**20) for key in ("jaxreid", "plain")),
        text(record["resident_bytes"]["jaxreid"], ".0f", 2**20),
        text(record["matrix_bytes"], ".0f", 2**20),
        text(record["difference"], ".0e"),
    )
