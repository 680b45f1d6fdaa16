"""Curves of a test set that need the scores of all pairs: receiver operating curve, histograms."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxreid.evaluation.ranking.pairs import Distribution, Pairs
from jaxreid.evaluation.results import Result

# File in a work directory.
CURVES = "curves.json"
# False-positive rates of the curve, and bars of a histogram.
RATES = np.logspace(-5, 0, 61)
BARS = 60


def curves_of(evaluated: Mapping[str, Mapping[str, Result]]) -> dict[str, dict[str, Any]]:
    """Return the curves of every test set, from the variant whose pairs are kept.

    {"false_positive_rate", "true_positive_rate"} are points of the receiver operating curve;
    {"edges", "same", "other"} the edges of bars of scores, and the shares of the pairs of one
    person, and of two, in each.
    """
    return {
        name: _curves(result.pairs)
        for name, results in evaluated.items()
        for result in results.values()
        if result.pairs is not None and len(result.pairs.positives)
    }


def _curves(pairs: Pairs) -> dict[str, Any]:
    scores = Distribution.of([pairs])
    same_accepted = np.append(np.cumsum(scores.same[::-1])[::-1], 0.0)
    # The lowest threshold with at most this rate; above all scores, nothing is accepted.
    place = np.searchsorted(-scores.accepted, -RATES * (1 + 1e-9))
    edges = np.linspace(scores.scores[0], scores.scores[-1], BARS + 1)
    bars = {
        kind: np.histogram(scores.scores, edges, weights=getattr(scores, kind))[0]
        for kind in ("same", "other")
    }
    rates = {"false_positive_rate": RATES, "true_positive_rate": same_accepted[place]}
    return {
        name: [float(f"{value:.6g}") for value in values]
        for name, values in (rates | {"edges": edges} | bars).items()
    }
