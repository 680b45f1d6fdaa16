"""Evaluation: features of query and gallery, scores of all pairs, ranks, metrics.

Works on arrays; where images come from is the caller's business. Queries are scored, ranked and
forgotten block by block: the scores of all pairs are never held at once.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxreid.mesh import check_divisible, to_devices, to_host
from jaxreid.model import Model
from jaxreid.ranking import QueryRanks, junk_groups, rank_queries, summarize, top_matches
from jaxreid.ranking.rerank import rerank_blocks
from jaxreid.ranking.roc import RocAccumulator
from jaxreid.ranking.tlift import tlift as lift
from jaxreid.step import make_encode, make_score

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


class Evaluator:
    """Extracts features and scores pairs on a mesh; compiles each once, for all test sets.

    Args:
        model: outside a mesh, that is with `axis_name=None`.
        mesh: the devices.
        batch_size: images per extraction step; a multiple of the devices.
        query_tile: queries per scoring step.
        gallery_tile: gallery images per scoring step; a multiple of the devices.
        flip: as for `make_encode`.

    Raises:
        ValueError: a size that cannot be divided over the devices.
    """

    def __init__(
        self,
        model: Model,
        mesh: Mesh,
        *,
        batch_size: int,
        query_tile: int,
        gallery_tile: int,
        flip: bool = False,
    ) -> None:
        check_divisible(batch_size, mesh, "eval.batch_size")
        check_divisible(gallery_tile, mesh, "eval.gallery_tile")
        self._query_tile, self.gallery_tile = query_tile, gallery_tile
        self._mesh = mesh
        self._encode = make_encode(model, mesh, flip=flip)
        self._score = make_score(model, mesh)

    def features(
        self,
        variables: Any,
        batches: Iterable[np.ndarray],
        count: int,
        on_progress: Callable[[int], Any] = lambda images: None,
    ) -> np.ndarray:
        """Features of `count` images, whole on every process.

        Args:
            variables: {"params", "batch_stats"} of the model.
            batches: this process's part of every batch, [b, H, W, 3] uint8; the last one is padded
                to full size.
            count: images without the padding.
            on_progress: called with the number of images of each finished batch.
        """
        parts, pending = [], []

        def fetch() -> None:
            done = sum(map(len, parts))
            parts.append(to_host(pending.pop(0)))
            on_progress(min(count - done, len(parts[-1])))

        for batch in batches:
            pending.append(self._encode(variables, to_devices(self._mesh, batch)))
            if len(pending) > 1:  # one batch is computed while the one before comes back
                fetch()
        while pending:
            fetch()
        return np.concatenate(parts)[:count]

    def scores(
        self,
        variables: Any,
        query: np.ndarray,
        gallery: np.ndarray,
        on_progress: Callable[[int], Any] = lambda pairs: None,
    ) -> np.ndarray:
        """Scores of all pairs, tile by tile; padding is scored and thrown away.

        Args:
            variables: {"params", "batch_stats"} of the model.
            query: [Q, ...] features.
            gallery: [G, ...] features.
            on_progress: called with the number of pairs of each finished tile.

        Returns:
            [Q, G] float32; larger is more alike.
        """
        scores = np.empty((len(query), len(gallery)), np.float32)
        share = self.gallery_tile // jax.process_count()
        mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        for g in range(0, len(gallery), self.gallery_tile):
            rows = _padded(gallery[g : g + self.gallery_tile], self.gallery_tile)
            gallery_tile = to_devices(self._mesh, rows[mine])
            for q in range(0, len(query), self._query_tile):
                query_tile = _padded(query[q : q + self._query_tile], self._query_tile)
                block = to_host(self._score(variables, query_tile, gallery_tile))
                target = scores[q : q + self._query_tile, g : g + self.gallery_tile]
                target[...] = block[: target.shape[0], : target.shape[1]]
                on_progress(target.size)
        return scores

    def blocks(
        self,
        variables: Any,
        query: np.ndarray,
        gallery: np.ndarray,
        on_progress: Callable[[int], Any] = lambda pairs: None,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """As `scores`, but some queries at a time: yields (queries, [q, G] float32)."""
        size = max(1, BLOCK_SIZE // max(1, len(gallery)))
        for first in range(0, len(query), size):
            part = slice(first, first + size)
            yield part, self.scores(variables, query[part], gallery, on_progress)


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(rows)
    return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else rows


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
        self._parts: list[tuple[QueryRanks, np.ndarray, np.ndarray]] = []

    def add(self, part: slice, scores: np.ndarray) -> None:
        """The scores [q, G] of the next queries."""
        ids = *(of[part] for of in self._query), *self._gallery
        top = top_matches(scores, *ids, LISTED)
        best = np.take_along_axis(scores, np.maximum(top, 0), axis=1)
        ranks = rank_queries(scores, *ids, precision=self._precision)
        self._roc.add(scores, *ids)
        self._parts.append((ranks, top, np.where(top < 0, np.nan, best)))

    def result(self) -> Result:
        """After all queries; raises ValueError if none has a match."""
        ranks, top, top_scores = zip(*self._parts, strict=True)
        ranks = QueryRanks.concatenate(ranks)
        metrics = summarize(ranks)
        if len(set(self._gallery[0])) > 1:  # else there are no two people to be told apart
            roc = self._roc.result()
            rates = roc.true_positive_rate.items()
            metrics |= {f"tpr_at_fpr_{fpr:g}": rate for fpr, rate in rates}
            metrics["equal_error_rate"] = roc.equal_error_rate
            metrics["equal_error_threshold"] = roc.equal_error_threshold
        return Result(metrics, ranks, np.concatenate(top), np.concatenate(top_scores))


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
) -> dict[str, Result]:
    """Metrics of one test set.

    Args:
        evaluator: of the model.
        variables: {"params", "batch_stats"} of the model.
        query: as for `Ranking`; for TLift with `time` [Q] too.
        gallery: the same, of G images.
        load: from query or gallery to this process's parts of its image batches.
        progress: makes a progress bar: `progress(what, total=..., unit=...)`, a context manager
            with `update`.
        junk: as for `Ranking`.
        precision: as for `rank_queries`.
        rerank: keywords of `ranking.rerank`, to re-rank as well; or None.
        tlift: keywords of `ranking.tlift`, to lift the scores as well, the re-ranked ones if there
            are such; or None. This needs the scores of all pairs at once.

    Returns:
        "plain", and "rerank", "tlift" or "rerank+tlift" where asked for.

    Raises:
        ValueError: no query has a match, or an option is out of its range.

    Source: Liao and Shao, ECCV 2020, and its published code: distances to be re-ranked are
        1 - sigmoid(logit / 10), what is lifted is 1 minus the re-ranked distance, else
        sigmoid(logit).
    """
    with progress("features", total=len(query) + len(gallery)) as bar:
        features = [
            evaluator.features(variables, load(split), len(split), bar.update)
            for split in (query, gallery)
        ]
    new = functools.partial(Ranking, query, gallery, junk, precision)
    rankings = {"plain": new()}
    shape = len(query), len(gallery)
    held = None if tlift is None else np.empty(shape, np.float32)
    with progress("scores", total=shape[0] * shape[1], unit="pair") as bar:
        for part, scores in evaluator.blocks(variables, *features, bar.update):
            rankings["plain"].add(part, scores)
            if held is not None:
                held[part] = _sigmoid(scores)
    if rerank is not None:
        rankings["rerank"] = new()
        everything = np.concatenate(features)

        def distances(start: int, stop: int) -> np.ndarray:
            scores = evaluator.scores(variables, everything, everything[start:stop])
            bar.update(min(stop - start, bar.total - bar.n))  # some are asked for again
            return 1 - _sigmoid(scores.T / 10)

        options = {"block": evaluator.gallery_tile} | dict(rerank)
        with progress("re-ranking", total=len(everything)) as bar:
            for first, block in rerank_blocks(distances, *shape, **options):
                part = slice(first, first + len(block))
                rankings["rerank"].add(part, 1 - block)
                if held is not None:
                    held[part] = 1 - block
    if tlift is not None:
        times = {
            f"{name}_{field}": getattr(split, field)
            for name, split in (("query", query), ("gallery", gallery))
            for field in ("camid", "time")
        }
        name = "tlift" if rerank is None else "rerank+tlift"
        rankings[name] = new()
        rankings[name].add(slice(None), lift(held, **times, **tlift))
    return {name: ranking.result() for name, ranking in rankings.items()}


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(x / 2)) / 2  # without overflow
