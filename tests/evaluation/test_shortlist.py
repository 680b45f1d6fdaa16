"""From coarse to fine: what is on the list is exact, what is not stands behind it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from people import MODEL
from selection import deep

from jaxreid.evaluation.scoring import Scorer
from jaxreid.evaluation.shortlist import Shortlist, check_matcher, pool_maps
from jaxreid.mesh import make_mesh
from jaxreid.models.matchers import make_matcher
from jaxreid.models.matchers.qaconv import QAConv
from jaxreid.models.model import init_variables, make_model


def maps(count, seed=0):
    """Smooth maps, so that neighbouring cells are alike, as those of a network."""
    x = np.random.default_rng(seed).standard_normal((count, 2, 2, 6))
    x = np.kron(x, np.ones((1, 4, 2, 1)))
    x += 0.3 * np.random.default_rng(seed + 9).standard_normal(x.shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
    given = init_variables(make_model(**MODEL), 0)
    weight = np.random.default_rng(1).uniform(0.5, 1.5, (1, 8, 4)).astype(np.float32)
    given["params"]["matcher"]["weight"] = jnp.asarray(weight / 32)
    return given


@pytest.fixture(scope="module", params=[1, 2])
def scorer(request, variables):
    mesh = make_mesh(jax.devices()[: request.param])
    return Scorer(make_model(**MODEL), mesh, variables, batch_size=8, query_tile=3, gallery_tile=8)


@pytest.mark.parametrize("size", deep(1, 6, 20, 99, but=[6, 99]))
def test_what_is_listed_is_exact_and_comes_first(scorer, variables, size):
    query, gallery = maps(5), maps(20, 1)
    exact = scorer.scores(query, gallery)
    window = {"size": size, "window": (2, 2)}
    scores, chosen = Shortlist(scorer, gallery, **window).scores(query)
    size = min(size, 20)
    assert scores.shape == exact.shape
    assert chosen.shape == (5, size)
    coarse = QAConv().apply(
        {
            "params": QAConv().pooled(variables["params"]["matcher"], (2, 2)),
            "batch_stats": variables["batch_stats"]["matcher"],
        },
        pool_maps(query, (2, 2)),
        pool_maps(gallery, (2, 2)),
    )
    for q, listed in enumerate(chosen):
        rest = np.setdiff1d(np.arange(20), listed)
        np.testing.assert_allclose(scores[q, listed], exact[q, listed], atol=1e-5)
        assert set(listed) == set(np.argsort(-coarse[q])[:size])
        if rest.size:
            assert scores[q, rest].max() < scores[q, listed].min()
            order = np.argsort(-coarse[q][rest])
            np.testing.assert_array_equal(np.argsort(-scores[q, rest]), order)


def test_pooled_maps_are_means_of_unit_length():
    given = maps(3)
    pooled = pool_maps(given, (4, 2))
    mean = given[1, 4:8, 2:4].mean((0, 1))
    np.testing.assert_allclose(pooled[1, 1, 1], mean / np.linalg.norm(mean), atol=1e-6)
    assert pooled.shape == (3, 2, 2, 6)


def test_pooled_weights_sum_up():
    weight = np.arange(2 * 8 * 4.0).reshape(2, 8, 4)
    pooled = QAConv().pooled({"weight": weight, "bias": 3.0}, (4, 2))
    assert pooled["bias"] == 3.0
    np.testing.assert_allclose(pooled["weight"][1, 0, 1], weight[1, :4, 2:].sum())
    np.testing.assert_allclose(pooled["weight"].sum(), weight.sum())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("embedding", {}),
        ("metric_network", {}),
        ("qaconv", {"patch": 3}),
        ("qaconv_ms", {"parts": {"a": 4, "b": 4}}),
    ],
)
def test_matchers_without_a_coarse_form_are_refused(name, options):
    check_matcher(make_matcher("qaconv"))
    with pytest.raises(ValueError, match="eval.shortlist=0"):
        check_matcher(make_matcher(name, **options))


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (
            np.zeros((3, 8, 4, 6)),
            {"size": 2, "window": (3, 2)},
            "8x4 cannot be pooled by",
        ),
        (
            np.zeros((3, 8, 4, 6)),
            {"size": 2, "window": (0, 2)},
            "window=.0, 2.",
        ),
        (np.zeros((3, 8, 4, 6)), {"size": 2, "window": (2,)}, "cannot be pooled by"),
        (np.zeros((3, 8)), {"size": 2, "window": (2, 2)}, "returns embeddings \\[8\\]"),
        (np.zeros((3, 8, 4, 6)), {"size": -1, "window": (2, 2)}, "eval.shortlist is -1"),
    ],
)
def test_what_has_no_coarse_form_is_refused(scorer, features, options, message):
    with pytest.raises(ValueError, match=message):
        Shortlist(scorer, features, **options)
