"""Means over splits of a data set, and over data sets."""

import numpy as np
import pytest

from jaxreid.evaluation.means import METRICS, means_of
from jaxreid.evaluation.results import results_table


def row(name, value, variant="plain", model="trained"):
    metrics = {metric: value for metric in METRICS}
    return {"set": name, "variant": variant, "model": model, "fingerprint": name} | metrics


SPLITS = [row(f"viper?split={i}", value) for i, value in enumerate((0.5, 0.6, 0.7))]


def test_splits_count_as_one_set():
    viper, both = means_of([*SPLITS, row("market1501", 0.2)])
    assert (viper["set"], viper["splits"]) == ("viper", 3)
    assert viper["mAP"] == pytest.approx(0.6)
    assert viper["std"]["rank1"] == pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1))
    assert (both["set"], both["sets"]) == (None, 2)
    assert both["mAP"] == pytest.approx((0.6 + 0.2) / 2)


def test_other_options_are_other_sets():
    rows = [row(f"cuhk01?split={i}&seed={seed}", seed / 10) for i in (0, 1) for seed in (1, 2)]
    assert [m["set"] for m in means_of(rows)] == ["cuhk01?seed=1", "cuhk01?seed=2", None]


def test_a_mean_is_over_sets_that_have_the_variant():
    rows = [row("a", 0.1), row("b", 0.3), row("a", 0.5, "rerank")]
    assert [(m["variant"], m["sets"]) for m in means_of(rows)] == [("plain", 2)]
    assert means_of(rows[:1]) == []


def test_the_table_has_means_instead_of_splits():
    lines = results_table([*SPLITS, row("market1501", 0.2)]).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "market1501",
        "viper, 3 splits",
        "mean of 2 test sets",
    ]
    assert "60.0 ± 10.0" in lines[3]
    assert "40.0" in lines[4]
