"""Re-ranking against the classical loop, the original code's numbers, and its own promises."""

import sys

import hypothesis
import numpy as np
import pytest
from golden import REPOSITORY
from hypothesis import strategies as st

from jaxreid.evaluation.ranking.k_reciprocal import rerank, rerank_blocks, rerank_matrix
from jaxreid.evaluation.ranking.neighbours import smallest

sys.path.insert(0, str(REPOSITORY / "tools"))
from benchmark_ranking import plain_rerank as plain  # noqa: E402
from benchmark_ranking import walkers  # noqa: E402


def clustered(seed, n, people=8, levels=None):
    """Distances of images that come in groups, not symmetric; `levels` of values make ties."""
    g = np.random.default_rng(seed)
    feature = g.normal(size=(people, 8))[g.integers(0, people, n)] + 0.4 * g.normal(size=(n, 8))
    distance = np.linalg.norm(feature[:, None] - feature, axis=2) * g.uniform(0.95, 1.05, (n, n))
    if levels:
        distance = np.ceil(distance / distance.max() * levels)
    return distance.astype(np.float32)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("levels", [None, 40, 3, 1])
@pytest.mark.parametrize(
    ("k1", "k2", "weight"), [(20, 6, 0.3), (5, 2, 0.0), (7, 1, 0.5), (1, 1, 0.1), (3, 9, 1.0)]
)
def test_equals_the_classical_loop(squared, levels, k1, k2, weight):
    matrix = clustered(k1, 150, levels=levels)
    options = {"k1": k1, "k2": k2, "weight": weight, "squared": squared}
    expected = plain(matrix.astype(np.float64), 30, **options)
    got = rerank_matrix(matrix, 30, **options)
    assert got.dtype == np.float32
    # sums of some hundred float32 weights that add up to 1
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    num_query=st.integers(1, 12),
    num_gallery=st.integers(1, 40),
    k1=st.integers(1, 60),
    k2=st.integers(1, 60),
    levels=st.sampled_from([None, 10, 2]),
    block=st.integers(1, 60),
)
def test_properties(seed, num_query, num_gallery, k1, k2, levels, block):
    n = num_query + num_gallery
    matrix = clustered(seed, n, 4, levels) + np.float32(0.1)
    options = {"k1": k1, "k2": k2}
    got = rerank_matrix(matrix, num_query, **options)
    assert got.shape == (num_query, num_gallery)
    expected = plain(matrix.astype(np.float64), num_query, **options)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert ((got >= 0) & (got <= 1 + 1e-6)).all()

    # any size of blocks, kept or asked for again: the same bits
    np.testing.assert_array_equal(rerank_matrix(matrix, num_query, block=block, **options), got)
    blocks = rerank_blocks(
        lambda images: matrix[:, images].T, num_query, num_gallery, block=block, **options
    )
    for queries, rows in blocks:
        assert len(queries) <= block
        np.testing.assert_array_equal(rows, got[queries])
    parts = [np.arange(num_query)[::-1][i::3] for i in range(min(3, num_query))]
    blocks = rerank_blocks(
        lambda images: matrix[:, images].T, num_query, num_gallery, parts=parts, **options
    )
    for part, (queries, rows) in zip(parts, blocks, strict=True):
        np.testing.assert_array_equal(queries, part)
        np.testing.assert_array_equal(rows, got[part])

    # a scale is divided out again; powers of two without rounding
    np.testing.assert_array_equal(rerank_matrix(matrix * 4, num_query, **options), got)

    if levels is None:  # without ties the order of the images means nothing
        g = np.random.default_rng(seed)
        queries, gallery = g.permutation(num_query), g.permutation(num_gallery)
        order = np.concatenate([queries, num_query + gallery])
        shuffled = rerank_matrix(matrix[order][:, order], num_query, **options)
        # the weights are summed in another order
        np.testing.assert_allclose(shuffled, got[queries][:, gallery], rtol=0, atol=1e-6)


class Asked:
    """Distances of a matrix, and a record of what was asked for."""

    def __init__(self, matrix):
        self.matrix, self.images, self.pair_calls = matrix, [], 0

    def distances(self, images):
        assert images.dtype == np.int64
        self.images.append(images.tolist())
        return self.matrix[:, images].T

    def pairs(self, to, source):
        self.pair_calls += 1
        return self.matrix[source, to]


def runs(n, block):
    return [list(range(i, min(i + block, n))) for i in range(0, n, block)]


def test_asks_for_every_image_once_and_for_few_again():
    asked = Asked(clustered(0, 300, people=30))
    rerank(asked.distances, 50, 250, block=64)
    assert asked.images[:5] == runs(300, 64)
    (again,) = asked.images[5:]
    assert len(again) < 30


def test_asks_in_full_blocks():
    embedding = walkers(150, 850)[0]
    asked = Asked(1 - embedding @ embedding.T)
    expected = rerank_matrix(asked.matrix, 150)
    got = [tile for _, tile in rerank_blocks(asked.distances, 150, 850, block=64)]
    np.testing.assert_array_equal(np.concatenate(got), expected)
    assert asked.images[:16] == runs(1000, 64)
    assert asked.images[-3:] == runs(150, 64)
    again = asked.images[16:-3]
    assert 64 < sum(map(len, again)) < 1000  # more than a block, and not everything
    assert [len(images) for images in again[:-1]] == [64] * (len(again) - 1)
    assert len(again[-1]) <= 64
    flat = sum(again, [])
    assert flat == sorted(set(flat))


def test_distances_beyond_the_kept_ones_are_asked_for_again(monkeypatch):
    matrix = clustered(3, 200, people=3)
    expected = rerank_matrix(matrix, 40, k1=6, k2=3)
    monkeypatch.setattr("jaxreid.evaluation.ranking.k_reciprocal._KEPT", 1)
    asked = Asked(matrix)
    got = rerank(asked.distances, 40, 160, k1=6, k2=3, block=7)
    assert 29 < len(asked.images) <= 2 * 29  # 200 / 7
    assert max(map(len, asked.images)) == 7
    np.testing.assert_array_equal(got, expected)

    asked = Asked(matrix)
    got = rerank(asked.distances, 40, 160, pairs=asked.pairs, k1=6, k2=3, block=7)
    assert (len(asked.images), asked.pair_calls) == (29, 1)
    np.testing.assert_array_equal(got, expected)
    for wrong in (lambda to, source: matrix[source][:, to], lambda to, source: to * np.nan):
        with pytest.raises(ValueError, match="expected as many finite distances"):
            rerank(asked.distances, 40, 160, pairs=wrong, k1=6, k2=3)


@pytest.mark.parametrize("levels", [1, 4, 10000])
@pytest.mark.parametrize(("n", "count"), [(1, 1), (50, 50), (50, 7), (411, 9), (400, 10)])
def test_smallest_equals_a_stable_sort(levels, n, count):
    rows = np.random.default_rng(n).integers(0, levels, (20, n)).astype(np.float32)
    columns, values = smallest(rows, count)
    expected = np.argsort(rows, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(columns, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(rows, expected, 1))


def test_images_that_share_a_neighbourhood_come_closer():
    # Three people in a row. The query lies between two images of its person and a stranger's who is
    # a little nearer than one of them, but whose own neighbours are elsewhere.
    place = np.array([0.0, -0.6, 0.5, -0.3, 0.51, 0.9, 1.0, 1.1, 1.2])
    matrix = np.abs(place[:, None] - place)
    assert matrix[0, 1] > matrix[0, 4]
    got = rerank_matrix(matrix, 1, k1=3, k2=1)[0]
    assert got[0] < got[3]


def test_all_images_alike_stay_alike():
    got = rerank_matrix(np.zeros((30, 30)), 10, k1=40)
    np.testing.assert_allclose(got, 0, atol=1e-6)


def test_without_normalization():
    matrix = clustered(4, 60)
    got = rerank_matrix(matrix / 8, 20, normalize=False)
    scaled = matrix / 8 / (matrix / 8).max(axis=0)
    assert np.abs(got - rerank_matrix(matrix, 20)).max() > 1e-2
    same = rerank_matrix(scaled, 20, normalize=False)
    np.testing.assert_allclose(same, rerank_matrix(matrix, 20), atol=1e-6)


def test_large_logits_do_not_overflow():
    matrix = -1e4 * np.eye(50, dtype=np.float32) + clustered(5, 50)
    got = rerank_matrix(matrix, 10, normalize=False)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes_are_computed_in_float32(dtype):
    matrix = clustered(6, 60).astype(np.float16)
    expected = rerank_matrix(matrix.astype(np.float32), 20)
    np.testing.assert_array_equal(rerank_matrix(matrix.astype(dtype), 20), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 0}, "k1 is 0; expected at least 1"),
        ({"k2": 0}, "k2 is 0"),
        ({"block": 0}, "block is 0"),
        ({"num_query": 0}, "num_query is 0"),
        ({"num_query": 60}, "num_gallery is 0"),
        ({"weight": 1.5}, "weight is 1.5; expected a number from 0 to 1"),
        ({"weight": float("nan")}, "weight is nan"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rerank_matrix(clustered(0, 60), **({"num_query": 10} | options))


def test_distances_out_of_range_are_refused():
    matrix = clustered(0, 60)
    with pytest.raises(ValueError, match=r"matrix is \[60, 50\]; expected \[N, N\]"):
        rerank_matrix(matrix[:, :50], 10)
    with pytest.raises(ValueError, match=r"of 60 images has shape \[60, 50\]; expected \[60, 6"):
        rerank(lambda images: matrix[images, :50], 10, 50)
    with pytest.raises(ValueError, match="num_query is 0"):  # before any work
        rerank_blocks(lambda images: matrix[images], 0, 60)
    for value in (np.nan, np.inf, -np.inf):
        bad = matrix.copy()
        bad[3, 17] = value
        with pytest.raises(ValueError, match=r"to image 17 lie between .* finite numbers"):
            rerank_matrix(bad, 10, block=9)
    negative = matrix.copy()
    negative[:, 30] = -negative[:, 30] - 0.1
    with pytest.raises(ValueError, match=r"image 30 lie between .* above 0.*sigmoid"):
        rerank_matrix(negative, 10, block=9)
    with pytest.raises(ValueError, match=r"image 30 lie .* distances of at least 0 to square"):
        rerank_matrix(negative, 10, squared=True)
    rerank_matrix(negative, 10, normalize=False)
    rounding = matrix - 1e-6 * np.eye(60, dtype=np.float32)
    assert (rounding < 0).any()
    rerank_matrix(rounding, 10, squared=True)


def options_of(name):
    """The golden file's `k<k1>_<k2>_<weight>` and, of the tiny cases, `_nq<queries>`."""
    k1, k2, weight, *queries = name.removeprefix("k").split("_")
    options = {"k1": int(k1), "k2": int(k2), "weight": float(weight)}
    return options, *(int(q.removeprefix("nq")) for q in queries)


@pytest.mark.golden
def test_equals_the_original_code(golden_dir):
    arrays = np.load(golden_dir / "rerank.npz")
    # QAConv computes in float16; the same source in float64 shows what it would have given.
    tolerance = {"qaconv": 3e-3, "qaconv_in_float64": 1e-6, "torchreid": 1e-6}
    inputs = {
        "sigmoid": arrays["sigmoid_dist"],
        "neg_logit": -arrays["logits"],
        "euclid": arrays["euclid"],
    }
    seen = set()
    for key in arrays.files:
        variant, *case = key.split("/")
        if variant not in tolerance:
            continue
        seen.add((variant, case[0]))
        expected = arrays[key]
        options, squared = options_of(case[1])[0], variant == "torchreid"
        got = rerank_matrix(inputs[case[0]], len(expected), squared=squared, **options)
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance[variant], err_msg=key)
    assert len(seen) == 5


@pytest.mark.golden
def test_equals_the_original_code_on_fewer_images_than_neighbours(golden_dir):
    arrays = np.load(golden_dir / "rerank.npz")
    keys = [key for key in arrays.files if key.startswith("tiny/") and key != "tiny/dist"]
    assert {key.split("/")[1].split("_")[0] for key in keys} == {"qaconv", "torchreid"}
    for key in keys:
        variant, _, case = key.removeprefix("tiny/").partition("_")
        options, num_query = options_of(case)
        squared = variant == "torchreid"
        got = rerank_matrix(arrays["tiny/dist"], num_query, squared=squared, **options)
        atol = 1e-6 if squared else 3e-3  # float16 inside
        np.testing.assert_allclose(got, arrays[key], rtol=0, atol=atol, err_msg=key)


@pytest.mark.golden
@pytest.mark.parametrize("version", ["v2.1", "HEAD"])
def test_equals_the_originals_evaluator(golden_dir, version):
    arrays = np.load(golden_dir / "eval_chain.npz")
    expected = arrays[f"{version}/dist_rerank"]
    got = rerank_matrix(arrays[f"{version}/dist_all"], len(expected))
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-3)  # float16 inside
