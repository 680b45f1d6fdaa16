"""ROC against brute force over all pairs, and what must not change it."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxreid.evaluation.ranking.roc import RocAccumulator, _interval, _lower_end

RATES = (0.01, 0.1, 0.35)


def random_case(seed, queries=20, gallery=60, people=6, cameras=3, levels=50):
    g = np.random.default_rng(seed)
    ids = [g.integers(0, n, size) for size in (queries, gallery) for n in (people, cameras)]
    scores = g.integers(-levels, levels + 1, (queries, gallery)) / levels
    same = ids[0][:, None] == ids[2]
    return (scores + 0.5 * same).astype(np.float32), *ids


def pairs_of(scores, query_pid, query_camid, gallery_pid, gallery_camid):
    """Scores of positives and of negatives, as lists."""
    kinds = ([], [])
    for q, row in enumerate(scores):
        for g, score in enumerate(row):
            if query_pid[q] != gallery_pid[g]:
                kinds[1].append(float(score))
            elif query_camid[q] != gallery_camid[g]:
                kinds[0].append(float(score))
    return kinds


def by_brute_force(scores, *ids, rates=RATES):
    positives, negatives = pairs_of(scores, *ids)
    points = [(np.inf, 0.0, 0.0)]  # threshold, false-positive rate, true-positive rate
    for t in sorted(set(positives + negatives), reverse=True):
        false = sum(s >= t for s in negatives) / len(negatives)
        points.append((t, false, sum(s >= t for s in positives) / len(positives)))
    rate = {f: max(p[2] for p in points if p[1] <= f) for f in rates}
    threshold = {f: min(p[0] for p in points if p[1] <= f) for f in rates}
    i = next(i for i, p in enumerate(points) if p[1] >= 1 - p[2] - 1e-15)
    (_, f0, t0), (at, f1, t1) = points[i - 1 : i + 1]
    w = (1 - t0 - f0) / (f1 - f0 + t1 - t0)  # f0 + w (f1 - f0) = 1 - t0 - w (t1 - t0)
    return rate, threshold, f0 + w * (f1 - f0), at, len(positives), len(negatives)


def streamed(scores, *ids, size=1000, columns=None, pairs=None, **options):
    roc = RocAccumulator(pairs or scores.size, **{"rates": RATES, **options})
    columns = columns or scores.shape[1]
    for i in range(0, len(scores), size):
        for j in range(0, scores.shape[1], columns):
            r, c = slice(i, i + size), slice(j, j + columns)
            roc.add(scores[r, c], ids[0][r], ids[1][r], ids[2][c], ids[3][c])
    return roc.result()


def check(roc, expected, *, exact=True):
    rate, threshold, error, at, positives, negatives = expected
    assert roc.true_positive_rate == rate
    assert roc.threshold == threshold
    assert (roc.positives, roc.negatives) == (positives, negatives)
    if exact:
        assert roc.equal_error_bound == 0
    if not roc.equal_error_bound:
        assert roc.equal_error_rate == pytest.approx(error, abs=1e-14)
    assert abs(roc.equal_error_rate - error) <= roc.equal_error_bound + 1e-14
    if exact:
        assert roc.equal_error_threshold == at
    else:
        assert at - 2**-15 * abs(at) <= roc.equal_error_threshold <= at


def test_by_hand():
    ids = (
        np.array([1]),
        np.array([0]),
        np.array([1, 1, 1, 2, 2, 2, 2]),
        np.array([0, 1, 1, 0, 1, 1, 1]),
    )
    scores = np.array([[9.0, 0.9, 0.6, 0.8, 0.6, 0.2, 0.1]], np.float32)  # the first is junk
    roc = streamed(scores, *ids, rates=(0.1, 0.25, 0.5))
    assert roc.true_positive_rate == {0.1: 0.5, 0.25: 0.5, 0.5: 1.0}
    thresholds = {0.1: 0.9, 0.25: 0.8, 0.5: 0.6}
    assert roc.threshold == pytest.approx(thresholds)
    # from (false positives 0.25, false negatives 0.5) to (0.5, 0)
    assert roc.equal_error_rate == pytest.approx(1 / 3)
    assert roc.equal_error_threshold == np.float32(0.6)
    assert (roc.positives, roc.negatives, roc.equal_error_bound) == (2, 4, 0)


def test_constant_scores_are_chance_and_perfect_ones_without_error():
    scores, *ids = random_case(0)
    roc = streamed(np.zeros_like(scores), *ids)
    assert set(roc.true_positive_rate.values()) == {0.0}
    assert set(roc.threshold.values()) == {np.inf}
    assert roc.equal_error_rate == pytest.approx(0.5)
    perfect = (ids[0][:, None] == ids[2]).astype(np.float32)
    roc = streamed(perfect, *ids)
    assert set(roc.true_positive_rate.values()) == {1.0}
    assert (roc.equal_error_rate, roc.equal_error_threshold) == (0.0, 1.0)
    assert streamed(-perfect, *ids).equal_error_rate == 1.0


@pytest.mark.parametrize("levels", [1, 3, 50, 10**6])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_equals_brute_force(levels, dtype):
    scores, *ids = random_case(levels, levels=levels)
    scores = scores.astype(dtype)
    check(streamed(scores, *ids, size=7), by_brute_force(scores, *ids))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 6),
    gallery=st.integers(2, 15),
    people=st.integers(2, 4),
    levels=st.integers(1, 20),
    keep=st.sampled_from([1, 5, 1000]),
    more=st.integers(0, 300),
)
def test_properties(seed, queries, gallery, people, levels, keep, more):
    scores, *ids = random_case(seed, queries, gallery, people, 2, levels)
    hypothesis.assume(all(pairs_of(scores, *ids)))
    scores[scores == 0.5] = -np.inf
    expected = by_brute_force(scores, *ids)
    pairs = scores.size + more  # no more than a bound
    roc = streamed(scores, *ids, keep=keep, pairs=pairs)
    check(roc, expected, exact=keep == 1000)
    assert 0 <= roc.equal_error_bound <= 1

    g = np.random.default_rng(seed)
    rows, columns = g.permutation(queries), g.permutation(gallery)
    shuffled = scores[rows][:, columns], *(i[rows] for i in ids[:2]), *(i[columns] for i in ids[2:])
    for size in (1, 3):
        for part in (None, 2):
            other = streamed(*shuffled, size=size, columns=part, keep=keep, pairs=pairs)
            assert dataclasses.asdict(other) == dataclasses.asdict(roc)


def test_the_bound_of_the_equal_error_is_small_and_holds():
    g = np.random.default_rng(1)
    ids = g.integers(0, 20, 300), np.zeros(300, int), g.integers(0, 20, 400), np.ones(400, int)
    scores = 0.2 * g.standard_normal((300, 400)) + 0.3 * (ids[0][:, None] == ids[2])
    for dtype in (np.float32, np.float64):
        cast = scores.astype(dtype)
        exact = streamed(cast, *ids)
        rough = streamed(cast, *ids, keep=1, rates=(1e-3, 0.01))
        assert exact.equal_error_bound == 0
        assert rough.true_positive_rate[0.01] == exact.true_positive_rate[0.01]
        assert rough.equal_error_bound < 5e-4
        assert abs(rough.equal_error_rate - exact.equal_error_rate) <= rough.equal_error_bound
        assert rough.equal_error_threshold == pytest.approx(exact.equal_error_threshold, rel=2**-14)
        # among the negatives that are kept the point is exact, although not all are
        kept = streamed(cast, *ids, keep=50000)
        assert dataclasses.asdict(kept) == dataclasses.asdict(exact)


def test_intervals_rise_with_the_score():
    g = np.random.default_rng(0)
    scores = np.concatenate([g.standard_normal(500) * 10.0 ** g.integers(-45, 38, 500), [0.0, 1.0]])
    scores = np.sort(np.append(scores.astype(np.float32), [-np.inf, np.inf]))
    interval = _interval(scores)
    assert (np.diff(interval) >= 0).all()
    assert interval.min() >= 0
    assert interval.max() < 2**24
    assert _interval(np.array([-0.0])) == _interval(np.array([0.0]))
    ends = np.array([_lower_end(i) for i in interval[1:]])
    assert (ends <= scores[1:]).all()
    np.testing.assert_array_equal(_interval(ends), interval[1:])
    finite = np.isfinite(scores[1:])
    normal = finite & (np.abs(scores[1:]) > 1e-37)
    np.testing.assert_allclose(ends[normal], scores[1:][normal], rtol=2**-15)


def test_a_result_may_be_asked_for_at_any_time():
    scores, *ids = random_case(5)
    roc = RocAccumulator(scores.size, rates=RATES, keep=10)
    for i in range(0, 20, 10):
        part = scores[: i + 10], ids[0][: i + 10], ids[1][: i + 10], *ids[2:]
        roc.add(scores[i : i + 10], *(x[i : i + 10] for x in ids[:2]), *ids[2:])
        again = streamed(*part, pairs=scores.size, keep=10)
        assert dataclasses.asdict(roc.result()) == dataclasses.asdict(again)


def test_errors_say_what_is_wrong():
    scores, *ids = random_case(0)
    with pytest.raises(ValueError, match="0 pairs of the same person and 1200 pairs of two"):
        streamed(scores, ids[0] + 100, *ids[1:])
    with pytest.raises(ValueError, match="and 0 pairs of two people"):
        streamed(scores, ids[0] * 0, ids[1], ids[2] * 0, ids[3])
    with pytest.raises(ValueError, match="a ROC needs both"):
        RocAccumulator(10).result()
    with pytest.raises(ValueError, match="negatives exceed pairs=100"):
        streamed(scores, *ids, pairs=100)
    with pytest.raises(ValueError, match="gallery is empty"):
        RocAccumulator(10).add(scores[:, :0], *ids[:2], ids[2][:0], ids[3][:0])
    with pytest.raises(ValueError, match="shapes do not match"):
        RocAccumulator(10).add(scores[:, 1:], *ids)
    bad = np.where(np.arange(scores.size).reshape(scores.shape) == 7, np.nan, scores)
    with pytest.raises(ValueError, match="row 0 .* 1 NaN of 60"):
        streamed(bad, *ids)
    for wrong in ({"pairs": 0}, {"pairs": 5, "keep": 0}, {"pairs": 5, "rates": (0.0, 0.1)}):
        with pytest.raises(ValueError, match="expected pairs >= 1"):
            RocAccumulator(**wrong)
