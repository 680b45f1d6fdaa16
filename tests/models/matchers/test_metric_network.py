"""The metric network against its definition in plain loops, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from matching import assert_close, in_training, scored
from selection import deep

from jaxreid.mesh import AXIS, make_mesh
from jaxreid.models.matchers import make_matcher, metric_network
from jaxreid.models.matchers.metric_network import NETS

CHANNELS, HIDDEN = 6, 5


def embeddings(count, seed, d=CHANNELS, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((count, d)).astype(dtype)


def trained(net, d=CHANNELS, hidden=HIDDEN, seed=0, dtype=np.float32, **options):
    """A matcher, and variables of which none is what it was before training."""
    matcher = make_matcher("metric_network", net=net, hidden=hidden, **options)
    shape = jax.ShapeDtypeStruct((2, d), dtype)
    variables = jax.eval_shape(matcher.init, jax.random.key(0), shape, shape)
    generator = np.random.default_rng(seed)
    values = jax.tree.map(lambda x: generator.uniform(0.5, 1.5, x.shape).astype(dtype), variables)
    for name in {"kernel", "out_kernel", "out_bias"} & set(values["params"]):
        shape = values["params"][name].shape
        values["params"][name] = generator.standard_normal(shape).astype(dtype)
    return matcher, values


def norm(x, params, stats):
    return params["scale"] * (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) + params["bias"]


def pair_feature(p, q, normalize):
    if normalize:
        p, q = (np.sqrt(len(x)) * x / np.linalg.norm(x) for x in (p, q))
    return np.array([(a - b) ** 2 for a, b in zip(p, q, strict=True)])


def pair_logit(f, variables, net):
    """Of one pair feature, unit by unit."""
    params, stats = variables["params"], variables["batch_stats"]
    if net == "linear":
        weight = np.log(1 + np.exp(params["weight"])) / len(f)
        distance = sum(w * x for w, x in zip(weight, f, strict=True))
        return norm(-distance, params["norm_out"], stats["norm_out"])
    f = norm(f, params["norm_in"], stats["norm_in"])
    units = [sum(w * x for w, x in zip(k, f, strict=True)) for k in params["kernel"].T]
    units = norm(np.array(units), params["norm_hidden"], stats["norm_hidden"])
    rectified = [max(u, 0) for u in units]
    return sum(rectified * params["out_kernel"][:, 0]) + params["out_bias"]


def by_loops(variables, query, gallery, net, normalize=True, factor=None):
    """Scores in evaluation mode, in float64."""
    variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    factor = np.ones((len(query), len(gallery), query.shape[1])) if factor is None else factor
    scores = np.zeros((len(query), len(gallery)))
    for i, j in np.ndindex(scores.shape):
        f = pair_feature(query[i].astype(np.float64), gallery[j].astype(np.float64), normalize)
        scores[i, j] = pair_logit(f * factor[i, j], variables, net)
    return scores


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("normalize", [True, False])
def test_scores_equal_plain_loops(net, normalize):
    matcher, variables = trained(net, normalize=normalize)
    query, gallery = embeddings(3, 0), embeddings(4, 1)
    expected = by_loops(variables, query, gallery, net, normalize)
    np.testing.assert_allclose(
        scored(matcher, variables, query, gallery), expected, rtol=1e-5, atol=1e-5
    )
    longer = scored(matcher, variables, 3 * query, gallery)
    assert np.allclose(longer, expected, atol=1e-4) == normalize


@pytest.mark.parametrize("net", NETS)
def test_the_difference_may_be_taken_apart(net):
    """The algebra that scoring could use: exact in float64, but not near where it cancels."""
    matcher, variables = trained(net, normalize=False)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    params, stats = variables["params"], variables["batch_stats"]

    def apart(query, gallery):
        if net == "linear":
            kernel = (np.log1p(np.exp(params["weight"])) / CHANNELS)[:, None]
        else:
            gain = params["norm_in"]["scale"] / np.sqrt(stats["norm_in"]["var"] + 1e-5)
            shift = params["norm_in"]["bias"] - gain * stats["norm_in"]["mean"]
            kernel, shift = gain[:, None] * params["kernel"], shift @ params["kernel"]
        kernel = kernel.astype(query.dtype)
        cross = np.einsum("qd,gd,dh->qgh", query, gallery, kernel)
        units = (query**2 @ kernel)[:, None] + gallery**2 @ kernel - 2 * cross
        if net == "linear":
            return norm(-units[..., 0], params["norm_out"], stats["norm_out"])
        units = norm(units + shift, params["norm_hidden"], stats["norm_hidden"])
        return np.maximum(units, 0) @ params["out_kernel"][:, 0] + params["out_bias"]

    query, gallery = embeddings(3, 0, dtype=np.float64), embeddings(4, 1, dtype=np.float64)
    with jax.enable_x64(True):
        scores = scored(matcher, variables, query, gallery)
    np.testing.assert_allclose(apart(query, gallery), scores, rtol=1e-9)
    # Images that are nearly the same: what it costs in float32, and not here.
    query = (100 * query).astype(np.float32)
    gallery = (query + 0.1 * embeddings(3, 2)).astype(np.float32)
    near = np.s_[range(3), range(3)]
    exact = by_loops(variables, query, gallery, net, normalize=False)
    rounding = np.finfo(np.float32).eps * np.abs(exact).max()  # of scores of other pairs
    exact = exact[near]
    lost = np.abs(apart(query, gallery)[near] - exact).max()
    kept = np.abs(np.asarray(scored(matcher, variables, query, gallery))[near] - exact).max()
    assert lost > 1e-4
    # The linear net is one product for all pairs, and so pays for it, as every distance does.
    assert kept < (rounding if net == "linear" else 1e-5)


def test_equal_images_have_the_score_of_no_difference():
    matcher, variables = trained("perceptron")
    query = embeddings(9, 0)
    diagonal = np.diag(scored(matcher, variables, query, query))
    nothing = pair_logit(np.zeros(CHANNELS), variables, "perceptron")
    np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-6)  # nothing is left of the features
    np.testing.assert_allclose(diagonal, nothing, rtol=1e-5)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("train", [False, True])
def test_scores_do_not_depend_on_which_side_or_place_an_image_is_on(net, train):
    query, gallery = embeddings(3, 0), embeddings(4, 1)
    matcher, variables = trained(net)
    order = [2, 0, 3, 1]
    there, back = (
        in_training(matcher, variables, *pair)[0] if train else scored(matcher, variables, *pair)
        for pair in ((query, gallery), (gallery[order], query))
    )
    np.testing.assert_allclose(back.T, there[:, order], atol=1e-4)
    assert np.ptp(there) > 0.1


def test_bfloat16_embeddings_are_compared_in_float32():
    matcher, variables = trained("perceptron")
    query, gallery = (jnp.asarray(embeddings(3, s), jnp.bfloat16) for s in (0, 1))
    scores = scored(matcher, variables, query, gallery)
    assert scores.dtype == np.float32
    wide = [np.asarray(x, np.float32) for x in (query, gallery)]
    np.testing.assert_array_equal(scores, scored(matcher, variables, *wide))


def of_batch(variables, pairs, counts, net):
    """Statistics of the pair features [Q, G, d] that count, and the running ones after them."""
    params, stats = variables["params"], variables["batch_stats"]
    found, after = {}, {}

    def take(name, x):
        x = x[counts]
        found[name] = {"mean": x.mean(0), "var": x.var(0)}
        new = {"mean": x.mean(0), "var": x.var(0, ddof=1)}  # PyTorch keeps the unbiased one
        after[name] = {k: 0.9 * stats[name][k] + 0.1 * new[k] for k in new}
        return found[name]

    if net == "linear":
        take("norm_out", -pairs @ np.log1p(np.exp(params["weight"])) / pairs.shape[-1])
    else:
        x = norm(pairs, params["norm_in"], take("norm_in", pairs))
        take("norm_hidden", x @ params["kernel"])
    return found, after


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("perturbed", [False, True])
def test_training_normalises_by_the_pairs_that_count(net, perturbed):
    query = embeddings(5, 0)
    matcher, variables = trained(net)
    counts = ~np.eye(5, dtype=bool)
    pairs = np.array([[pair_feature(*map(np.float64, (p, q)), True) for q in query] for p in query])
    found, after = of_batch(variables, pairs, counts, net)
    factor = np.random.default_rng(1).uniform(0, 2, pairs.shape).astype(np.float32)
    if perturbed:
        (scores, other), stats = in_training(
            matcher, variables, query, query, factor, mask=counts, method="perturbed"
        )
    else:
        scores, stats = in_training(matcher, variables, query, query, mask=counts)
    batch = variables | {"batch_stats": found}
    expected = by_loops(batch, query, query, net)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    assert_close(stats, after, rtol=1e-5, atol=1e-6)
    everything, _ = of_batch(variables, pairs, np.ones_like(counts), net)
    name = "norm_out" if net == "linear" else "norm_in"
    assert np.abs(everything[name]["mean"] - found[name]["mean"]).max() > 0.05
    if perturbed:
        expected = by_loops(batch, query, query, net, factor=factor)
        np.testing.assert_allclose(other, expected, rtol=1e-4, atol=1e-4)
        assert np.abs(other - scores).max() > 0.1


@pytest.mark.parametrize("net", NETS)
def test_padding_changes_nothing(net):
    query, gallery = embeddings(3, 0), embeddings(4, 1)
    matcher, variables = trained(net)
    expected, stats = in_training(matcher, variables, query, gallery)
    padded = np.concatenate([gallery, 9 * np.ones_like(gallery)])
    mask = np.arange(8) < 4
    got, padded_stats = in_training(matcher, variables, query, padded, mask=mask)
    np.testing.assert_allclose(got[:, :4], expected, atol=1e-5)
    assert_close(padded_stats, stats, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 9, 1000])
def test_pair_features_are_made_piece_by_piece(monkeypatch, size):
    query, gallery = embeddings(7, 0), embeddings(4, 1)
    matcher, variables = trained("perceptron")
    expected = by_loops(variables, query, gallery, "perceptron")
    monkeypatch.setattr(metric_network, "PAIRS_AT_ONCE", size)
    scores = scored(matcher, variables, query, gallery)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_scoring_needs_little_memory(net):
    d, count = 64, 256
    matcher = make_matcher("metric_network", net=net, hidden=16)
    shape = jax.ShapeDtypeStruct((count, d), jnp.float32)
    variables = jax.eval_shape(matcher.init, jax.random.key(0), shape, shape)
    compiled = jax.jit(matcher.apply).lower(variables, shape, shape).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < count**2 * d * 4 / 8


def over_devices(devices, net):
    """Loss, gradients and statistics of a step, the queries spread over devices."""
    query = embeddings(8, 0)
    factor = np.random.default_rng(1).uniform(0, 2, (8, 8, CHANNELS)).astype(np.float32)
    weight = np.random.default_rng(2).standard_normal((8, 16)).astype(np.float32)
    counts = ~np.eye(8, dtype=bool)
    matcher, variables = trained(net, axis_name=AXIS)

    def loss_fn(params, query, gallery, factor, weight, counts, stats):
        held = {"params": params, "batch_stats": stats}
        given = (query, gallery, factor)
        scores, stats = in_training(matcher, held, *given, mask=counts, method="perturbed")
        return jax.lax.psum((weight * jnp.concatenate(scores, 1)).sum(), AXIS), stats

    sharded = jax.shard_map(  # the output is checked to be the same on every device
        jax.value_and_grad(loss_fn, argnums=(0, 2), has_aux=True),
        mesh=make_mesh(jax.devices()[:devices]),
        in_specs=(P(), P(AXIS), P(), P(AXIS), P(AXIS), P(AXIS), P()),
        out_specs=P(),
    )
    given = query, query, factor, weight, counts
    return jax.jit(sharded)(variables["params"], *given, variables["batch_stats"])


@pytest.mark.parametrize("net", deep(*NETS, but=["perceptron"]))
def test_training_is_the_same_on_any_number_of_devices(net):
    # Sums in another order; parameters before a normalisation have gradients of rounding.
    assert_close(over_devices(4, net), over_devices(1, net), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("net", NETS)
def test_scoring_works_on_a_mesh(net):
    query, gallery = embeddings(3, 0), embeddings(8, 1)
    matcher, variables = trained(net)
    sharded = jax.shard_map(
        matcher.apply,
        mesh=make_mesh(jax.devices()[:4]),
        in_specs=(P(), P(), P(AXIS)),
        out_specs=P(None, AXIS),
    )
    expected = scored(matcher, variables, query, gallery)
    np.testing.assert_allclose(jax.jit(sharded)(variables, query, gallery), expected, atol=1e-5)


def test_a_linear_net_begins_as_the_euclidean_distance():
    matcher = make_matcher("metric_network", net="linear", initial_logit=-1.5)
    query, gallery = embeddings(4, 0), embeddings(5, 1)
    variables = matcher.init(jax.random.key(0), query, gallery)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery)]
    distance = np.square(unit[0][:, None] - unit[1]).sum(-1)
    expected = -1.5 - distance / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(scored(matcher, variables, query, gallery), expected, atol=1e-5)
    scores, _ = in_training(matcher, variables, query, gallery)
    assert float(scores.mean()) == pytest.approx(-1.5, abs=1e-5)


def test_the_mean_logit_of_a_perceptron_begins_near_the_one_asked_for():
    query = embeddings(9, 0)
    logits = []
    for start in (0.0, -3.0):
        matcher = make_matcher("metric_network", initial_logit=start)
        variables = matcher.init(jax.random.key(0), query, query)
        scores, _ = in_training(matcher, variables, query, query)
        logits.append(float(scores.mean()))
    assert abs(logits[0]) < 2
    assert logits[1] - logits[0] == pytest.approx(-3, abs=1e-4)


@pytest.mark.parametrize("net", NETS)
def test_what_does_not_fit_is_refused(net):
    matcher, variables = trained(net)
    with pytest.raises(ValueError, match="query embeddings have 6 channels, gallery embeddings 7"):
        matcher.apply(variables, embeddings(2, 0), embeddings(2, 1, d=7))
    with pytest.raises(ValueError, match=r"has weights \[6.*of 7 channels need \[7"):
        matcher.apply(variables, embeddings(2, 0, d=7), embeddings(2, 1, d=7))


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"'perceptrn'; valid: perceptron"):
        make_matcher("metric_network", net="perceptrn")
    with pytest.raises(ValueError, match=r"matcher.hidden is 0; expected a whole"):
        make_matcher("metric_network", hidden=0)
