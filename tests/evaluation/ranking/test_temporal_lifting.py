"""TLift against plain loops, by hand, and against the original code's numbers."""

import json
import sys
import tracemalloc

import hypothesis
import numpy as np
import pytest
from golden import REPOSITORY
from hypothesis import strategies as st

from jaxreid.evaluation.ranking.temporal_lifting import companion_blocks, tlift

sys.path.insert(0, str(REPOSITORY / "tools"))
from benchmark_ranking import plain_tlift as by_loops  # noqa: E402


def random_case(seed, queries=30, gallery=50, cameras=3, levels=1000, seconds=600):
    g = np.random.default_rng(seed)
    return g.integers(0, levels + 1, (queries, gallery)) / levels, {
        "query_camid": g.integers(0, cameras, queries),
        "query_time": g.integers(0, seconds * 25, queries) / 25,
        "gallery_camid": g.integers(0, cameras, gallery),
        "gallery_time": g.integers(0, seconds * 25, gallery) / 25,
    }


def rows_of(images, rows):
    return {n: v[rows] if n.startswith("query") else v for n, v in images.items()}


def test_by_hand():
    # Queries 0 and 1 walk together; query 2 is seen by the same camera, exactly tau later.
    images = {
        "query_camid": np.array([0, 0, 0]),
        "query_time": np.array([0.0, 50.0, 150.0]),
        "gallery_camid": np.array([1, 1, 2]),
        "gallery_time": np.array([1000.0, 1200.0, 0.0]),
    }
    score = np.array([[0.1, 0.3, 0.5], [0.9, 0.2, 0.5], [0.2, 0.4, 0.5]])
    near = np.exp(-1.0)  # 200 seconds apart
    # In camera 1, the pivot of queries 0 and 1 is image 0, found by query 1; that of query 2 is 1.
    nearness = [[1, near, 1], [1, near, 1], [near, 1, 1]]
    expected = (np.array(nearness) + 0.2) * score
    np.testing.assert_allclose(tlift(score, **images, k=1), expected, rtol=1e-15)


@pytest.mark.parametrize("levels", [1, 3, 10**6])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_equals_plain_loops(levels, k):
    score, images = random_case(levels + k, levels=levels)
    got = tlift(score, **images, k=k)
    np.testing.assert_allclose(got, by_loops(score, **images, k=k), rtol=1e-13)
    assert got.dtype == np.float64
    for dtype in (np.float32, np.float16):
        low = tlift(score.astype(dtype), **images, k=k)
        assert low.dtype == np.float32
        exact = by_loops(score.astype(dtype).astype(np.float64), **images, k=k)
        np.testing.assert_allclose(low, exact, rtol=2e-6, atol=1e-30)


def test_a_kernel_larger_than_a_tile(monkeypatch):
    score, images = random_case(1, gallery=200, cameras=2)
    expected = tlift(score, **images)
    monkeypatch.setattr("jaxreid.evaluation.ranking.temporal_lifting._TILE", 100)
    np.testing.assert_array_equal(tlift(score, **images), expected)
    monkeypatch.setattr("jaxreid.evaluation.ranking.temporal_lifting._FEW", 0)
    # a matrix product adds in its own order
    np.testing.assert_allclose(tlift(score, **images), expected, rtol=1e-13)


def test_blocks_give_the_very_numbers_of_one_call():
    score, images = random_case(5, queries=200, gallery=400, levels=10**6, seconds=5000)
    lifted = tlift(score, **images)
    blocks = companion_blocks(images["query_camid"], images["query_time"], size=1)
    assert len(blocks) > 20
    for rows in blocks:
        part = tlift(score[rows], **rows_of(images, rows))
        np.testing.assert_array_equal(part, lifted[rows])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.99])
def test_saturated_scores(share):
    score, images = random_case(6, gallery=300)
    score = (score < share).astype(np.float64)
    expected = by_loops(score, **images)
    np.testing.assert_allclose(tlift(score, **images), expected, rtol=1e-13)
    low = tlift(score.astype(np.float32), **images)
    np.testing.assert_allclose(low, expected, rtol=2e-6, atol=1e-30)


def test_where_all_tie_memory_stays_near_that_of_the_scores():
    # Companions of each other, who have all images as pivots: 80 million, if they were listed.
    g = np.random.default_rng(0)
    score, time = np.full((200, 2000), 0.5), g.uniform(0, 4000, 2000)
    images = {
        "query_camid": np.zeros(200, int),
        "query_time": g.uniform(0, 99, 200),
        "gallery_camid": np.ones(2000, int),
        "gallery_time": time,
    }
    tracemalloc.start()
    try:
        lifted = tlift(score, **images)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * score.nbytes
    nearness = np.exp(-(((time[:, None] - time) / 200) ** 2)).mean(axis=0)
    np.testing.assert_allclose(lifted, score * (nearness + 0.2), rtol=1e-13)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 12),
    gallery=st.integers(1, 15),
    cameras=st.integers(1, 4),
    levels=st.integers(1, 8),
    seconds=st.sampled_from([1, 30, 500]),
    k=st.integers(1, 6),
    size=st.integers(1, 12),
)
def test_properties(seed, queries, gallery, cameras, levels, seconds, k, size):
    score, images = random_case(seed, queries, gallery, cameras, levels, seconds)
    options = {"tau": 4.0, "sigma": 9.0, "k": k, "alpha": 0.1}
    lifted = tlift(score, **images, **options)
    np.testing.assert_allclose(lifted, by_loops(score, **images, **options), rtol=1e-13)
    assert (lifted >= 0.1 * score).all()
    assert (lifted <= 1.1 * score * (1 + 1e-15)).all()

    blocks = companion_blocks(images["query_camid"], images["query_time"], tau=4.0, size=size)
    np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(queries))
    for rows in blocks:
        part = tlift(score[rows], **rows_of(images, rows), **options)
        # more than a hundred pivots are added in another order
        np.testing.assert_allclose(part, lifted[rows], rtol=1e-13)

    order = np.random.default_rng(seed).permutation(gallery)
    shuffled = {n: v[order] if n.startswith("gallery") else v for n, v in images.items()}
    # pivots are added in another order
    again = tlift(score[:, order], **shuffled, **options)
    np.testing.assert_allclose(again, lifted[:, order], rtol=1e-14)


def test_cameras_that_one_side_lacks():
    score, images = random_case(2, cameras=4)
    images["gallery_camid"][images["gallery_camid"] == 1] = 2  # no gallery image of camera 1
    images["query_camid"][:5] = 9  # nothing is known of camera 9
    lifted = tlift(score, **images)
    np.testing.assert_array_equal(lifted[:5], 0.2 * score[:5])
    lacking = images["query_camid"] == 1
    assert (lifted[lacking] > 0.2 * score[lacking]).any()
    np.testing.assert_allclose(lifted, by_loops(score, **images), rtol=1e-13)


def test_nothing_to_do():
    score, images = random_case(3)
    assert tlift(score[:0], **rows_of(images, slice(0))).shape == (0, 50)
    empty = {n: v[:0] if n.startswith("gallery") else v for n, v in images.items()}
    assert tlift(score[:, :0], **empty).shape == (30, 0)
    assert companion_blocks(np.zeros(0, int), np.zeros(0)) == []


def test_blocks_are_as_large_as_asked_for_and_keep_companions_together():
    camid = np.array([1, 0, 0, 0, 0, 1])
    time = np.array([0.0, 300.0, 0.0, 99.0, 199.0, 50.0])
    blocks = companion_blocks(camid, time, tau=100.0, size=1)
    assert [b.tolist() for b in blocks] == [[2, 3], [4], [1], [0, 5]]
    blocks = companion_blocks(camid, time, tau=100.0, size=4)
    assert [b.tolist() for b in blocks] == [[2, 3, 4, 1], [0, 5]]


def test_errors_say_what_is_wrong():
    score, images = random_case(4)
    some_unknown = np.where(np.arange(30) < 2, np.nan, images["query_time"])
    with pytest.raises(ValueError, match="no time is known for 2 of 30 query images.*market1501"):
        tlift(score, **{**images, "query_time": some_unknown})
    one_unknown = np.where(np.arange(50) < 1, -1, images["gallery_camid"])
    with pytest.raises(ValueError, match="no camera is known for 1 of 50 gallery images"):
        tlift(score, **{**images, "gallery_camid": one_unknown})
    with pytest.raises(ValueError, match="no time"):
        companion_blocks(np.zeros(1, int), np.array([np.inf]))
    with pytest.raises(ValueError, match=r"score \(30, 49\), 30 queries and 50 gallery"):
        tlift(score[:, :-1], **images)
    with pytest.raises(ValueError, match="a time for each image"):
        tlift(score, **{**images, "query_time": images["query_time"][:-1]})
    with pytest.raises(ValueError, match="1 of 1500 scores are NaN"):
        tlift(np.where(np.arange(1500).reshape(30, 50) == 7, np.nan, score), **images)
    for bad in ({"tau": 0}, {"sigma": -1.0}, {"k": 0}, {"alpha": -0.1}):
        with pytest.raises(ValueError, match="expected tau > 0"):
            tlift(score, **images, **bad)


@pytest.mark.golden
def test_equals_the_original_code(golden_dir):
    stored = json.loads((golden_dir / "tlift.json").read_text())
    arrays = np.load(golden_dir / "tlift.npz")
    assert stored
    for name, case in stored.items():
        score = arrays[f"{name}/in_score"]
        images = {
            ours: arrays[f"{name}/{theirs}"]
            for ours, theirs in {
                "query_camid": "prob_cam_id",
                "query_time": "prob_time",
                "gallery_camid": "gal_cam_id",
                "gallery_time": "gal_time",
            }.items()
        }
        options = {n.lower(): v for n, v in case["params"].items()}
        lifted = tlift(score, **images, **options)
        if "exception" in case:  # cameras without gallery images; what is lifted there is ours
            expected, rtol = by_loops(score, **images, **options), 1e-13
        else:
            expected, rtol = arrays[f"{name}/out"], 1e-12
        if score.dtype == np.float32:
            rtol = 1e-5
        np.testing.assert_allclose(lifted, expected, rtol=rtol, atol=1e-30, err_msg=name)


@pytest.mark.golden
def test_equals_the_original_evaluation(golden_dir):
    arrays = np.load(golden_dir / "eval_chain.npz")
    for version in ("v2.1", "HEAD"):
        lifted = tlift(
            1 - arrays[f"{version}/dist_rerank"],
            query_camid=arrays["q_cams"],
            query_time=arrays["q_time"],
            gallery_camid=arrays["g_cams"],
            gallery_time=arrays["g_time"],
        )
        np.testing.assert_allclose(lifted, arrays[f"{version}/score_tlift"], rtol=2e-6, atol=2e-6)
