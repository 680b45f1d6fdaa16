"""Reliability: how well calibrations hold on pairs that they were not fitted on.

Source: Guo et al., ICML 2017 (expected calibration error); Brümmer and du Preez, Computer Speech &
Language 2006 (log loss at even odds, in bits).
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxreid.evaluation.fitting import fit_log_ratio
from jaxreid.evaluation.ranking.pairs import Distribution, Pairs
from jaxreid.pictures.canvas import save
from jaxreid.pictures.reliability import Curve, Panel, reliability_picture

# File in a work directory.
RELIABILITY = "reliability.png"
# Bins of equal width in which probabilities are compared with shares.
BINS = 10


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Predicted probabilities and observed shares, on pairs outside of the fit, at even odds.

    Attributes:
        predicted: [BINS] mean probability in each bin; NaN without pairs.
        observed: [BINS] share of pairs of the same person in it.
        weight: [BINS] share of all pairs; both kinds of pairs count one half.
        ece: expected calibration error, a fraction.
        log_loss: in bits: 0 is perfect, 1 is a probability of one half for every pair.
    """

    predicted: np.ndarray
    observed: np.ndarray
    weight: np.ndarray
    ece: float
    log_loss: float


def reliabilities(pairs: Mapping[str, Pairs]) -> dict[str, dict[str, Reliability]]:
    """Return how well calibrations hold on people and on sets that they were not fitted on.

    Returns:
        By set: "other people", fitted on one half of its people and judged on the other, both ways;
        and "other sets", fitted on all other sets, if there are any. Sets with too few people are
        left out.
    """
    judged: dict[str, dict[str, Reliability]] = {name: {} for name in pairs}
    for name, whole in pairs.items():
        halves = [whole.half(0), whole.half(1)]
        if all(len(half.positives) and len(half.negatives) for half in halves):
            first, second = (Distribution.of([half]) for half in halves)
            judged[name]["other people"] = _joined([_judged(first, second), _judged(second, first)])
        if others := [p for other, p in pairs.items() if other != name]:
            parts = [_judged(Distribution.of(others), Distribution.of([whole]))]
            judged[name]["other sets"] = _joined(parts)
    return judged


def write_reliability(path: pathlib.Path, judged: Mapping[str, Mapping[str, Reliability]]) -> None:
    """Draw probabilities beside shares of each test set (PNG), from `reliabilities`."""
    panels = [
        Panel(
            name,
            [
                Curve(
                    f"fitted on {where}: error {reliability.ece:.1%}",
                    reliability.predicted,
                    reliability.observed,
                    reliability.weight,
                )
                for where, reliability in curves.items()
            ],
        )
        for name, curves in judged.items()
    ]
    save(reliability_picture(panels), path)


def _judged(fitted: Distribution, judged: Distribution) -> np.ndarray:
    """Return sums of [BINS, 4] over pairs: weight, predicted, observed, log loss in bits."""
    log_odds = np.interp(judged.scores, *fit_log_ratio(fitted))
    p = 1 / (1 + np.exp(-log_odds))
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    same, other = judged.same, judged.other
    weight = (same + other) / 2
    loss = (same * np.logaddexp(0, -log_odds) + other * np.logaddexp(0, log_odds)) / 2
    columns = (weight, weight * p, same / 2, loss / math.log(2))
    return np.stack([np.bincount(place, column, BINS) for column in columns], axis=1)


def _joined(parts: Sequence[np.ndarray]) -> Reliability:
    """Return the mean of `_judged` sums."""
    weight, predicted, observed, loss = np.mean(parts, axis=0).T
    with np.errstate(invalid="ignore"):
        means = predicted / weight, observed / weight
    error = float(np.abs(predicted - observed).sum())
    return Reliability(*means, weight, error, float(loss.sum()))
