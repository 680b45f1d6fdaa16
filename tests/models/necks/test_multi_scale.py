"""The multi-scale neck against its definition in plain loops, and the original's numbers."""

import json
import zlib

import jax
import numpy as np
import pytest
from flax import traverse_util
from golden import image, nhwc, param, seed_of

from jaxreid.models.backbones import make_backbone
from jaxreid.models.necks import make_neck
from jaxreid.models.necks.multi_scale import FUSIONS, NORMS, EncoderLayer
from jaxreid.weights.layouts.qaconv import QACONV, QACONV_MS
from jaxreid.weights.official import from_official, official_shape

TINY = {"channels": 4, "template_channels": 3, "scales": (1, 3), "hidden": 5}


def maps(seed, b=2, h=4, w=3, d=6, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((b, h, w, d)).astype(dtype)


def made(options, x):
    """A neck with random weights, scales and biases too."""
    neck = make_neck("multi_scale", **options)
    shapes = jax.eval_shape(neck.init, jax.random.key(0), x)
    draw = np.random.default_rng(1).standard_normal
    return neck, jax.tree.map(lambda leaf: 0.5 * draw(leaf.shape).astype(x.dtype), shapes)


def pieces(neck, feature):
    features = neck.features
    widths = (*features.parts.values(), *([features.shared] if features.shared else []))
    assert feature.shape[-1] == sum(widths)
    return np.split(np.asarray(feature), np.cumsum(widths)[:-1], axis=-1)


def unit(x, axis):
    return x / np.sqrt((x**2).sum(axis, keepdims=True))


def convolved(x, kernel, bias):
    """[B, h, w, c] by a k x k kernel, position by position, zeros around."""
    k = len(kernel) // 2
    y = np.zeros((*x.shape[:3], kernel.shape[3])) + bias
    for b, i, j in np.ndindex(x.shape[:3]):
        for u, v in np.ndindex(kernel.shape[:2]):
            row, column = i + u - k, j + v - k
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                y[b, i, j] += x[b, row, column] @ kernel[u, v]
    return y


def encoded(tokens, p, heads=1):
    """A post-norm encoder layer of one image's tokens [n, d], token by token."""
    n, d = tokens.shape

    def norm(x, name):
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return x * p[name]["scale"] + p[name]["bias"]

    def dense(x, name):
        return x @ p[name]["kernel"] + p[name]["bias"]

    query, key, value = np.split(dense(tokens, "in_proj"), 3, axis=-1)
    out = np.zeros_like(tokens)
    for i in range(n):
        seen = np.zeros(d)
        for channels in np.split(np.arange(d), heads):
            q, k, v = (x[:, channels] for x in (query, key, value))
            share = np.exp([q[i] @ k[j] / np.sqrt(d / heads) for j in range(n)])
            seen[channels] = share / share.sum() @ v
        x = norm(tokens[i] + dense(seen, "out_proj"), "norm1")
        hidden = np.maximum(dense(x, "linear1"), 0)
        out[i] = norm(x + dense(hidden, "linear2"), "norm2")
    return out


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_parts_equal_plain_loops(norm, fusion):
    x = maps(0, dtype=np.float64)
    with jax.enable_x64(True):
        neck, variables = made(TINY | {"norm": norm, "fusion": fusion, "dtype": "float64"}, x)
        found = pieces(neck, jax.jit(neck.apply)(variables, x))
    p = variables["params"]
    plain = convolved(x, **p["conv"])
    expected = [unit(plain, 3)]
    for size in TINY["scales"]:
        y = convolved(expected[0], **p[f"template_{size}"])
        if norm != "position":
            y = unit(y, 3)
        if norm != "channel":
            y = unit(y, (1, 2))
        expected.append(y)
    z = plain.reshape(2, -1, 4)
    for i in range(2):  # layers
        z = np.stack([encoded(tokens, p[f"encoder_{i}"]) for tokens in z])
    z = z.reshape(plain.shape)
    expected.append(z if fusion == "score" else unit(z, 3))
    assert set(p) == {"conv", "template_1", "template_3", "encoder_0", "encoder_1"}
    for got, part in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, part, atol=1e-12)


def test_the_heads_of_an_encoder_layer_attend_apart():
    tokens = maps(0, dtype=np.float64).reshape(2, 12, 6)
    with jax.enable_x64(True):
        layer = EncoderLayer(5, "float64", heads=3)
        shapes = jax.eval_shape(layer.init, jax.random.key(0), tokens)["params"]
        draw = np.random.default_rng(1).standard_normal
        params = jax.tree.map(lambda leaf: draw(leaf.shape), shapes)
        got = layer.apply({"params": params}, tokens)
    for one, image_tokens in zip(got, tokens, strict=True):
        np.testing.assert_allclose(one, encoded(image_tokens, params, heads=3), atol=1e-12)


def test_the_papers_parts_and_those_left_out():
    neck = make_neck("multi_scale")
    assert tuple(neck.features.parts.values()) == (512,) * 5
    assert list(neck.features.parts) == ["pixel", "1x1", "3x3", "5x5", "attention"]
    assert list(neck.features.reaches.items())[2:4] == [("3x3", 1), ("5x5", 2)]
    assert neck.features.shared == 0
    x = jax.ShapeDtypeStruct((1, 24, 8, 1024), np.float32)
    y, variables = jax.eval_shape(neck.init_with_output, jax.random.key(0), x)
    assert y.shape == (1, 24, 8, 2560)
    sizes = {k: sum(v.size for v in jax.tree.leaves(p)) for k, p in variables["params"].items()}
    assert sizes == {
        "conv": 512 * (9 * 1024 + 1),
        **{f"template_{k}": 512 * (512 * k**2 + 1) for k in (1, 3, 5)},
        **{f"encoder_{i}": 4 * 512 * 513 + 2049 * 512 + 2048 * 513 + 4 * 512 for i in (0, 1)},
    }
    assert len(make_neck("multi_scale", scales=[1, 3, 5, 7]).features.parts) == 6  # as from JSON
    assert len(make_neck("multi_scale", attention_layers=0).features.parts) == 4
    only = make_neck("multi_scale", scales=(), attention_layers=0, channels=8)
    assert only.features.parts == {"pixel": 8}
    fused = make_neck("multi_scale", fusion="feature").features
    assert (len(fused.parts), fused.shared) == (4, 512)


def test_weights_start_as_pytorchs():
    x = maps(0)
    neck = make_neck("multi_scale", channels=64, scales=(3,), attention_layers=1, hidden=32)
    params = jax.jit(neck.init)(jax.random.key(1), x)["params"]
    encoder = params["encoder_0"]
    in_proj = encoder["in_proj"]["kernel"]  # Xavier's bound; the others' follow from the inputs
    bounds = [(in_proj, (6 / (64 + 3 * 64)) ** 0.5), (encoder["out_proj"]["kernel"], 1 / 8)]
    for layer, inputs in (
        (params["conv"], 9 * 6),
        (params["template_3"], 9 * 64),
        (encoder["linear1"], 64),
        (encoder["linear2"], 32),
    ):
        bounds += [(layer["kernel"], inputs**-0.5), (layer["bias"], inputs**-0.5)]
    for weight, bound in bounds:
        assert 0.8 * bound < np.abs(weight).max() <= bound
    for name in ("in_proj", "out_proj"):
        np.testing.assert_array_equal(encoder[name]["bias"], 0)


def test_features_stay_float32_where_convolutions_are_not():
    x = maps(0)
    neck, variables = made(TINY, x)
    expected = jax.jit(neck.apply)(variables, x)
    half = make_neck("multi_scale", **TINY, dtype="bfloat16")
    got = jax.jit(half.apply)(variables, x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=0.1)
    np.testing.assert_allclose(np.linalg.norm(got[..., :4], axis=-1), 1, rtol=1e-5)
    assert np.abs(got - expected).max() > 1e-4  # they were made in bfloat16


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_average_has_the_norms_of_the_features(norm, fusion):
    x = maps(0)
    neck, variables = made(TINY | {"norm": norm, "fusion": fusion}, x)
    apply = jax.jit(neck.apply)
    first, second = apply(variables, x), apply(variables, x[:, :, ::-1])[:, :, ::-1]
    np.testing.assert_allclose(neck.average(first, first), first, atol=1e-6)
    average = neck.average(first, second)
    np.testing.assert_array_equal(average, neck.average(second, first))
    assert np.abs(average - first).max() > 0.01
    parts = pieces(neck, average)
    axes = [3, *[3 if norm == "channel" else (1, 2)] * 2]
    for part, axis in zip(parts[:3], axes, strict=True):
        np.testing.assert_allclose((part**2).sum(axis), 1, rtol=1e-5)
    if fusion == "feature":
        np.testing.assert_allclose((parts[3] ** 2).sum(3), 1, rtol=1e-5)
    else:
        mean = (pieces(neck, first)[3] + pieces(neck, second)[3]) / 2
        np.testing.assert_allclose(parts[3], mean, rtol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_beside_attention_alone_the_map_keeps_its_lengths(fusion):
    x = maps(0)
    neck, variables = made(TINY | {"scales": (), "fusion": fusion, "attention_layers": 1}, x)
    found = pieces(neck, jax.jit(neck.apply)(variables, x))
    plain = convolved(x, **variables["params"]["conv"])
    expected = plain if fusion == "score" else unit(plain, 3)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    average = pieces(neck, neck.average(*(np.concatenate(found, -1),) * 2))
    np.testing.assert_allclose(average[0], found[0], atol=1e-6)
    # Alone, or with templates, it has unit length.
    for options in ({"attention_layers": 0}, {"scales": (3,)}):
        neck, variables = made(TINY | {"scales": ()} | options, x)
        lengths = np.linalg.norm(pieces(neck, jax.jit(neck.apply)(variables, x))[0], axis=-1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_attention_sees_every_position_and_no_order():
    x = maps(0)
    neck, variables = made(TINY | {"channels": 6, "scales": (), "attention_layers": 1}, x)
    # A 3x3 convolution that hands on the middle.
    kernel = np.zeros((3, 3, 6, 6), np.float32)
    kernel[1, 1] = np.eye(6)
    params = variables["params"] | {"conv": {"kernel": kernel, "bias": np.zeros(6)}}
    apply = jax.jit(lambda x: neck.apply({"params": params}, x)[..., 6:])
    np.testing.assert_allclose(apply(x[:, ::-1]), apply(x)[:, ::-1], atol=1e-5)
    moved = x.copy()
    moved[:, 0, 0] += 1
    assert np.abs(apply(moved) - apply(x))[:, -1, -1].max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "batch"}, "'batch'; valid: .*position"),
        ({"fusion": "scores"}, "'scores'; valid: score, feature"),
        ({"scales": (1, 2)}, r"\(1, 2\); expected distinct odd sizes"),
        ({"scales": (3, 3)}, r"\(3, 3\); expected distinct odd sizes"),
        ({"fusion": "feature", "attention_layers": 0}, "disables the encoder"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_neck("multi_scale", **options)


def by_rule(seed, module, x, part, name_of):
    """Variables by the rule, and the names and shapes they have there."""
    abstract = traverse_util.flatten_dict(jax.eval_shape(module.init, jax.random.key(0), x))
    found, names = {}, {}
    for (collection, *path), leaf in abstract.items():
        name, shape = name_of((part, *path)), official_shape((part, *path), leaf.shape)
        names[name] = list(shape)
        value = from_official((part, *path), param(seed, name, shape), leaf.shape)
        found[collection, *path] = value.astype(np.float64)
    return traverse_util.unflatten_dict(found), names


@pytest.mark.golden
@pytest.mark.parametrize("net", ["resnet18_none", "resnet50_b"])
def test_features_equal_the_original(golden_dir, net):
    meta = json.loads((golden_dir / "mqaconv.json").read_text())
    keys = [key for key in meta if key.startswith(f"backbone/{net}/")]
    if not keys and net == "resnet50_b":
        pytest.skip(f"{golden_dir.folder} has been cut")
    assert keys
    golden = np.load(golden_dir / "mqaconv.npz")
    seed, arch = seed_of(golden_dir), {"resnet18_none": "resnet18"}.get(net, "resnet50_ibn_b")
    pixels = image(seed, meta["backbone_input"]["name"], meta["backbone_input"]["shape"])
    assert zlib.crc32(pixels.tobytes()) == meta["backbone_input"]["crc32"]
    with jax.enable_x64(True):
        x = nhwc(pixels).astype(np.float64)
        backbone = make_backbone(arch, cut="layer3", dtype="float64")
        name_of = lambda path: QACONV.name(path, arch)  # noqa: E731
        feature = jax.jit(backbone.apply)(by_rule(seed, backbone, x, "backbone", name_of)[0], x)
        for key in keys:
            shapes = dict(meta[key]["names_tail"])
            scales = [
                v[-1] for k, v in shapes.items() if k.startswith("scaleLayers") and len(v) > 1
            ]
            neck = make_neck(
                "multi_scale",
                channels=shapes["neck_conv.weight"][0],
                template_channels=shapes.get("scaleLayers.0.bias", [0])[0],
                scales=scales,
                attention_layers=sum(name.endswith("in_proj_weight") for name in shapes),
                hidden=shapes.get("encoder.layers.0.linear1.bias", [1])[0],
                dtype="float64",
            )
            parts = tuple(neck.features.parts)
            variables, names = by_rule(
                seed, neck, feature, "neck", lambda path, p=parts: QACONV_MS.name(path, arch, p)
            )
            assert names == shapes
            got = jax.jit(neck.apply)(variables, feature)
            scale = np.abs(golden[key]).max()  # stored in float32
            np.testing.assert_allclose(got, golden[key], atol=1e-6 * scale, err_msg=key)
