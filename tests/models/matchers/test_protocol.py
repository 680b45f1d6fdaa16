"""The protocol of matchers: one signature, and how scores become distances and similarities."""

import inspect

import numpy as np
import pytest

from jaxreid.evaluation.ranking.k_reciprocal import rerank_matrix
from jaxreid.models.features import Features
from jaxreid.models.matchers import MATCHERS, make_matcher
from jaxreid.models.matchers.matcher import Matcher
from jaxreid.models.necks import NECKS, make_neck
from jaxreid.models.necks.neck import Neck

LOGITS = ["qaconv", "qaconv_ms", "metric_network"]


def embeddings(count=40, d=16, scale=1.0):
    return scale * np.random.default_rng(0).standard_normal((count, d)).astype(np.float32)


def scores_of(metric, features):
    return np.asarray(make_matcher("embedding", metric=metric).apply({}, features, features))


@pytest.mark.parametrize("table", [MATCHERS, NECKS], ids=["matchers", "necks"])
def test_all_have_the_call_of_the_protocol(table):
    protocol = {"matcher": Matcher, "neck": Neck}[table.kind]
    for name in table.names:
        thing, _ = table.find(name)
        assert issubclass(thing, protocol)
        ours, theirs = (inspect.signature(c.__call__).parameters for c in (protocol, thing))
        assert list(theirs) == list(ours), name
        kinds = [(p.kind, p.default) for p in theirs.values()]
        assert kinds == [(p.kind, p.default) for p in ours.values()], name


def test_every_neck_fits_a_matcher_and_every_matcher_a_neck():
    made = {name: make_neck(name).features for name in NECKS.names}
    fits = {m: [n for n in made if MATCHERS.find(m)[0].takes(made[n])] for m in MATCHERS.names}
    assert fits["qaconv"] == ["map"]
    assert fits["embedding"] == fits["metric_network"] == ["pooled", "linear"]
    assert "multi_scale" in fits["qaconv_ms"]
    assert {n for necks in fits.values() for n in necks} == set(made)
    unknown_width = Features("map", {"map": 0, "encoder": 0})
    assert not MATCHERS.find("qaconv_ms")[0].takes(unknown_width)


@pytest.mark.parametrize("name", LOGITS)
def test_logits_become_qaconvs_distances_and_similarities(name):
    matcher = make_matcher(name)
    scores = np.random.default_rng(0).normal(0, 30, (5, 7)).astype(np.float32)
    wide = scores.astype(np.float64)
    np.testing.assert_allclose(
        matcher.distances(scores), 1 - 1 / (1 + np.exp(-wide / 10)), atol=1e-6
    )
    np.testing.assert_allclose(matcher.similarities(scores), 1 / (1 + np.exp(-wide)), rtol=1e-5)
    assert matcher.distances(scores).dtype == matcher.similarities(scores).dtype == np.float32
    assert matcher.rerank_options == {}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_embeddings_are_neither_squashed_nor_tied(metric, scale):
    matcher, features = make_matcher("embedding", metric=metric), embeddings(scale=scale)
    scores = scores_of(metric, features)
    distances, similarities = matcher.distances(scores), matcher.similarities(scores)
    for values in (distances, similarities):
        assert values.dtype == scores.dtype
        assert (values >= 0).all()
    assert (similarities <= 1).all()
    off = ~np.eye(len(scores), dtype=bool)
    order = np.argsort(-scores[off], kind="stable")
    assert (np.diff(distances[off][order]) >= 0).all()
    assert (np.diff(similarities[off][order]) <= 0).all()
    for values in (distances, similarities):
        # As many values as the scores have, but for the last digit.
        assert len(np.unique(values[off])) > 0.95 * len(np.unique(scores[off]))
    # Re-ranked with all weight on the original distance, the order is that of the scores.
    plain = rerank_matrix(distances, 10, k1=5, k2=2, weight=1.0, **matcher.rerank_options)
    for row, expected in zip(plain, scores[:10, 10:], strict=True):
        assert (np.diff(expected[np.argsort(row, kind="stable")]) <= 1e-6 * scale**2).all()


@pytest.mark.golden
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_distances_of_embeddings_equal_torchreids(golden_dir, metric):
    arrays = np.load(golden_dir / "rerank.npz")
    if "features" not in arrays.files:
        pytest.skip(f"{golden_dir.folder} has been cut")
    features, expected = arrays["features"], arrays[f"torchreid_distance/{metric}"]
    found = make_matcher("embedding", metric=metric).distances(scores_of(metric, features))
    count = len(expected)
    np.testing.assert_allclose(found[:count, count:], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.golden
def test_re_ranking_of_embeddings_equals_torchreids(golden_dir):
    arrays = np.load(golden_dir / "rerank.npz")
    options = make_matcher("embedding").rerank_options
    # The original squares what it is given: Euclidean distances here.
    expected = arrays["torchreid/euclid/k20_6_0.3"]
    found = rerank_matrix(arrays["euclid"], len(expected), k1=20, k2=6, weight=0.3, **options)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_coarser_maps_are_for_single_positions_of_qaconv():
    able = {name for name in MATCHERS.names if make_matcher(name).can_pool}
    assert able == {"qaconv"}
    assert not make_matcher("qaconv", patch=3).can_pool
    params = {"weight": np.ones((1, 4, 2))}
    for matcher in (make_matcher("qaconv", patch=3), make_matcher("embedding")):
        with pytest.raises(ValueError, match="cannot compare coarser maps"):
            matcher.pooled(params, (2, 2))
