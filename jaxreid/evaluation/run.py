"""Evaluation: features of query and gallery, scores of all pairs, ranks, metrics.

Works on arrays; where images come from is the caller's business. Queries are scored, ranked and
forgotten block by block: the scores of all pairs are never held at once.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.evaluation.ranking import QueryRanks, junk_groups, rank_queries, summarize, top_matches
from jaxreid.evaluation.ranking.rerank import rerank_blocks
from jaxreid.evaluation.ranking.roc import RocAccumulator
from jaxreid.evaluation.ranking.tlift import companion_blocks
from jaxreid.evaluation.ranking.tlift import tlift as lift
from jaxreid.evaluation.scoring import Evaluator
from jaxreid.evaluation.shortlist import Shortlist

BLOCK_SIZE = 2**24  # scores that are held at once: 64 MiB
LISTED = 10  # gallery images that are kept of each query's ranking


@dataclasses.dataclass(frozen=True)
class Result:
    """The evaluation of one test set.

    Attributes:
        metrics: rank1, rank5, rank10, mAP, mINP (fractions) and the numbers of queries; and of all
            pairs tpr_at_fpr_... and equal_error_rate (fractions), equal_error_threshold (a score).
        ranks: of each query.
        top: [Q, `LISTED`] int64, the best of the gallery without junk, best first; -1 where there
            are no more.
        top_scores: [Q, `LISTED`] float32, their scores; NaN where there are no more.
    """

    metrics: dict[str, float]
    ranks: QueryRanks
    top: np.ndarray
    top_scores: np.ndarray


class Ranking:
    """Reduces blocks of scores to a `Result`; holds none of them.

    Args:
        query: anything with `pid` [Q], `camid` [Q] and `name` (Q texts) and a length.
        gallery: the same, of G images.
        junk: rule of `ranking.protocol`: which images of its own person a query must not find.
        precision: as for `rank_queries`.

    Raises:
        ValueError: an unknown rule.
    """

    def __init__(self, query: Any, gallery: Any, junk: str, precision: str) -> None:
        groups = junk_groups(junk, query.camid, gallery.camid, query.name, gallery.name)
        self._query, self._gallery = (query.pid, groups[0]), (gallery.pid, groups[1])
        self._precision = precision
        self._roc = RocAccumulator(len(query) * len(gallery))
        self._order: list[np.ndarray] = []
        self._parts: list[tuple[QueryRanks, np.ndarray, np.ndarray]] = []

    def add(self, part: np.ndarray, scores: np.ndarray) -> None:
        """The scores [q, G] of the queries `part` [q] int; each query once, in any order."""
        ids = *(of[part] for of in self._query), *self._gallery
        top = top_matches(scores, *ids, LISTED)
        best = np.take_along_axis(scores, np.maximum(top, 0), axis=1)
        ranks = rank_queries(scores, *ids, precision=self._precision)
        self._roc.add(scores, *ids)
        self._order.append(part)
        self._parts.append((ranks, top, np.where(top < 0, np.nan, best)))

    def result(self, pairs: bool = True) -> Result:
        """After all queries, also with the rates of all `pairs`; ValueError if none has a match."""
        back = np.argsort(np.concatenate(self._order))
        ranks, top, top_scores = zip(*self._parts, strict=True)
        ranks = QueryRanks.concatenate(ranks).take(back)
        metrics = summarize(ranks)
        people = set(self._query[0]), set(self._gallery[0])
        if (
            pairs and len(people[0] | people[1]) > 1
        ):  # else there are no two people to be told apart
            roc = self._roc.result()
            rates = roc.true_positive_rate.items()
            metrics |= {f"tpr_at_fpr_{fpr:g}": rate for fpr, rate in rates}
            metrics["equal_error_rate"] = roc.equal_error_rate
            metrics["equal_error_threshold"] = roc.equal_error_threshold
        return Result(metrics, ranks, np.concatenate(top)[back], np.concatenate(top_scores)[back])


def evaluate(
    evaluator: Evaluator,
    variables: Any,
    query: Any,
    gallery: Any,
    load: Callable[[Any], Iterable[np.ndarray]],
    progress: Callable[..., Any],
    *,
    junk: str = "camera",
    precision: str = "standard",
    rerank: Mapping[str, Any] | None = None,
    tlift: Mapping[str, Any] | None = None,
    shortlist: Mapping[str, Any] | None = None,
) -> dict[str, Result]:
    """Metrics of one test set.

    Args:
        evaluator: of the model.
        variables: {"params", "batch_stats"} of the model.
        query: as for `Ranking`; for TLift with `time` [Q] too.
        gallery: the same, of G images.
        load: from (query, gallery) to this process's parts of the batches of their images, one
            after the other.
        progress: makes a progress bar: `progress(what, total=..., unit=...)`, a context manager
            with `update`.
        junk: as for `Ranking`.
        precision: as for `rank_queries`.
        rerank: keywords of `ranking.rerank`, to re-rank as well; or None.
        tlift: keywords of `ranking.tlift`, to lift the scores as well, the re-ranked ones if there
            are such; or None. Companions are scored together: where people follow each other
            without a pause, all queries of a camera.
        shortlist: keywords of `Shortlist`, to score from coarse to fine as well; or None.

    Returns:
        "plain", and "shortlist", "rerank", "tlift" or "rerank+tlift" where asked for. The metrics
        of "shortlist" say how many of the exactly best ten were in it, "top10_recall", a fraction,
        and what both ways took, "scoring_seconds" and "exact_seconds".

    Raises:
        ValueError: no query has a match, or an option is out of its range.

    Source: Liao and Shao, ECCV 2020, and its published code: distances to be re-ranked are
        1 - sigmoid(logit / 10), what is lifted is 1 minus the re-ranked distance, else
        sigmoid(logit).
    """
    new = functools.partial(Ranking, query, gallery, junk, precision)
    count, total = len(query), len(query) + len(gallery)
    parts = _parts(query, len(gallery), evaluator.query_tile, tlift)
    with progress("features", total=total) as bar:
        features = evaluator.features(variables, load((query, gallery)), total, bar.update)
    features[:count] = features[:count][np.concatenate(parts)]

    def lifted(part: np.ndarray, scores: np.ndarray) -> np.ndarray:
        sightings = {
            "query_camid": query.camid[part],
            "query_time": query.time[part],
            "gallery_camid": gallery.camid,
            "gallery_time": gallery.time,
        }
        return lift(scores, **sightings, **tlift)

    rankings = {"plain": new()}
    if tlift is not None and rerank is None:
        rankings["tlift"] = new()
    rows = np.split(features[:count], np.cumsum([len(part) for part in parts])[:-1])
    held, seconds = evaluator.hold(features[count:]), 0.0
    if shortlist is not None:  # whose cost is compared: compiled before the clock starts
        evaluator.scores(variables, features[:1], features[count : count + 1])
    with progress("scores", total=count * len(gallery), unit="pair") as bar:
        for part, queries in zip(parts, rows, strict=True):
            start = time.perf_counter()
            scores = evaluator.scores(variables, queries, held, bar.update)
            seconds += time.perf_counter() - start
            rankings["plain"].add(part, scores)
            if "tlift" in rankings:
                rankings["tlift"].add(part, lifted(part, _sigmoid(scores)))
    if rerank is not None:
        rankings["rerank"] = new()
        if tlift is not None:
            rankings["rerank+tlift"] = new()

        def distances(images: np.ndarray) -> np.ndarray:
            scores = evaluator.scores(variables, features, features[images])
            bar.update(min(len(images), bar.total - bar.n))  # some are asked for again
            return 1 - _sigmoid(scores.T / 10)

        options = {"block": evaluator.gallery_tile} | dict(rerank)
        with progress("re-ranking", total=total) as bar:
            blocks = rerank_blocks(distances, count, len(gallery), **options)
            for part, block in _regrouped(blocks, parts):
                rankings["rerank"].add(part, 1 - block)
                if tlift is not None:
                    rankings["rerank+tlift"].add(part, lifted(part, 1 - block))
    results = {name: ranking.result() for name, ranking in rankings.items()}
    if shortlist is not None:
        start = time.perf_counter()
        coarse = Shortlist(evaluator, variables, features[count:], **shortlist)
        pooling = time.perf_counter() - start
        with progress("shortlists", total=count * len(gallery), unit="pair") as bar:
            found, more = _shortlisted(coarse, parts, rows, new(), results["plain"].top, bar.update)
        more["scoring_seconds"] += pooling
        more["exact_seconds"] = seconds
        results["shortlist"] = dataclasses.replace(found, metrics=found.metrics | more)
    return results


def _shortlisted(
    shortlist: Shortlist,
    parts: Sequence[np.ndarray],
    rows: Sequence[np.ndarray],
    ranking: Ranking,
    best: np.ndarray,
    on_progress: Callable[[int], Any],
) -> tuple[Result, dict[str, float]]:
    """The evaluation from coarse to fine, and how much of the exactly `best` [Q, n] it kept."""
    shortlist.scores(rows[0][:1])  # compiled before the clock starts
    kept, seconds = [], 0.0
    for part, queries in zip(parts, rows, strict=True):
        start = time.perf_counter()
        scores, chosen = shortlist.scores(queries, on_progress)
        seconds += time.perf_counter() - start
        ranking.add(part, scores)
        exact = best[part]
        kept.append((chosen[:, :, None] == exact[:, None]).any(1)[exact >= 0])
    recall = float(np.concatenate(kept).mean())
    # No rates of all pairs: scores beyond the shortlist are of another scale.
    result = ranking.result(pairs=False)
    return result, {"top10_recall": recall, "scoring_seconds": seconds}


def _parts(
    query: Any, gallery_size: int, query_tile: int, tlift: Mapping[str, Any] | None
) -> list[np.ndarray]:
    """Queries whose scores are held at once; with TLift no query is parted from its companions."""
    size = max(1, BLOCK_SIZE // max(1, gallery_size))
    size = max(1, size // query_tile) * query_tile
    if tlift is not None:
        tau = {"tau": tlift["tau"]} if "tau" in tlift else {}
        return companion_blocks(query.camid, query.time, size=size, **tau)
    return np.split(np.arange(len(query)), np.arange(size, len(query), size))


def _regrouped(
    blocks: Iterable[tuple[int, np.ndarray]], parts: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows [n, G] that come in blocks, in the order of the parts, as a block for each part."""
    left, rows = list(parts), np.empty((0, 0), np.float32)
    for _, block in blocks:
        rows = np.concatenate([rows, block]) if len(rows) else block
        while left and len(left[0]) <= len(rows):
            part = left.pop(0)
            yield part, rows[: len(part)]
            rows = rows[len(part) :]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))  # exact also where it is next to nothing
