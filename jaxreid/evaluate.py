"""Evaluation: features of query and gallery, scores of all pairs, ranks, metrics.

Works on arrays; where images come from is the caller's business.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxreid.mesh import check_divisible, to_devices, to_host
from jaxreid.model import Model
from jaxreid.ranking import QueryRanks, rank_queries, summarize
from jaxreid.step import make_encode, make_score


@dataclasses.dataclass(frozen=True)
class Result:
    """The evaluation of one test set.

    Attributes:
        metrics: rank1, rank5, rank10, mAP, mINP (fractions) and the numbers of queries.
        ranks: of each query.
        scores: [Q, G] float32.
    """

    metrics: dict[str, float]
    ranks: QueryRanks
    scores: np.ndarray


class Evaluator:
    """Extracts features and scores pairs on a mesh; compiles each once, for all test sets.

    Args:
        model: outside a mesh, that is with `axis_name=None`.
        mesh: the devices.
        batch_size: images per extraction step; a multiple of the devices.
        query_tile: queries per scoring step.
        gallery_tile: gallery images per scoring step; a multiple of the devices.

    Raises:
        ValueError: a size that cannot be divided over the devices.
    """

    def __init__(
        self, model: Model, mesh: Mesh, *, batch_size: int, query_tile: int, gallery_tile: int
    ) -> None:
        check_divisible(batch_size, mesh, "eval.batch_size")
        check_divisible(gallery_tile, mesh, "eval.gallery_tile")
        self._query_tile, self._gallery_tile = query_tile, gallery_tile
        self._mesh = mesh
        self._encode, self._score = make_encode(model, mesh), make_score(model, mesh)

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
        share = self._gallery_tile // jax.process_count()
        mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        for g in range(0, len(gallery), self._gallery_tile):
            rows = _padded(gallery[g : g + self._gallery_tile], self._gallery_tile)
            gallery_tile = to_devices(self._mesh, rows[mine])
            for q in range(0, len(query), self._query_tile):
                query_tile = _padded(query[q : q + self._query_tile], self._query_tile)
                block = to_host(self._score(variables, query_tile, gallery_tile))
                target = scores[q : q + self._query_tile, g : g + self._gallery_tile]
                target[...] = block[: target.shape[0], : target.shape[1]]
                on_progress(target.size)
        return scores


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(rows)
    return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else rows


def evaluate(
    evaluator: Evaluator,
    variables: Any,
    query: Any,
    gallery: Any,
    load: Callable[[Any], Iterable[np.ndarray]],
    progress: Callable[..., Any],
) -> Result:
    """Metrics of one test set by the cross-camera protocol.

    Args:
        evaluator: of the model.
        variables: {"params", "batch_stats"} of the model.
        query: anything with `pid` [Q] and `camid` [Q] and a length.
        gallery: the same, of G images.
        load: from query or gallery to this process's parts of its image batches.
        progress: makes a progress bar: `progress(what, total=..., unit=...)`, a context manager
            with `update`.

    Raises:
        ValueError: no query has a match.
    """
    with progress("features", total=len(query) + len(gallery)) as bar:
        features = [
            evaluator.features(variables, load(split), len(split), bar.update)
            for split in (query, gallery)
        ]
    with progress("scores", total=len(query) * len(gallery), unit="pair") as bar:
        scores = evaluator.scores(variables, *features, bar.update)
    ranks = rank_queries(scores, query.pid, query.camid, gallery.pid, gallery.camid)
    return Result(summarize(ranks), ranks, scores)
