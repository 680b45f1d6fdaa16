"""QAConv against its definition in plain loops, its properties, and the original's numbers."""

import jax
import numpy as np
import pytest
from golden import nchw, nhwc, qaconv_variables, seed_of

from jaxreid.matchers import make_matcher

HEADS = {"v2.1": "HEAD", "v1": "v1.2"}  # our name: the golden set's


def unit_maps(count, seed, h=3, w=2, d=5):
    x = np.random.default_rng(seed).standard_normal((count, h, w, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_loops(variables, query, gallery, head):
    """Scores in evaluation mode, position by position."""
    params, stats = variables["params"], variables["batch_stats"]

    def norm(x, name):
        p, s = params[name], stats[name]
        return p["scale"] * (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) + p["bias"]

    weight = params["weight"].reshape(len(params["weight"]), -1)
    scores = np.zeros((len(query), len(gallery)))
    for i, q in enumerate(query.reshape(len(query), -1, query.shape[-1])):
        for j, g in enumerate(gallery.reshape(len(gallery), -1, gallery.shape[-1])):
            total = 0.0
            for s in range(len(g)):
                total += weight[0, s] * norm(
                    max(float(q[r] @ g[s]) for r in range(len(q))), "norm_in"
                )
            for r in range(len(q)):
                total += weight[-1, r] * norm(
                    max(float(q[r] @ g[s]) for s in range(len(g))), "norm_in"
                )
            total += params["bias"] * (2 if head == "v2.1" else 1)
            scores[i, j] = norm(total, "norm_out")
    return scores


@pytest.mark.parametrize("head", HEADS)
def test_scores_equal_plain_loops(head):
    query, gallery = unit_maps(3, 0), unit_maps(4, 1)
    variables = qaconv_variables(1, head, 3, 2, np.float32)
    scores = make_matcher("qaconv", head=head).apply(variables, query, gallery)
    np.testing.assert_allclose(scores, by_loops(variables, query, gallery, head), atol=1e-5)


def test_shared_head_is_symmetric_and_the_other_is_not():
    query, gallery = unit_maps(3, 0), unit_maps(4, 1)
    for head, symmetric in (("v2.1", True), ("v1", False)):
        matcher = make_matcher("qaconv", head=head)
        variables = qaconv_variables(1, head, 3, 2, np.float32)
        there, back = (
            matcher.apply(variables, query, gallery),
            matcher.apply(variables, gallery, query),
        )
        assert np.allclose(there, back.T, atol=1e-5) == symmetric


def test_initial_score_ranks_by_mean_best_match():
    query, gallery = unit_maps(2, 0), unit_maps(6, 1)
    matcher = make_matcher("qaconv")
    variables = matcher.init(jax.random.key(0), query, gallery)
    scores = np.asarray(matcher.apply(variables, query, gallery))
    correlation = np.einsum("qrd,gsd->qgrs", query.reshape(2, 6, 5), gallery.reshape(6, 6, 5))
    mean = correlation.max(2).mean(-1) + correlation.max(3).mean(-1)
    np.testing.assert_array_equal(scores.argsort(1), mean.argsort(1))


@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_nothing(head):
    query, gallery = unit_maps(3, 0), unit_maps(4, 1)
    matcher = make_matcher("qaconv", head=head)
    variables = qaconv_variables(1, head, 3, 2, np.float32)
    expected, stats = matcher.apply(variables, query, gallery, train=True, mutable=["batch_stats"])
    padded = np.concatenate([gallery, np.zeros_like(gallery)])
    mask = np.arange(8) < 4
    got, padded_stats = matcher.apply(
        variables, query, padded, train=True, mask=mask, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(got[:, :4], expected, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stats, padded_stats)


def test_maps_of_another_size_are_refused():
    matcher = make_matcher("qaconv")
    variables = qaconv_variables(1, "v2.1", 3, 2, np.float32)
    with pytest.raises(ValueError, match="3x2 maps.*4x2"):
        matcher.apply(variables, unit_maps(2, 0, h=4), unit_maps(2, 1, h=4))
    with pytest.raises(ValueError, match="one size"):
        matcher.apply(variables, unit_maps(2, 0), unit_maps(2, 1, h=4))


def test_unknown_head_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"'v2'; valid: v2\.1, v1"):
        make_matcher("qaconv", head="v2")


@pytest.mark.golden
@pytest.mark.parametrize("size", ["small", "real"])
@pytest.mark.parametrize("head", HEADS)
def test_scores_statistics_and_gradients_equal_the_original(golden_dir, head, size):
    golden, version = np.load(golden_dir / f"matcher_{size}.npz"), HEADS[head]
    with jax.enable_x64(True):
        query, gallery = (nhwc(golden[k]).astype(np.float64) for k in ("prob", "gal"))
        matcher = make_matcher("qaconv", head=head)
        variables = qaconv_variables(seed_of(golden_dir), head, *query.shape[1:3], np.float64)

        np.testing.assert_allclose(
            matcher.apply(variables, query, gallery), golden[f"{version}/eval/score"], atol=1e-8
        )

        def total(variables, query, gallery):
            score, updates = matcher.apply(
                variables, query, gallery, train=True, mutable=["batch_stats"]
            )
            return (score * golden["R"]).sum(), (score, updates["batch_stats"])

        grads, (score, stats) = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(
            variables, query, gallery
        )
        np.testing.assert_allclose(score, golden[f"{version}/train/score"], atol=1e-8)
        for ours, theirs in (("norm_in", "bn"), ("norm_out", "logit_bn")):
            for leaf in ("mean", "var"):
                after = golden[f"{version}/train/{theirs}.running_{leaf}_after"]
                np.testing.assert_allclose(stats[ours][leaf], after[0], rtol=1e-8)
        expected = golden[f"{version}/train/grad_param/fc.weight"]
        np.testing.assert_allclose(
            grads[0]["params"]["weight"].reshape(1, -1),
            expected,
            atol=1e-8 * np.abs(expected).max(),
        )
        if size == "small":
            for got, name in zip(grads[1:], ("grad_prob", "grad_gal"), strict=True):
                expected = golden[f"{version}/train/{name}"]
                scale = np.abs(expected).max()
                np.testing.assert_allclose(nchw(got), expected, atol=1e-6 * scale)
