"""Numbers at their limits: NaN is passed on until it is refused, and nothing ranks by accident."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.evaluation.ranking.k_reciprocal import rerank_matrix
from jaxreid.evaluation.ranking.metrics import rank_queries
from jaxreid.evaluation.ranking.temporal_lifting import tlift
from jaxreid.models.model import init_variables, make_model
from jaxreid.ops.correlation import best_matches, match_scores
from jaxreid.ops.metrics import METRICS, distances, similarity
from jaxreid.ops.normalize import l2_normalize, moments
from jaxreid.ops.patch_matching import patch_matches
from jaxreid.reid.loaded import ReID
from jaxreid.training.losses import hardest, triplet_loss

TINY, HUGE = 1e-42, 3e38  # denormal; its square overflows


def unit(seed, *shape):
    x = np.random.default_rng(seed).standard_normal(shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("engine", ["xla", "pallas"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_spoils_the_matches_of_its_image_alone(engine, bad):
    query, gallery = unit(0, 2, 3, 4), unit(1, 2, 3, 4)
    whole = best_matches(query, gallery, engine=engine)
    query[1, 2] = [bad, -bad, 1, 1]
    of_query, of_gallery = best_matches(query, gallery, engine=engine)
    np.testing.assert_array_equal(of_query[0], whole[0][0])
    np.testing.assert_array_equal(of_gallery[0], whole[1][0])
    assert not np.isfinite(of_query[1, :, 2]).any()
    assert not np.isfinite(of_gallery[1]).any()


def test_patches_and_weighted_sums_pass_nan_on():
    maps = unit(0, 2, 3, 3, 4)
    maps[1, 0, 0, 0] = np.nan
    of_query, _ = patch_matches(maps, maps, size=3)[:2]
    assert np.isnan(of_query[1]).any()
    assert np.isfinite(of_query[0, 0]).all()
    flat = maps.reshape(2, 9, 4)
    scores = match_scores(flat, flat, jnp.ones(9), jnp.ones(9))
    np.testing.assert_array_equal(np.isnan(scores), [[False, True], [True, True]])


def test_one_position_of_one_channel_of_one_image():
    of_query, of_gallery = best_matches(jnp.full((1, 1, 1), 2.0), jnp.full((1, 1, 1), -3.0))
    assert of_query.shape == of_gallery.shape == (1, 1, 1)
    assert of_query == of_gallery == -6


def test_float32_stays_near_float64():
    query, gallery = unit(0, 2, 5, 64), unit(1, 3, 5, 64)
    exact = np.einsum("qrd,gsd->qgrs", query.astype(np.float64), gallery)
    of_query, of_gallery = best_matches(query, gallery)
    # Rounding of a sum of d products of unit vectors is at most d * eps.
    np.testing.assert_allclose(of_query, exact.max(3), atol=64 * 1.2e-7, rtol=0)
    np.testing.assert_allclose(of_gallery, exact.max(2), atol=64 * 1.2e-7, rtol=0)
    cosine = similarity(query[:, 0], gallery[:, 0], "cosine")
    np.testing.assert_allclose(cosine, exact[:, :, 0, 0], atol=64 * 1.2e-7, rtol=0)


def test_what_overflows_is_not_finite_instead_of_zero():
    x = jnp.array([[HUGE, HUGE], [np.inf, 1.0], [TINY, 0.0], [0.0, 0.0], [3.0, 4.0]])
    y = l2_normalize(x)
    assert np.isnan(y[:2]).any(1).all()
    assert np.isfinite(y[2:]).all()
    assert (np.linalg.norm(y[2:], axis=1) <= 1 + 1e-6).all()
    assert np.isfinite(jax.grad(lambda x: l2_normalize(x).sum())(x[2:])).all()
    _, variance, _ = moments(jnp.array([[HUGE, 5.0], [-HUGE, 5.0]]), axes=(0,))
    assert np.isnan(variance[0])
    assert variance[1] == 0
    for metric in METRICS:
        scores = similarity(x, x, metric)
        assert not np.isfinite(scores[0]).any()
        assert np.isfinite(scores[2:, 2:]).all()
        gradient = jax.grad(lambda x, m=metric: distances(x, x, m).sum())(x[2:])
        assert np.isfinite(gradient).all()


def test_losses_pass_nan_on_and_do_without_positives_and_negatives():
    logit = jnp.array([[0.0, np.nan], [1.0, 0.0]])
    same, itself = jnp.eye(2, dtype=bool), jnp.eye(2, dtype=bool)
    assert np.isnan(hardest(logit, same, itself)[1][0])
    assert np.isnan(triplet_loss(jnp.array(0.0), jnp.array(np.nan), 1.0))
    assert not triplet_loss(*hardest(jnp.zeros((2, 2)), same, itself), 16.0).any()


def test_a_gallery_of_one_is_ranked_and_nan_is_refused():
    one, other = np.array([1]), np.array([2])
    for score in (-np.inf, 0.0, TINY, HUGE, np.inf):
        ranks = rank_queries(np.array([[score]], np.float32), one, one, one, other)
        assert ranks.average_precision == ranks.first_match == 1
    matrix = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    assert np.isfinite(rerank_matrix(matrix, 1)).all()
    places = {"query_camid": one, "gallery_camid": other}
    times = {"query_time": np.zeros(1), "gallery_time": np.zeros(1)}
    assert np.isfinite(tlift(np.array([[0.5]]), **places, **times)).all()
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            rerank_matrix(np.where(matrix > 0, bad, matrix), 1)
    with pytest.raises(ValueError, match="NaN"):
        rank_queries(np.array([[np.nan]]), one, one, one, other)
    with pytest.raises(ValueError, match="NaN"):
        tlift(np.array([[np.nan]]), **places, **times)


@pytest.mark.full
def test_constant_images_have_finite_features_and_bad_features_are_refused():
    card = {
        "backbone": {"name": "resnet18_ibn_b", "cut": "layer1", "width": 2},
        "neck": {"name": "map", "channels": 0},
        "matcher": {"name": "qaconv", "head": "v2.1"},
        "height": 8,
        "width": 4,
    }
    reid = ReID(card, init_variables(make_model(**card), 0))
    images = [np.full((h, 1, 3), value, np.uint8) for h, value in ((1, 0), (8, 255), (3, 7))]
    features = reid.embed(images)
    assert np.isfinite(features).all()
    scores = reid.score(features, features)
    assert np.isfinite(scores).all()
    for bad in (np.nan, np.inf):
        spoiled = features.copy()
        spoiled[1, 0, 0, 0] = bad
        with pytest.raises(ValueError, match="not all finite; expected finite"):
            reid.score(features, spoiled)
    with pytest.raises(ValueError, match="features are object"):
        reid.score(features, features.astype(object))
