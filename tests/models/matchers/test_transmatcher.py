"""TransMatcher against its definition in loops, its properties, and the original's numbers."""

import functools
import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flax.core import freeze
from golden import (
    arrays_of,
    from_transmatcher,
    normal,
    param,
    seed_of,
    transmatcher_name,
    transmatcher_shape,
)
from matching import assert_close, in_training, over_devices, scored
from selection import deep

from jaxreid.mesh import AXIS
from jaxreid.models.matchers import make_matcher
from jaxreid.models.matchers.transmatcher import DecoderLayer, TransMatcher
from jaxreid.training.objectives import Batch, make_objective

H, W, N, D, HIDDEN = 3, 2, 6, 4, 7
PARTS = "map", "encoder_1", "encoder_2"


def named(count, width=D):
    return freeze(dict.fromkeys(PARTS[:count], width))  # hashable, for jit


def maps(count, seed, parts=2, h=H):
    shape = count, h, W, parts * D
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def tiny(parts=2, **options):
    """A matcher with random weights, strong gates and some statistics."""
    matcher = TransMatcher(parts=named(parts), hidden=HIDDEN, **options)
    shape = jax.ShapeDtypeStruct((2, H, W, parts * D), jnp.float32)
    draw = np.random.default_rng(1)

    def value(path, leaf):
        low = 0.5 if path[-1].key in ("scale", "var") else -1
        return draw.uniform(2 * low if path[-1].key == "score_embed" else low, 1.5, leaf.shape)

    variables = jax.eval_shape(matcher.init, jax.random.key(0), shape, shape)
    variables = jax.tree_util.tree_map_with_path(value, variables)
    return matcher, jax.tree.map(np.float32, variables)


def norm(x, params, stats):
    return params["scale"] * (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) + params["bias"]


def layer_logit(query, gallery, params, stats):
    """Logit of one part of one pair [n, d], position by position and unit by unit."""
    kernel, bias = params["fc1"]["kernel"], params["fc1"]["bias"]
    gate = 1 / (1 + np.exp(-params["score_embed"].reshape(N, N)))
    product = np.zeros((N, N))  # [gallery position, query position]
    for s, t in np.ndindex(N, N):
        product[s, t] = (query[t] @ kernel + bias) @ (gallery[s] @ kernel + bias) * gate[s, t]
    head, norms = params["head"], stats["head"]
    total = 0.0
    for matches in (product.max(0), product.max(1)):
        matches = norm(matches, head["norm_in"], norms["norm_in"])
        units = matches @ head["kernel"].reshape(N, HIDDEN) + head["bias"]
        units = np.maximum(norm(units, head["norm_hidden"], norms["norm_hidden"]), 0)
        total += units @ head["out_kernel"][:, 0] + head["out_bias"]
    return norm(total, head["norm_out"], norms["norm_out"])


@pytest.mark.parametrize("parts", [1, 2])
def test_scores_equal_plain_loops(parts):
    query, gallery = maps(2, 0, parts), maps(3, 1, parts)
    matcher, variables = tiny(parts)
    params, stats = variables["params"], variables["batch_stats"]
    expected = np.zeros((2, 3))
    for i, j in np.ndindex(2, 3):
        for part, name in enumerate(PARTS[:parts]):
            pair = (x.reshape(N, -1)[:, part * D : (part + 1) * D] for x in (query[i], gallery[j]))
            expected[i, j] += layer_logit(*pair, *(v[f"layers_{name}"] for v in (params, stats)))
    expected = norm(expected, params["norm"], stats["norm"])
    np.testing.assert_allclose(scored(matcher, variables, query, gallery), expected, atol=1e-4)


def symmetric(variables):
    """The same with an embedding that does not ask which position is whose."""
    flat = traverse_util.flatten_dict(variables)
    for path, value in flat.items():
        if path[-1] == "score_embed":
            flat[path] = value + value.transpose(2, 3, 0, 1)
    return traverse_util.unflatten_dict(flat)


@pytest.mark.parametrize("train", [False, True])
def test_scores_are_symmetric_where_the_embedding_is(train):
    query, gallery = maps(3, 0), maps(4, 1)
    matcher, variables = tiny()

    def gap(variables):
        if train:
            there, back = (
                in_training(matcher, variables, *pair)[0]
                for pair in ((query, gallery), (gallery, query))
            )
        else:
            there, back = (
                scored(matcher, variables, *pair) for pair in ((query, gallery), (gallery, query))
            )
        return np.abs(there - back.T).max()

    assert gap(variables) > 0.1
    assert gap(symmetric(variables)) < 1e-4


def test_padding_changes_nothing():
    query, gallery = maps(3, 0), maps(4, 1)
    matcher, variables = tiny()
    expected, stats = in_training(matcher, variables, query, gallery)
    padded = np.concatenate([gallery, 9 * np.ones_like(gallery)])
    got, padded_stats = in_training(matcher, variables, query, padded, mask=np.arange(8) < 4)
    np.testing.assert_allclose(got[:, :4], expected, atol=1e-5)
    assert_close(padded_stats, stats, rtol=1e-5, atol=1e-5)


def test_training_is_the_same_on_any_number_of_devices():
    given = *tiny(axis_name=AXIS), maps(8, 0), maps(6, 1)
    # Sums in another order; parameters before a normalisation have gradients of rounding.
    assert_close(over_devices(4, *given), over_devices(1, *given), rtol=1e-3, atol=5e-4)


def test_scoring_needs_little_memory():
    count, h, w = 128, 12, 6
    matcher = TransMatcher(parts=named(2), hidden=256)
    shape = jax.ShapeDtypeStruct((count, h, w, 2 * D), jnp.float32)
    variables = jax.eval_shape(matcher.init, jax.random.key(0), shape, shape)
    compiled = jax.jit(matcher.apply).lower(variables, shape, shape).compile()
    correlation = count**2 * (h * w) ** 2 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < correlation / 2


@functools.partial(jax.jit, static_argnums=(0, 4))
def explained(matcher, variables, query, gallery, method="explain"):
    return matcher.apply(variables, query, gallery, method=method)


def layer_matches(matcher, query, gallery):
    """Gated best matches of every layer, with positions."""
    split = matcher._split(query, gallery)
    return [matcher.layers[name].matches(*split[name], positions=True) for name in matcher.parts]


@pytest.mark.parametrize("parts", [1, 2])
def test_an_explanation_adds_up_to_the_score(parts):
    query, gallery = maps(2, 0, parts), maps(3, 1, parts)
    matcher, variables = tiny(parts)
    shares, logit, offset = explained(matcher, variables, query, gallery)
    np.testing.assert_allclose(logit, scored(matcher, variables, query, gallery), atol=1e-4)
    total = sum(part.logit for part in shares.values()) + offset
    np.testing.assert_allclose(total, logit, atol=1e-4)
    matches = explained(matcher, variables, query, gallery, layer_matches)
    assert set(shares) == set(PARTS[:parts])
    for name, (*_, in_gallery, in_query) in zip(PARTS, matches, strict=False):
        part = shares[name]
        cells = part.from_gallery.sum((2, 3)) + part.from_query.sum((2, 3))
        np.testing.assert_allclose(part.gain * cells + part.offset, part.logit, atol=1e-4)
        np.testing.assert_array_equal(part.match_in_gallery, in_gallery)
        np.testing.assert_array_equal(part.match_in_query, in_query)


def test_what_does_not_fit_is_refused():
    matcher, variables = tiny()
    odd = np.zeros((2, H, W, 2 * D + 1), np.float32)
    with pytest.raises(ValueError, match="9 channels, .* 2 parts of equal width"):
        matcher.apply(variables, odd, odd)
    with pytest.raises(ValueError, match="one size"):
        matcher.apply(variables, maps(2, 0), maps(2, 1, h=4))
    with pytest.raises(ValueError, match="3x2 maps.*4x2"):
        matcher.apply(variables, maps(2, 0, h=4), maps(2, 1, h=4))
    with pytest.raises(ValueError, match="hidden is 0"):
        make_matcher("transmatcher", hidden=0)
    with pytest.raises(ValueError, match="no option head"):
        make_matcher("transmatcher", head="linear")


def test_weights_start_as_the_originals():
    matcher = TransMatcher(parts=named(3, 32), hidden=64, initial_logit=-3.0)
    x = np.random.default_rng(0).standard_normal((6, 4, 4, 3 * 32)).astype(np.float32)
    variables = jax.jit(matcher.init)(jax.random.key(2), x, x)
    layers = [variables["params"][f"layers_{name}"] for name in PARTS]
    n, d, hidden = 16, 32, 64
    bounds = {
        ("score_embed",): 3**0.5 / n,
        ("fc1", "kernel"): (3 / d) ** 0.5,
        ("fc1", "bias"): d**-0.5,
        ("head", "kernel"): (6 / (n + hidden)) ** 0.5,
        ("head", "bias"): n**-0.5,
        ("head", "out_kernel"): (6 / (hidden + 1)) ** 0.5,
    }
    for path, bound in bounds.items():
        first, *others = (traverse_util.flatten_dict(layer)[path] for layer in layers)
        assert 0.8 * bound < np.abs(first).max() <= bound, path
        for other in others:
            assert np.array_equal(first, other) == (path[-1] == "bias"), path
    out_bias = {float(layer["head"]["out_bias"]) for layer in layers}
    assert len(out_bias) == 1
    again = jax.jit(matcher.init)(jax.random.key(3), x, x)["params"]["layers_map"]
    assert not np.array_equal(again["head"]["bias"], layers[0]["head"]["bias"])
    assert float(in_training(matcher, variables, x, x)[0].mean()) == pytest.approx(-3, abs=1e-4)


# float64: what is left is the order of sums. Of parameters whose gradient is 0 it leaves rounding.
EXACT = {"rtol": 1e-8, "atol": 1e-9}


def by_rule(matcher, golden, meta, seed, at, variant):
    """Variables of a case of the original, and their names there."""
    case = at.removeprefix("matcher/")
    width = meta[at]["num_decoder_layers"] * meta[at]["d_model"]
    maps = jax.ShapeDtypeStruct((2, meta[at]["h"], meta[at]["w"], width), jnp.float64)
    flat = traverse_util.flatten_dict(jax.eval_shape(matcher.init, jax.random.key(0), maps, maps))
    names = {path: transmatcher_name(("matcher", *path[1:])) for path in flat}
    shapes = {name: transmatcher_shape(name, flat[path].shape) for path, name in names.items()}
    for name, shape, *_ in meta[at].get("names", ()):
        unused = name.startswith("decoder_layer.") or name.endswith("num_batches_tracked")
        assert unused or shapes[name] == tuple(shape)
    found = {}
    for path, name in names.items():
        tensor = param(seed, name, shapes[name])
        if variant == "official_init" and "norm" in "".join(path):
            tensor = np.full(shapes[name], path[-1] in ("scale", "var"))
        if variant in ("calibrated", "symmetric"):
            if name.endswith("score_embed"):
                tensor = 2 * normal(seed, f"tm_gate/{case}/{name}", shapes[name])
                if variant == "symmetric":
                    tensor = tensor + tensor.swapaxes(2, 3)
            tensor = golden.get(f"matcher/{case}/calibrated/buffer/{name}", tensor)
        found[path] = from_transmatcher(name, tensor, flat[path].shape).astype(np.float64)
    return traverse_util.unflatten_dict(found)


@functools.cache
def original(layers, hidden):
    return TransMatcher(parts=named(layers), hidden=hidden)


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradients(matcher, train, variables, query, gallery, weight):
    """Of sum(score * weight): to parameters and both maps; scores, of layers too; statistics."""

    def is_layer(module, method):
        return isinstance(module, DecoderLayer) and method == "__call__"

    def total(params, query, gallery):
        score, updates = matcher.apply(
            variables | {"params": params},
            query,
            gallery,
            train=train,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=is_layer,
        )
        layers = updates["intermediates"]
        layers = [layers[f"layers_{name}"]["__call__"][0] for name in matcher.parts]
        return (score * weight).sum(), (score, jnp.stack(layers), updates["batch_stats"])

    run = jax.grad(total, argnums=(0, 1, 2), has_aux=True)
    return run(variables["params"], query, gallery)


def opened(golden_dir, at):
    """Arrays and descriptions of the original's run, and the seed of its set."""
    meta = json.loads((golden_dir / "transmatcher.json").read_text())
    if at not in meta:
        pytest.skip(f"{golden_dir.folder} has been cut")
    return arrays_of(golden_dir / "transmatcher.npz"), meta, seed_of(golden_dir)


def both_maps(golden, at):
    return (golden[f"{at}/{k}"].astype(np.float64) for k in ("prob", "gal"))


def assert_tree_equals(tree, golden, at, ending=""):
    """Compares variables with the original's arrays, whose names begin with `at`."""
    found = traverse_util.flatten_dict(tree)
    names = {path: transmatcher_name(("matcher", *path)) for path in found}
    assert {at + name + ending for name in names.values()} <= golden.keys()
    arrays = {path: golden[at + name + ending] for path, name in names.items()}
    scale = max(np.abs(array).max() for array in arrays.values())
    for path, leaf in found.items():
        expected = from_transmatcher(names[path], arrays[path], leaf.shape)
        atol = 1e-8 * np.abs(expected).max() + 1e-11 * scale
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=atol, err_msg=names[path])


@pytest.mark.golden
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("variant", ["rule", "calibrated"])
@pytest.mark.parametrize("layers", deep(1, 2, 3, but=[2]))
def test_scores_gradients_and_statistics_equal_the_original(golden_dir, layers, variant, mode):
    at = f"matcher/L{layers}"
    golden, meta, seed = opened(golden_dir, at)
    case = f"{at}/{variant}/{mode}"
    if f"{case}/score" not in golden:
        pytest.skip(f"{golden_dir.folder} has no such run")
    with jax.enable_x64(True):
        matcher = original(layers, meta[at]["dim_feedforward"])
        variables = by_rule(matcher, golden, meta, seed, at, variant)
        maps = tuple(both_maps(golden, at))
        run = gradients(matcher, mode == "train", variables, *maps, golden[f"{at}/R"])
        (of_params, *of_maps), (score, layer_scores, stats) = run
        np.testing.assert_allclose(score, golden[f"{case}/score"], **EXACT)
        np.testing.assert_allclose(layer_scores, golden[f"{case}/layer_score"], **EXACT)
        if f"{case}/grad_prob" in golden:
            for got, name in zip(of_maps, ("grad_prob", "grad_gal"), strict=True):
                expected = golden[f"{case}/{name}"]
                atol = 1e-8 * np.abs(expected).max()
                np.testing.assert_allclose(got, expected, rtol=0, atol=atol)
            assert_tree_equals(of_params, golden, f"{case}/grad_param/")
        if mode == "train":
            for kind in ("mean", "var"):
                of_kind = {
                    p: v for p, v in traverse_util.flatten_dict(stats).items() if p[-1] == kind
                }
                kept = traverse_util.unflatten_dict(of_kind)
                assert_tree_equals(kept, golden, f"{case}/", "_after")
            return
        swapped = scored(matcher, variables, *maps[::-1])
        np.testing.assert_allclose(swapped, golden[f"{case}/score_swapped"], **EXACT)
        assert np.abs(swapped - score.T).max() > 0.1 * np.std(score)
        distance = 1 - jax.nn.sigmoid(score / 10)  # float32 there
        np.testing.assert_allclose(distance, golden[f"{case}/dist"], atol=1e-6)
        if variant == "calibrated":
            even = by_rule(matcher, golden, meta, seed, at, "symmetric")
            expected = golden[f"{at}/symmetric/eval/score"]
            np.testing.assert_allclose(scored(matcher, even, *maps), expected, **EXACT)
            np.testing.assert_allclose(scored(matcher, even, *maps[::-1]).T, expected, **EXACT)


@pytest.mark.golden
@pytest.mark.parametrize("variant", ["rule", "calibrated"])
def test_scores_of_the_published_size_equal_the_original(golden_dir, variant):
    at = "matcher/real"
    golden, meta, seed = opened(golden_dir, at)
    with jax.enable_x64(True):
        matcher = original(meta[at]["num_decoder_layers"], meta[at]["dim_feedforward"])
        variables = by_rule(matcher, golden, meta, seed, at, variant)
        maps = tuple(both_maps(golden, at))
        shares, score, _ = explained(matcher, variables, *maps)
        np.testing.assert_allclose(score, golden[f"{at}/{variant}/eval/score"], **EXACT)
        gain, _ = matcher.apply(variables, method=lambda m: m.norm.affine())
        layers = np.stack([shares[name].logit / gain for name in matcher.parts])
        np.testing.assert_allclose(layers, golden[f"{at}/{variant}/eval/layer_score"], **EXACT)
        swapped = scored(matcher, variables, *maps[::-1])
        np.testing.assert_allclose(swapped, golden[f"{at}/{variant}/eval/score_swapped"], **EXACT)


@pytest.mark.golden
@pytest.mark.parametrize("variant", ["rule", "calibrated"])
@pytest.mark.parametrize("layers", deep(1, 2, 3, but=[2]))
def test_correspondences_equal_the_original(golden_dir, layers, variant):
    at, case = f"matcher/L{layers}", f"match/L{layers}/{variant}"
    golden, meta, seed = opened(golden_dir, at)
    if f"{case}/prob_score" not in golden:
        pytest.skip(f"{golden_dir.folder} has no such run")
    with jax.enable_x64(True):
        matcher = original(layers, meta[at]["dim_feedforward"])
        variables = by_rule(matcher, golden, meta, seed, at, variant)
        query, gallery = both_maps(golden, at)
        kinds = ("prob_score", "gal_score", "index_in_gal", "index_in_prob")
        matches = explained(matcher, variables, query, gallery, layer_matches)
        for kind, got in zip(kinds, map(np.stack, zip(*matches, strict=True)), strict=True):
            compare = np.testing.assert_allclose if "score" in kind else np.testing.assert_equal
            compare(got.transpose(1, 2, 0, 3, 4), golden[f"{case}/{kind}"])
        if f"{case}/self_similarity" in golden:  # all queries with themselves
            matches = explained(matcher, variables, query, query, layer_matches)
            best, _, place, _ = map(np.stack, zip(*matches, strict=True))
            np.testing.assert_allclose(
                best.transpose(1, 2, 0, 3, 4), golden[f"{case}/self_prob_score"]
            )
            np.testing.assert_equal(
                place.transpose(1, 2, 0, 3, 4), golden[f"{case}/self_index_in_gal"]
            )
            alike = jax.nn.sigmoid(scored(matcher, variables, query, query) / 10)
            np.testing.assert_allclose(alike, golden[f"{case}/self_similarity"], **EXACT)


@functools.partial(jax.jit, static_argnums=(0, 1))
def loss_gradients(matcher, objective, variables, feature, label):
    """Of the mean loss: to features and parameters; loss, numbers to log, scores, statistics."""

    def loss_fn(feature, params):
        kept = []

        def match(query, gallery, train):
            options = {"train": train, "mutable": ["batch_stats"]}
            held = variables | {"params": params}
            kept.extend(matcher.apply(held, query, gallery, **options))
            return kept[0]

        loss, stats = objective(SimpleNamespace(match=match), Batch(feature, feature, label))
        return loss, (loss, stats, *kept)

    run = jax.jit(jax.grad(loss_fn, argnums=(0, 1), has_aux=True))
    return run(feature, variables["params"])


@pytest.mark.golden
@pytest.mark.parametrize(
    ("batch", "loss"),
    deep(
        *itertools.product(
            ("quads", "single", "allsame", "alldiff"), ("pairwise", "triplet_margin16")
        ),
        but=[("quads", "triplet_margin16"), ("alldiff", "pairwise")],
    ),
)
def test_losses_equal_the_original(golden_dir, batch, loss):
    golden, meta, seed = opened(golden_dir, "loss")
    variants = [v for v in ("rule", "official_init") if f"loss/{batch}/{loss}/{v}/score" in golden]
    if not variants:
        pytest.skip(f"{golden_dir.folder} has no such run")
    options = {"name": "pairwise"} if loss == "pairwise" else {"name": "triplet", "margin": 16.0}
    with jax.enable_x64(True):
        matcher = original(meta["loss"]["L"], meta["loss"]["ff"])
        objective = make_objective(**options, num_classes=9)
        for variant in variants:
            at = f"loss/{batch}/{loss}/{variant}"
            variables = by_rule(matcher, golden, meta, seed, "loss", variant)
            feature = golden[f"loss/{batch}/feature"].astype(np.float64)
            label = golden[f"loss/{batch}/target"]
            run = loss_gradients(matcher, objective, variables, feature, label)
            (of_feature, of_params), (mean, stats, score, updates) = run
            np.testing.assert_allclose(score, golden[f"{at}/score"], **EXACT)
            assert float(mean) == pytest.approx(golden[f"{at}/loss"].mean(), rel=1e-8)
            assert float(stats["accuracy"]) == pytest.approx(golden[f"{at}/acc"].mean())
            expected = golden[f"{at}/grad_feature"]
            atol = 1e-8 * np.abs(expected).max()
            np.testing.assert_allclose(of_feature, expected, rtol=0, atol=atol)
            if any(name.startswith(f"{at}/grad_param") for name in golden):
                assert_tree_equals(of_params, golden, f"{at}/grad_param/")
            if any(name.startswith(f"{at}/after") for name in golden):
                assert_tree_equals(updates["batch_stats"], golden, f"{at}/after/")
