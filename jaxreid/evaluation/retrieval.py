"""Results of one test set from its features: scores, variants, rankings.

Queries are scored and ranked block by block; the scores of all pairs are never held at once.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.data.split import Split
from jaxreid.evaluation.given_scores import GivenScores
from jaxreid.evaluation.ranking.expansion import expanded
from jaxreid.evaluation.ranking.k_reciprocal import rerank_blocks
from jaxreid.evaluation.ranking.multiple_queries import pooled, together
from jaxreid.evaluation.ranking.temporal_lifting import companion_blocks, tlift
from jaxreid.evaluation.results import Ranking, Result
from jaxreid.evaluation.scoring import Scorer
from jaxreid.evaluation.shortlist import Shortlist
from jaxreid.evaluation.variants import PLAIN, Variant
from jaxreid.runs.log import progress

# Scores held at once: 64 MiB.
BLOCK_SIZE = 2**24


def evaluate(
    scorer: Scorer | GivenScores,
    features: np.ndarray,
    query: Split,
    gallery: Split,
    variants: Sequence[Variant] = (PLAIN,),
    *,
    junk: str = "camera",
    average_precision: str = "standard",
    keep: np.ndarray | None = None,
    title: str = "",
) -> dict[str, Result]:
    """Evaluate one test set.

    Args:
        scorer: scorer with the model's variables, or known scores in the place of one.
        features: [Q + G, ...], of the queries, then of the gallery.
        query: Q images; TLift needs their times.
        gallery: G images.
        variants: variants to evaluate, independent of each other and of their order. A shortlist is
            compared with the exact scores and needs an exact variant beside it.
        junk: rule of `ranking.protocol`: which images of its own person a query must not match.
        average_precision: "standard" or "trapezoid", as for `rank_queries`.
        keep: [Q, G] float32, into which the scores of the exact variant are written.
        title: title of the progress bars.

    Returns:
        Results by variant name. For a shortlist, the metrics include the share of the exact top ten
        in it ("top10_recall", a fraction) and the seconds of both ways ("scoring_seconds",
        "exact_seconds").

    Raises:
        ValueError: no query has a match, or an option is out of its range.

    Source: Liao and Shao, ECCV 2020, and its published code, for re-ranking and TLift of QAConv.
        The matcher converts scores to distances and similarities.
    """
    rankings = {
        variant.name: Ranking(query, gallery, variant, junk, average_precision)
        for variant in variants
    }
    parts = _query_blocks(query, len(gallery), scorer.query_tile, variants)
    sides = features[: len(query)], features[len(query) :]
    seconds = _score(scorer, *sides, parts, rankings, keep, title)
    for options in _distinct([v.rerank for v in variants if v.rerank is not None]):
        _rerank(scorer, features, parts, rankings, options, title)
    for ranking in rankings.values():
        if ranking.variant.expand is not None:
            _expand(scorer, *sides, parts, ranking, title)
        if ranking.variant.multi_query is not None:
            _search_together(scorer, features, parts, ranking, title)
    results = {name: r.result() for name, r in rankings.items() if r.variant.shortlist is None}
    for name, ranking in rankings.items():
        if ranking.variant.shortlist is not None:
            exact = next(r for r in results.values() if r.variant.exact)
            results[name] = _shortlist(scorer, *sides, parts, ranking, exact, seconds, title)
    return {name: results[name] for name in rankings}


def _query_blocks(
    query: Split, gallery_size: int, query_tile: int, variants: Sequence[Variant]
) -> list[np.ndarray]:
    """Return blocks of queries that are scored together; TLift needs companions in one block."""
    size = max(1, BLOCK_SIZE // max(1, gallery_size))
    size = max(1, size // query_tile) * query_tile
    lifts = [variant.tlift for variant in variants if variant.tlift is not None]
    if not lifts:
        return np.split(np.arange(len(query)), np.arange(size, len(query), size))
    reach = [{"tau": lift["tau"]} if "tau" in lift else {} for lift in lifts]
    widest = max(reach, key=lambda options: options.get("tau", 0))
    return companion_blocks(query.camid, query.time, size=size, **widest)


def _score(
    scorer: Scorer,
    query: np.ndarray,
    gallery: np.ndarray,
    parts: Sequence[np.ndarray],
    rankings: Mapping[str, Ranking],
    keep: np.ndarray | None,
    title: str,
) -> float:
    """Rank by the scores of all pairs; return the seconds of scoring."""
    direct = [ranking for ranking in rankings.values() if ranking.variant.direct]
    if not direct:
        return 0.0
    held, seconds = scorer.hold(gallery), 0.0
    # The cost of a shortlist is compared with this one: compile before the clock starts.
    if any(ranking.variant.shortlist is not None for ranking in rankings.values()):
        scorer.scores(query[:1], scorer.hold(gallery[: held.tile]))
    with progress(f"{title} scores", total=len(query) * len(gallery), unit="pair") as bar:
        for part in parts:
            start = time.perf_counter()
            scores = scorer.scores(query[part], held, bar)
            seconds += time.perf_counter() - start
            if keep is not None:
                keep[part] = scores
            for ranking in direct:
                if ranking.variant.tlift is None:
                    ranking.add(part, scores)
                else:
                    similarities = scorer.model.matcher.similarities(scores)
                    ranking.add(part, _lifted(ranking, part, similarities))
    return seconds


def _expand(
    scorer: Scorer,
    query: np.ndarray,
    gallery: np.ndarray,
    parts: Sequence[np.ndarray],
    ranking: Ranking,
    title: str,
) -> None:
    """Rank by queries that are averaged with the best images that they find."""
    count, alpha = ranking.variant.expand["count"], ranking.variant.expand["alpha"]
    held, unit = scorer.hold(gallery), scorer.model.matcher.directional
    with progress(f"{title} expansion", total=2 * len(query) * len(gallery), unit="pair") as bar:
        for part in parts:
            found, _ = scorer.nearest(query[part], held, min(count, len(gallery)), bar)
            wide = expanded(query[part], gallery[found], alpha=alpha, unit=unit)
            ranking.add(part, scorer.scores(wide, held, bar))


def _search_together(
    scorer: Scorer,
    features: np.ndarray,
    parts: Sequence[np.ndarray],
    ranking: Ranking,
    title: str,
) -> None:
    """Rank by the images of each query's person from its camera, together."""
    query, gallery = ranking.query, ranking.gallery
    groups = together(query.pid, query.camid, gallery.pid, gallery.camid)
    how, unit = ranking.variant.multi_query["pool"], scorer.model.matcher.directional
    held = scorer.hold(features[len(query) :])
    with progress(f"{title} multiple queries", total=len(query)) as bar:
        for part in parts:
            scores = np.empty((len(part), len(gallery)), np.float32)
            for i in range(0, len(part), scorer.query_tile):
                images = [groups[q] for q in part[i : i + scorer.query_tile]]
                tile = scores[i : i + len(images)]
                if how == "scores":
                    of_images = scorer.scores(features[np.concatenate(images)], held)
                    ends = np.cumsum([len(group) for group in images])[:-1]
                    tile[:] = [rows.mean(0) for rows in np.split(of_images, ends)]
                else:
                    joint = np.stack([pooled(features[group], how, unit=unit) for group in images])
                    tile[:] = scorer.scores(joint, held)
                bar.update(len(images))
            ranking.add(part, scores)


def _rerank(
    scorer: Scorer,
    features: np.ndarray,
    parts: Sequence[np.ndarray],
    rankings: Mapping[str, Ranking],
    options: Mapping[str, Any],
    title: str,
) -> None:
    """Rank by re-ranked distances, with and without TLift."""
    chosen = [ranking for ranking in rankings.values() if ranking.variant.rerank == options]
    matcher, count = scorer.model.matcher, chosen[0].shape[0]
    query, gallery = features[:count], features[count:]
    held = scorer.hold(gallery)

    def distances(images: np.ndarray) -> np.ndarray:
        # Distances of all images to `images`. The matcher need not be symmetric: a query is always
        # on the query side of its pairs with the gallery, so that `weight=1` is the plain ranking.
        scores = np.empty((len(images), len(features)), np.float32)
        scores[:, :count] = scorer.scores(query, features[images]).T
        of_query, of_gallery = images < count, images >= count
        if of_query.any():
            scores[of_query, count:] = scorer.scores(features[images[of_query]], held)
        if of_gallery.any():
            scores[of_gallery, count:] = scorer.scores(gallery, features[images[of_gallery]]).T
        # Some images are requested again.
        bar.update(min(len(images), bar.total - bar.n))
        return matcher.distances(scores)

    settings = {"block": scorer.gallery_tile} | matcher.rerank_options | dict(options)
    with progress(f"{title} re-ranking", total=len(features)) as bar:
        blocks = rerank_blocks(distances, count, len(gallery), parts=parts, **settings)
        for part, distance in blocks:
            for ranking in chosen:
                similarities = 1 - distance
                lift = ranking.variant.tlift is not None
                ranking.add(part, _lifted(ranking, part, similarities) if lift else similarities)


def _lifted(ranking: Ranking, part: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """Lift similarities [q, G] of the queries `part` by their companions."""
    query, gallery = ranking.query, ranking.gallery
    return tlift(
        similarities,
        query_camid=query.camid[part],
        query_time=query.time[part],
        gallery_camid=gallery.camid,
        gallery_time=gallery.time,
        **ranking.variant.tlift,
    )


def _shortlist(
    scorer: Scorer,
    query: np.ndarray,
    gallery: np.ndarray,
    parts: Sequence[np.ndarray],
    ranking: Ranking,
    exact: Result,
    exact_seconds: float,
    title: str,
) -> Result:
    """Rank from coarse to fine; add the recall of the exact top ten and the cost of both ways."""
    start = time.perf_counter()
    shortlist = Shortlist(scorer, gallery, **ranking.variant.shortlist)
    seconds = time.perf_counter() - start
    # Compile before the clock starts.
    shortlist.scores(query[:1])
    kept = []
    with progress(f"{title} shortlists", total=len(query) * len(gallery), unit="pair") as bar:
        for part in parts:
            start = time.perf_counter()
            scores, chosen = shortlist.scores(query[part], bar)
            seconds += time.perf_counter() - start
            ranking.add(part, scores)
            best = exact.top[part]
            kept.append((chosen[:, :, None] == best[:, None]).any(1)[best >= 0])
    # No rates over all pairs: scores outside the shortlist have another scale.
    return ranking.result(pairs=False).with_metrics(
        top10_recall=float(np.concatenate(kept).mean()),
        scoring_seconds=seconds,
        exact_seconds=exact_seconds,
    )


def _distinct(items: Sequence[Any]) -> Iterator[Any]:
    for i, item in enumerate(items):
        if item not in items[:i]:
            yield item
