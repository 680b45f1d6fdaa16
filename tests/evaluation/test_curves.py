"""Curves of a test set against their definitions over all pairs."""

import types

import numpy as np
import pytest

from jaxreid.evaluation.curves import BARS, RATES, curves_of
from jaxreid.evaluation.ranking.pairs import Pairs


@pytest.fixture
def scores():
    generator = np.random.default_rng(0)
    # Rounded, so that some are equal.
    return generator.normal(1, 1, 80).round(1), generator.normal(-1, 1, 500).round(1)


def test_curves_are_shares_of_all_pairs(scores):
    same, other = scores
    halves = np.zeros(len(same), int), np.zeros(len(other), int)
    counts = np.ones(len(other), np.int64)
    pairs = Pairs(same, halves[0], other, counts, halves[1], 5, {}, {})
    results = {
        "plain": types.SimpleNamespace(pairs=pairs),
        "flip": types.SimpleNamespace(pairs=None),
    }
    curves = curves_of({"mall": results, "none": {"flip": results["flip"]}})
    assert list(curves) == ["mall"]
    one = curves["mall"]
    thresholds = [*sorted({*same, *other}, reverse=True)]
    points = [(np.mean(other >= t), np.mean(same >= t)) for t in thresholds]
    for rate, found in zip(RATES, one["true_positive_rate"], strict=True):
        # Six digits are kept, in rates as well.
        expected = max([true for false, true in points if false <= rate + 1e-9], default=0.0)
        assert found == pytest.approx(expected, rel=1e-5)
    assert one["true_positive_rate"][-1] == 1
    edges = np.array(one["edges"])
    assert edges[[0, -1]] == pytest.approx([min(thresholds), max(thresholds)])
    for kind, held in (("same", same), ("other", other)):
        assert sum(one[kind]) == pytest.approx(1, abs=1e-4)
        inside = (held >= edges[0]) & (held < edges[BARS // 2] - 1e-9)
        assert sum(one[kind][: BARS // 2]) == pytest.approx(inside.mean(), abs=0.06)
