"""Fitting of calibrations to the pairs of test sets.

Source: Zadrozny and Elkan, KDD 2002 (isotonic regression); Brümmer and du Preez, Computer Speech &
Language 2006 (the ratio of densities; one pair of each kind added to every step, so that no score
is certain).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxreid.evaluation.calibration import Calibration, TestSet, Threshold
from jaxreid.evaluation.ranking.pairs import Distribution, Pairs

# Points of a curve that are kept.
_POINTS = 256
# Points of a fit.
_GROUPS = 4096


def fit(
    pairs: Mapping[str, Pairs],
    fingerprints: Mapping[str, str],
    *,
    model_digest: str,
    own: bool = False,
) -> Calibration:
    """Fit a calibration.

    Args:
        pairs: by data set; every set counts the same.
        fingerprints: by data set.
        model_digest: model of the scores.
        own: as the attribute.
    """
    distribution = Distribution.of(list(pairs.values()))
    scores, log_ratio = fit_log_ratio(distribution)
    rate_score, rate = _rates(distribution)
    return Calibration(
        sets=tuple(
            TestSet(name, fingerprints[name], p.people, len(p.positives), p.negative_count)
            for name, p in pairs.items()
        ),
        model_digest=model_digest,
        score=scores,
        log_ratio=log_ratio,
        rate_score=rate_score,
        rate=rate,
        thresholds=tuple(_thresholds(distribution, list(pairs.values()))),
        own=own,
    )


def fit_log_ratio(distribution: Distribution) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and log ratios, the points of the fit (`Calibration`)."""
    # Imported here, because using a calibration takes NumPy alone; JAX depends on it.
    from scipy.optimize import isotonic_regression

    scores, same, other = distribution.scores, distribution.same, distribution.other
    total = same + other
    if len(scores) > _GROUPS:
        # Neighbours of equal weight together: a fit of a million points would take seconds.
        group = np.minimum((np.cumsum(total) * (_GROUPS / 2)).astype(int), _GROUPS - 1)
        first = np.flatnonzero(np.diff(group, prepend=-1))
        moment = np.add.reduceat(scores * total, first)
        same, other, total = (np.add.reduceat(part, first) for part in (same, other, total))
        scores = moment / total
    steps = isotonic_regression(same / total, weights=total).blocks[:-1]
    centre = np.add.reduceat(scores * total, steps)
    same, other, total = (np.add.reduceat(part, steps) for part in (same, other, total))
    ratio = _log_density(same, distribution.positives) - _log_density(other, distribution.negatives)
    # The added pairs may turn two steps around.
    ratio = isotonic_regression(ratio, weights=total).x
    kept = _spread(len(centre))
    return (centre / total)[kept], ratio[kept]


def _log_density(share: np.ndarray, count: int) -> np.ndarray:
    """Return the logarithm of shares of `count` pairs, with the added pair of each kind."""
    return np.log(share * count + 1) - math.log(count + 2)


def _spread(count: int) -> np.ndarray:
    """Return at most `_POINTS` indices, evenly spread, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int))


def _rates(distribution: Distribution) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and the shares of negatives at or above them, evenly spread by logarithm."""
    there = distribution.other > 0
    scores, rate = distribution.scores[there], distribution.accepted[there]
    wanted = np.geomspace(rate[-1], 1, _POINTS)
    kept = np.unique(np.clip(np.searchsorted(-rate, -wanted, "left"), 0, len(rate) - 1))
    return scores[kept], np.minimum(rate[kept], 1.0)


def _thresholds(distribution: Distribution, pairs: Sequence[Pairs]) -> list[Threshold]:
    thresholds = []
    for rate in sorted(pairs[0].thresholds, reverse=True):
        # Too few pairs would make it a guess.
        if max(p.negative_count for p in pairs) * rate < 1:
            continue
        error = math.sqrt(sum(p.errors[rate] ** 2 for p in pairs)) / len(pairs)
        if len(pairs) == 1:
            # Exact, also where the scores of the pairs are middles of intervals.
            score = pairs[0].thresholds[rate]
        else:
            # No score at all if even the highest accepts more.
            reached = distribution.scores[distribution.accepted <= rate]
            score = float(reached[0]) if reached.size else math.inf
        by_set = [float(p.counts[p.negatives >= score].sum() / p.negative_count) for p in pairs]
        if len(pairs) > 1:
            error = max(error, float(np.std(by_set, ddof=1) / math.sqrt(len(by_set))))
        if math.isfinite(score):
            thresholds.append(Threshold(rate, float(score), error, tuple(by_set)))
    return thresholds
