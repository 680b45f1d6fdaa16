"""The bootstrap of means: its spread is that of theory, and 95 of 100 intervals hold the truth."""

import numpy as np
import pytest

from jaxreid.evaluation.bootstrap import interval, resampled_means

# Of a quantile or deviation over the 10,000 draws: a few standard errors of it.
NEAR = {"rel": 0.05}


def width(samples):
    low, high = interval(samples)
    return high - low


def test_the_interval_of_normal_data_is_that_of_theory():
    values = np.random.default_rng(0).normal(0.5, 0.2, (1, 400))
    samples = resampled_means([values], np.arange(400))[:, 0]
    low, high = interval(samples)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.002)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, **NEAR)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_variance_over_seeds_is_not_underestimated(seeds):
    means = np.random.default_rng(seeds).normal(size=seeds)
    samples = resampled_means([np.repeat(means[:, None], 6, 1)], np.arange(6))[:, 0]
    assert samples.std() == pytest.approx(means.std(ddof=1) / np.sqrt(seeds), **NEAR)


def test_queries_of_a_person_count_as_one_draw():
    values = np.random.default_rng(1).normal(size=(1, 100))
    alone = resampled_means([values], np.arange(100))
    copied = resampled_means([values.repeat(4, axis=1)], np.arange(100).repeat(4))
    assert width(copied[:, 0]) == pytest.approx(width(alone[:, 0]), **NEAR)
    # A person with more queries has more weight, as in the mean over queries.
    count = np.array([1, 2, 3])
    means = resampled_means([np.arange(3.0).repeat(count)[None]], np.arange(3).repeat(count))
    assert {float(mean) for mean in means[:, 0]} >= {0.0, 1.0, 2.0, 8 / 6}


def test_paired_differences_are_tighter_than_unpaired_ones():
    generator = np.random.default_rng(2)
    hard = generator.uniform(size=(1, 200))
    a, b = hard + generator.normal(0.02, 0.05, (2, 1, 200))
    people = np.arange(200)
    paired = resampled_means([a, b], people)
    unpaired = [resampled_means([one], people, seed=seed)[:, 0] for seed, one in enumerate((a, b))]
    assert width(paired[:, 0] - paired[:, 1]) < width(unpaired[0] - unpaired[1]) / 3


@pytest.mark.parametrize(
    ("seeds", "spread"),
    # With few seeds that differ much a percentile is a little short; where one seed's noise is of
    # its queries, it is counted twice, and the interval is long.
    [(1, 0.0), (5, 0.03)],
)
def test_without_a_difference_19_of_20_intervals_hold_0(seeds, spread):
    generator = np.random.default_rng(3)
    people, held = np.arange(40).repeat(3), 0
    for _ in range(300):
        base = generator.normal(0.6, 0.15, 40)[people]
        a, b = (
            base + generator.normal(0, spread, (seeds, 1)) + generator.normal(0, 0.15, (seeds, 120))
            for _ in range(2)
        )
        means = resampled_means([a, b], people, draws=400)
        low, high = interval(means[:, 0] - means[:, 1])
        held += low <= 0 <= high
    # Three standard errors of a share of 300 below.
    assert 0.91 <= held / 300 <= 0.99
