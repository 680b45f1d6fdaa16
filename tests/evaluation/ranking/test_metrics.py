"""Metrics against hand-computed cases, plain loops, and the original code's numbers."""

import json
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxreid.evaluation.ranking import QueryRanks, rank_queries, summarize, top_matches


def one_query(scores, gallery_pid, gallery_camid, pid=1, camid=0, dtype=np.float32):
    ids = np.array([pid]), np.array([camid]), np.array(gallery_pid), np.array(gallery_camid)
    return rank_queries(np.array([scores], dtype), *ids)


def by_loops(row, pid, camid, gallery_pid, gallery_camid):
    """The protocol in plain Python: average precision, first match, mINP's term, matches."""
    kept = [
        (float(s), p == pid)
        for s, p, c in zip(row, gallery_pid, gallery_camid, strict=True)
        if not (p == pid and c == camid)
    ]
    positives = [s for s, match in kept if match]
    if not positives:
        return math.nan, 0, math.nan, 0

    def rank(s):
        return sum(other >= s for other, _ in kept)

    precision = [sum(p >= s for p in positives) / rank(s) for s in positives]
    first = 1 + sum(s >= max(positives) for s, match in kept if not match)
    return (
        math.fsum(precision) / len(positives),
        first,
        len(positives) / rank(min(positives)),
        len(positives),
    )


def check_against_loops(scores, query_pid, query_camid, gallery_pid, gallery_camid):
    ranks = rank_queries(scores, query_pid, query_camid, gallery_pid, gallery_camid)
    for q, row in enumerate(scores):
        expected = by_loops(row, query_pid[q], query_camid[q], gallery_pid, gallery_camid)
        got = [getattr(ranks, n)[q] for n in QueryRanks.__dataclass_fields__]
        # the sum of a few fractions: the last bits depend on the order of adding
        np.testing.assert_allclose(got, expected, rtol=1e-14)
    return ranks


def random_case(seed, queries=20, gallery=60, people=6, cameras=3, levels=5):
    g = np.random.default_rng(seed)
    scores = (g.integers(0, levels, (queries, gallery)) / levels).astype(np.float32)
    ids = [g.integers(0, n, size) for size in (queries, gallery) for n in (people, cameras)]
    return scores, *ids


def test_images_of_the_same_person_on_the_same_camera_are_left_out():
    # order by score: junk, other, match, other, match
    ranks = one_query([0.9, 0.8, 0.7, 0.6, 0.5], [1, 2, 1, 3, 1], [0, 0, 1, 1, 2])
    assert ranks.average_precision[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert ranks.first_match[0] == 2
    assert ranks.inverse_negative_penalty[0] == 2 / 4
    assert ranks.matches[0] == 2


def test_other_people_on_the_same_camera_and_distractors_stay():
    ranks = one_query([0.9, 0.8, 0.7], [0, 2, 1], [0, 0, 1])
    assert ranks.first_match[0] == 3
    assert ranks.average_precision[0] == pytest.approx(1 / 3)


def test_a_query_without_a_match_is_skipped_and_counted():
    scores = np.array([[0.9, 0.1], [0.9, 0.1]], np.float32)
    ranks = rank_queries(
        scores, np.array([1, 5]), np.array([0, 0]), np.array([2, 1]), np.array([1, 1])
    )
    assert ranks.matches.tolist() == [1, 0]
    assert ranks.first_match.tolist() == [2, 0]
    assert np.isnan(ranks.average_precision[1])
    summary = summarize(ranks, ks=(1, 2))
    assert summary == {
        "rank1": 0.0,
        "rank2": 1.0,
        "mAP": 0.5,
        "mINP": 0.5,
        "queries": 1,
        "queries_without_match": 1,
    }


def test_ties_count_against_the_system():
    # one match and three others, all alike: rank 4, precision of chance
    ranks = one_query([0.5] * 4, [2, 1, 3, 4], [1, 1, 1, 1])
    assert ranks.first_match[0] == 4
    assert ranks.average_precision[0] == pytest.approx(1 / 4)
    # two matches tied with one another do not push each other down
    ranks = one_query([0.5, 0.5, 0.1], [1, 1, 2], [1, 1, 1])
    assert ranks.first_match[0] == 1
    assert ranks.average_precision[0] == 1
    assert ranks.inverse_negative_penalty[0] == 1


def test_summary_by_hand():
    ranks = QueryRanks(
        np.array([1.0, 0.5, np.nan]),
        np.array([1, 6, 0]),
        np.array([1.0, 0.25, np.nan]),
        np.array([2, 1, 0]),
    )
    summary = summarize(ranks)
    assert list(summary) == [
        "rank1",
        "rank5",
        "rank10",
        "mAP",
        "mINP",
        "queries",
        "queries_without_match",
    ]
    assert (summary["rank1"], summary["rank5"], summary["rank10"]) == (0.5, 0.5, 1.0)
    assert (summary["mAP"], summary["mINP"]) == (0.75, 0.625)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_equals_plain_loops(levels):
    ranks = check_against_loops(*random_case(levels, levels=levels))
    assert (ranks.matches > 0).any()


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    gallery=st.integers(1, 12),
    people=st.integers(1, 4),
    cameras=st.integers(1, 3),
    levels=st.integers(1, 6),
)
def test_properties(seed, gallery, people, cameras, levels):
    scores, *ids = random_case(seed, 4, gallery, people, cameras, levels)
    ranks = check_against_loops(scores, *ids)
    valid = ranks.matches > 0
    assert ((ranks.average_precision[valid] > 0) & (ranks.average_precision[valid] <= 1)).all()
    assert (ranks.first_match[valid] >= 1).all()
    assert (ranks.inverse_negative_penalty[valid] <= 1).all()

    order = np.random.default_rng(seed).permutation(
        gallery
    )  # ties never depend on the gallery's order
    shuffled = rank_queries(scores[:, order], *ids[:2], ids[2][order], ids[3][order])
    tiles = [
        rank_queries(scores[i : i + 2], ids[0][i : i + 2], ids[1][i : i + 2], *ids[2:])
        for i in (0, 2)
    ]
    rescaled = rank_queries(np.exp(scores.astype(np.float64)), *ids)
    for other in (shuffled, QueryRanks.concatenate(tiles), rescaled):
        for name in QueryRanks.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(other, name), getattr(ranks, name))
    if valid.any():
        cmc = summarize(ranks, ks=range(1, gallery + 1))
        curve = [cmc[f"rank{k}"] for k in range(1, gallery + 1)]
        assert curve == sorted(curve)
        assert curve[-1] == 1


def test_half_precision_and_integers_are_compared_exactly():
    scores, *ids = random_case(3, levels=4)
    expected = rank_queries(scores, *ids)
    for other in (
        scores.astype(np.float16),
        (scores * 4).astype(np.int64),
        scores.astype(np.float64),
    ):
        np.testing.assert_array_equal(
            rank_queries(other, *ids).average_precision, expected.average_precision
        )


def test_errors_say_what_is_wrong():
    scores, *ids = random_case(0)
    with pytest.raises(ValueError, match="gallery is empty"):
        rank_queries(scores[:, :0], *ids[:2], ids[2][:0], ids[3][:0])
    with pytest.raises(ValueError, match="shapes do not match"):
        rank_queries(scores[:, :-1], *ids)
    with pytest.raises(ValueError, match="shapes do not match"):
        rank_queries(scores[0], *ids)
    with pytest.raises(ValueError, match="no tile"):
        QueryRanks.concatenate([])
    with pytest.raises(ValueError, match="k is 0"):
        top_matches(scores, *ids, k=0)
    bad = scores.copy()
    bad[7, 3] = np.nan
    for f in (rank_queries, top_matches):
        with pytest.raises(ValueError, match=rf"row 7 .*pid {ids[0][7]}.* 1 NaN of 60"):
            f(bad, *ids)
    alone = rank_queries(scores, ids[0] + 1000, *ids[1:])
    with pytest.raises(ValueError, match="none of the 20 queries has a match"):
        summarize(alone)


def trapezoid_by_loops(row, pid, camid, gallery_pid, gallery_camid):
    """Area under precision over recall, a point for every score there is, from (0, 1)."""
    kept = [
        (float(s), p == pid)
        for s, p, c in zip(row, gallery_pid, gallery_camid, strict=True)
        if not (p == pid and c == camid)
    ]
    total = sum(match for _, match in kept)
    if not total:
        return math.nan
    area, recall, precision = 0.0, 0.0, 1.0
    for threshold in sorted({s for s, _ in kept}, reverse=True):
        found = [match for s, match in kept if s >= threshold]
        next_recall, next_precision = sum(found) / total, sum(found) / len(found)
        area += (next_recall - recall) * (precision + next_precision) / 2
        recall, precision = next_recall, next_precision
    return area


@pytest.mark.parametrize("levels", [2, 5, 10000])
def test_trapezoid_precision_equals_plain_loops(levels):
    scores, *ids = random_case(7, levels=levels)
    ranks = rank_queries(scores, *ids, precision="trapezoid")
    expected = [
        trapezoid_by_loops(row, ids[0][q], ids[1][q], *ids[2:]) for q, row in enumerate(scores)
    ]
    np.testing.assert_allclose(ranks.average_precision, expected, rtol=1e-12)
    standard = rank_queries(scores, *ids)
    np.testing.assert_array_equal(ranks.first_match, standard.first_match)
    assert not np.allclose(ranks.average_precision, standard.average_precision, equal_nan=True)
    with pytest.raises(ValueError, match="unknown average precision 'area'; valid: "):
        rank_queries(scores, *ids, precision="area")


@pytest.mark.parametrize("k", [1, 7, 60, 100])
@pytest.mark.parametrize("levels", [1, 4, 10000])
def test_top_matches_equals_a_stable_sort_without_junk(levels, k):
    scores, *ids = random_case(5, levels=levels)
    top = top_matches(scores, *ids, k=k)
    assert top.shape == (20, k)
    for q, row in enumerate(scores):
        junk = (ids[2] == ids[0][q]) & (ids[3] == ids[1][q])
        order = sorted((i for i in range(60) if not junk[i]), key=lambda i: (-row[i], i))[:k]
        assert top[q].tolist() == order + [-1] * (k - len(order))
    single = top_matches(scores[2], ids[0][2], ids[1][2], *ids[2:], k=k)
    np.testing.assert_array_equal(single, top[2])


@pytest.mark.golden
def test_equals_the_original_code(golden_dir):
    stored = json.loads((golden_dir / "metrics.json").read_text())
    arrays = np.load(golden_dir / "metrics.npz")
    cases = [c for c in stored if f"{c}/distmat" in arrays]
    assert cases
    for case in cases:
        ids = [arrays[f"{case}/{n}"] for n in ("q_pids", "q_camids", "g_pids", "g_camids")]
        ranks = rank_queries(-arrays[f"{case}/distmat"], *ids)
        mean_ap = stored[case]["stable/mean_ap"]
        if isinstance(mean_ap, str):  # the error's text
            with pytest.raises(ValueError, match="queries has a match"):
                summarize(ranks)
            continue
        # sums of the same fractions in another order
        assert summarize(ranks)["mAP"] == pytest.approx(mean_ap, abs=1e-14)
        if stored[case]["has_ties"]:
            continue
        # torchreid sums in float32
        assert summarize(ranks)["mAP"] == pytest.approx(
            stored[case]["stable/torchreid_market1501_mAP"], abs=1e-6
        )
        for key in ("cmc_sep0_sgs0_fmb1", "torchreid_market1501_cmc"):
            expected = arrays[f"{case}/stable/{key}"]
            ks = range(1, len(expected) + 1)
            summary = summarize(ranks, ks)
            np.testing.assert_allclose([summary[f"rank{k}"] for k in ks], expected, atol=1e-6)
