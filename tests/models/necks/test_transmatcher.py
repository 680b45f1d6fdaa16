"""TransMatcher's neck against its definition, and the original's numbers."""

import functools
import json
import zlib

import jax
import numpy as np
import pytest
from flax import traverse_util
from golden import (
    arrays_of,
    from_transmatcher,
    image,
    nchw,
    nhwc,
    normal,
    param,
    seed_of,
    transmatcher_name,
    transmatcher_shape,
)

from jaxreid.models.backbones import make_backbone
from jaxreid.models.layers import Conv
from jaxreid.models.necks import make_neck
from jaxreid.models.necks.multi_scale import EncoderLayer
from jaxreid.weights.layouts.qaconv import QACONV
from jaxreid.weights.official import from_official, official_shape

TINY = {"channels": 4, "attention_layers": 2, "hidden": 5}


def maps(seed, b=2, h=4, w=3, d=6):
    return np.random.default_rng(seed).standard_normal((b, h, w, d)).astype(np.float32)


def made(options, x):
    """A neck with random weights, scales and biases too."""
    neck = make_neck("transformer", **options)
    shapes = jax.eval_shape(neck.init, jax.random.key(0), x)
    draw = np.random.default_rng(1).standard_normal
    return neck, jax.tree.map(lambda leaf: 0.5 * draw(leaf.shape).astype(x.dtype), shapes)


@pytest.mark.parametrize("channels", [4, 0])
def test_parts_are_the_map_and_what_each_layer_makes_of_the_part_before(channels):
    x = maps(0)
    neck, variables = made(TINY | {"channels": channels, "heads": 2}, x)
    features = neck.features
    assert features.parts == dict.fromkeys(("map", "encoder_1", "encoder_2"), channels)
    assert features.reaches == dict.fromkeys(features.parts, 0)
    params, d = variables["params"], channels or x.shape[-1]
    found = np.split(jax.jit(neck.apply)(variables, x), 3, axis=-1)
    layer = jax.jit(EncoderLayer(5, heads=2).apply)
    assert set(params) == {"encoder_0", "encoder_1", *["conv"] * bool(channels)}
    expected = x
    if channels:
        conv = jax.jit(Conv(channels, 3, use_bias=True).apply)
        expected = conv({"params": params["conv"]}, x)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    for i, part in enumerate(found[1:]):
        tokens = found[i].reshape(2, 12, d)
        expected = layer({"params": params[f"encoder_{i}"]}, tokens)
        np.testing.assert_allclose(part, expected.reshape(part.shape), atol=1e-5)


def test_layers_start_equal_and_as_pytorchs():
    x = maps(0)
    neck = make_neck("transformer", channels=64, attention_layers=3, hidden=32)
    params = jax.jit(neck.init)(jax.random.key(1), x)["params"]
    for i in (1, 2):
        jax.tree.map(np.testing.assert_array_equal, params[f"encoder_{i}"], params["encoder_0"])
    plain = EncoderLayer(32)
    apart = jax.jit(plain.init)(jax.random.key(1), np.zeros((1, 2, 64), np.float32))["params"]

    def spread(tree):
        return [float(np.std(leaf)) for leaf in jax.tree.leaves(tree)]

    assert spread(params["encoder_0"]) == pytest.approx(spread(apart), rel=0.3)
    for leaf in params["conv"].values():
        assert 0.8 * 54**-0.5 < np.abs(leaf).max() <= 54**-0.5
    other = jax.jit(neck.init)(jax.random.key(2), x)["params"]["encoder_0"]
    kernel = params["encoder_0"]["linear1"]["kernel"]
    assert not np.array_equal(other["linear1"]["kernel"], kernel)


def test_features_stay_float32_where_convolutions_are_not():
    x = maps(0)
    neck, variables = made(TINY, x)
    expected = jax.jit(neck.apply)(variables, x)
    got = jax.jit(make_neck("transformer", **TINY, dtype="bfloat16").apply)(variables, x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=0.1)
    assert np.abs(got - expected).max() > 1e-4  # they were made in bfloat16


def test_the_average_is_the_mean():
    neck = make_neck("transformer", **TINY)
    first, second = maps(0), maps(1)
    np.testing.assert_allclose(neck.average(first, second), (first + second) / 2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="3 heads do not divide 4 channels"):
        made(TINY | {"heads": 3}, maps(0))
    with pytest.raises(ValueError, match="hidden is 0"):
        make_neck("transformer", hidden=0)


def by_rule(seed, module, x, arch=None):
    """Variables by the rule, of a backbone of the name `arch` or of the neck; names and shapes."""
    abstract = traverse_util.flatten_dict(jax.eval_shape(module.init, jax.random.key(0), x))
    found, names = {}, {}
    for path, leaf in abstract.items():
        if arch:
            path_there = ("backbone", *path[1:])
            name = QACONV.name(path_there, arch)
            value = param(seed, name, official_shape(path_there, leaf.shape))
            value = from_official(path_there, value, leaf.shape)
        else:
            name = transmatcher_name(("neck", *path[1:]))
            names[name] = list(transmatcher_shape(name, leaf.shape))
            value = from_transmatcher(name, param(seed, name, names[name]), leaf.shape)
        found[path] = value.astype(np.float64)
    return traverse_util.unflatten_dict(found), names


@pytest.mark.golden
@pytest.mark.parametrize(
    "net", ["resnet18_none", pytest.param("resnet50_b", marks=pytest.mark.full)]
)
def test_features_equal_the_original(golden_dir, net):
    meta = json.loads((golden_dir / "transmatcher.json").read_text())
    keys = [key for key in meta if key.startswith(f"feature/{net}/")]
    if not keys:
        pytest.skip(f"{golden_dir.folder} has been cut")
    golden, seed = arrays_of(golden_dir / "transmatcher.npz"), seed_of(golden_dir)
    arch, given = {"resnet18_none": "resnet18"}.get(net, "resnet50_ibn_b"), meta["feature/input"]
    pixels = image(seed, given["name"], given["shape"])
    assert zlib.crc32(pixels.tobytes()) == given["crc32"]

    def assert_close(got, expected, message):  # stored in float32
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * scale, err_msg=message)

    with jax.enable_x64(True):
        x = nhwc(pixels).astype(np.float64)
        backbone = make_backbone(arch, cut="layer3", dtype="float64")
        backbone_variables, _ = by_rule(seed, backbone, x, arch)
        encode = jax.jit(functools.partial(backbone.apply, backbone_variables))
        feature = encode(x)
        for key in keys:
            about = meta[key]
            neck = make_neck(
                "transformer",
                channels=about["neck"],
                attention_layers=about["num_encoder_layers"],
                hidden=about["dim_feedforward"],
                heads=about["nhead"],
                dtype="float64",
            )
            variables, names = by_rule(seed, neck, feature)
            assert names == dict(about["new_names"])
            run = jax.jit(neck.apply)
            got = np.asarray(run(variables, feature))
            flat = got.ravel()
            places = [min(i * flat.size // 64 + i % 7, flat.size - 1) for i in range(64)]
            np.testing.assert_allclose(flat[places], about["samples64"], rtol=1e-8, atol=1e-8)
            if f"{key}/eval_out" in golden:
                assert_close(got, golden[f"{key}/eval_out"], key)
            if not any(name.startswith(f"{key}/eval_grad") for name in golden):
                continue
            weight = normal(seed, about["R"], about["out_shape"]).astype(np.float64)
            of_variables, of_feature = jax.jit(jax.vjp(neck.apply, variables, feature)[1])(weight)
            for path, leaf in traverse_util.flatten_dict(of_variables["params"]).items():
                name = transmatcher_name(("neck", *path))
                if path[0] != "conv":
                    there = golden[f"{key}/eval_grad_param/{name}"]
                    assert_close(leaf, from_transmatcher(name, there, leaf.shape), name)
            if f"{key}/eval_grad_input" in golden:
                (of_input,) = jax.jit(jax.vjp(encode, x)[1])(of_feature)
                assert_close(nchw(of_input), golden[f"{key}/eval_grad_input"], key)
