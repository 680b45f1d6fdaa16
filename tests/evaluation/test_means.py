"""Means over splits of a data set, and over data sets."""

import numpy as np
import pytest

from jaxreid.evaluation.means import METRICS, means_of
from jaxreid.evaluation.results import results_table


def row(name, value, variant="plain", model="trained", **more):
    metrics = {metric: value for metric in METRICS}
    row = {"set": name, "variant": variant, "model": model, "fingerprint": name, "step": 5}
    return row | metrics | more


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


def test_only_numbers_are_splits():
    rows = [row(f"folder?split={rule}", 0.1) for rule in ("camera", "people", "all")]
    assert [(m["set"], m.get("sets")) for m in means_of(rows)] == [(None, 3)]
    metabin = [row(f"viper?split={i}{half}", 0.1) for i in (1, 2) for half in "ab"]
    assert [(m["set"], m["splits"]) for m in means_of(metabin)] == [("viper", 4)]


def test_older_steps_other_places_and_the_same_images_are_kept_apart():
    older = [row(f"viper?split={i}", 0.9, step=4) for i in (0, 1)]
    (viper,) = means_of([*older, *SPLITS])
    assert (viper["splits"], viper["mAP"]) == (3, pytest.approx(0.6))
    here, there = (
        [
            row(f"viper?split={i}[{n}]", value, place=place, fingerprint=f"{place}{i}")
            for i in (0, 1)
        ]
        for n, place, value in ((1, "/a", 0.2), (2, "/b", 0.4))
    )
    means = means_of([*here, *there])
    assert [(m["set"], m.get("place")) for m in means] == [
        ("viper[1]", "/a"), ("viper[2]", "/b"), (None, None),
    ]  # fmt: skip
    assert means[-1]["mAP"] == pytest.approx(0.3)
    same = [row("market1501", 0.2, fingerprint="f"), row("market1501?x=1", 0.2, fingerprint="f")]
    assert means_of(same) == []
    assert means_of([same[0], same[1] | {"junk": "none"}])[0]["sets"] == 2


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
