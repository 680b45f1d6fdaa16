"""Backbones and necks by name: shapes, sizes, cost, initialisation, options."""

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from selection import deep

from jaxreid.models.backbones import BACKBONES, make_backbone, osnet
from jaxreid.models.backbones.backbone import Backbone
from jaxreid.models.backbones.osnet import OmniScaleBlock
from jaxreid.models.backbones.resnet import Bottleneck
from jaxreid.models.layers import ChannelGate, GeM, InstanceBatchNorm, InstanceNorm
from jaxreid.models.model import make_model
from jaxreid.models.necks import make_neck
from jaxreid.ops import convolution

# Parameters and multiply-adds at 256x128, without classifier: the original's own count, which
# the papers round to 2.2, 1.3, 0.6, 0.2 M and 0.98, 0.57, 0.27, 0.08 G.
COSTS = {
    "x1_0": (2_169_508, 978_878_352),
    "x0_75": (1_285_754, 571_754_536),
    "x0_5": (630_034, 272_901_064),
    "x0_25": (201_864, 82_316_000),
}


def abstract(module, *arguments):
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *arguments)
    return variables, y


def pixels(height, width, count=1):
    return jax.ShapeDtypeStruct((count, height, width, 3), jnp.float32)


class Nothing(Backbone):
    """Leaves no position."""

    def __call__(self, x, *, train=False):
        return x[:, :0]


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def multiply_adds(jaxpr):
    """Of all convolutions and matrix products, and of the biases added to the latter."""
    total = 0
    for equation in jaxpr.eqns:
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            total += multiply_adds(inner)
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            total += equation.outvars[0].aval.size * int(np.prod(kernel[:3]))
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
            total += equation.outvars[0].aval.size * (int(depth) + 1)
    return total


@pytest.mark.parametrize("name", deep(*osnet.FAMILY, but=["osnet_x0_25", "osnet_ain_x1_0"]))
def test_osnet_costs_what_the_paper_says(name, monkeypatch):
    monkeypatch.setattr(convolution, "_native", lambda choice: True)  # convolutions as such
    parameters, cost = COSTS[name.removeprefix("osnet_").removeprefix("ibn_").removeprefix("ain_")]
    backbone, neck = make_backbone(name), make_neck("linear")
    trunk, feature = abstract(backbone, pixels(256, 128))
    head, embedding = abstract(neck, feature)
    stage = backbone.channels[1]
    affine = 2 * 2 * stage if "ibn" in name else 0  # two more instance normalisations
    assert size(trunk["params"]) + size(head["params"]) == parameters + affine
    jaxpr = jax.make_jaxpr(lambda a, b, x: neck.apply(b, backbone.apply(a, x)))(
        trunk, head, pixels(256, 128)
    )
    assert multiply_adds(jaxpr.jaxpr) == cost
    assert feature.shape == (1, 16, 8, osnet.FAMILY[name].get("channels", (512,))[-1])
    assert embedding.shape == (1, 512)


# Of torchvision's and IBN-Net's networks, without classifier.
SIZES = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
}


@pytest.mark.parametrize("name", [name for name in BACKBONES.names if name.startswith("resnet")])
def test_resnet_has_the_size_of_the_original(name):
    variables, feature = abstract(make_backbone(name), pixels(384, 128))
    plain = name.split("_")[0]
    expected = SIZES[plain]
    if name.endswith("ibn_b"):  # after layer1 and layer2
        expected += 2 * (256 + 512) if int(plain[6:]) >= 50 else 2 * (64 + 128)
    assert size(variables["params"]) == expected
    assert feature.shape == (1, 12, 4, 2048 if int(plain[6:]) >= 50 else 512)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"cut": "layer2"}, (2, 13, 7, 16)),
        ({"cut": "layer3"}, (2, 7, 4, 32)),
        ({"cut": "layer4"}, (2, 4, 2, 64)),
        ({"last_stride": 1}, (2, 7, 4, 64)),
    ],
)
def test_cuts_and_strides_of_images_that_do_not_divide(options, shape):
    _, feature = abstract(make_backbone("resnet18", width=8, **options), pixels(100, 50, 2))
    assert feature.shape == shape


@pytest.mark.parametrize(
    ("backbone", "stride"),
    [
        ({"name": "resnet18", "cut": "layer2"}, 8),
        ({"name": "resnet18", "cut": "layer4"}, 32),
        ({"name": "resnet18", "cut": "layer4", "last_stride": 1}, 16),
        ({"name": "osnet_x0_25"}, 16),
    ],
)
def test_images_smaller_than_the_stride_are_refused_by_their_size(backbone, stride):
    others = {"neck": {"name": "pooled"}, "matcher": {"name": "embedding"}}
    for size in ((stride, stride - 1), (1, 1)):
        with pytest.raises(ValueError, match=f"is {size[0]}x{size[1]}; expected at least {stride}"):
            make_model(backbone=backbone, **others, height=size[0], width=size[1])
    model = make_model(backbone=backbone, **others, height=stride, width=stride)
    options = {key: value for key, value in backbone.items() if key != "name"}
    small = make_backbone(backbone["name"], **options)
    assert abstract(small, pixels(stride, stride))[1].shape[1:3] == (1, 1)
    # Whatever the backbone: no feature is the mean of no positions.
    with pytest.raises(ValueError, match="leave a feature map of 0x.*larger model.height"):
        abstract(model.clone(backbone=Nothing()), pixels(stride, stride))


def test_map_neck_makes_unit_vectors():
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 5))
    for options in ({"channels": 0}, {"channels": 6}, {"channels": 6, "norm": "none"}):
        y, _ = make_neck("map", **options).init_with_output(jax.random.key(1), x)
        assert y.shape == (2, 4, 3, options["channels"] or 5)
        np.testing.assert_allclose(jnp.linalg.norm(y, axis=-1), 1, rtol=1e-5)


def test_pooled_neck_offers_what_precedes_its_normalisation():
    x = jax.random.uniform(jax.random.key(0), (4, 3, 2, 5))
    neck = make_neck("pooled")
    variables = neck.init(jax.random.key(1), x)
    options = {"train": True, "mutable": ["batch_stats"]}
    (y, pooled), _ = neck.apply(variables, x, method="with_before", **options)
    np.testing.assert_array_equal(neck.apply(variables, x, **options)[0], y)
    np.testing.assert_allclose(pooled, x.mean((1, 2)), rtol=1e-6)
    expected = (pooled - pooled.mean(0)) / np.sqrt(pooled.var(0) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert "bias" not in variables["params"]["bn"]
    plain = make_neck("pooled", bn=False)
    np.testing.assert_allclose(plain.apply({}, x), pooled, rtol=1e-6)


def test_without_a_bn_neck_nothing_precedes_it():
    x = jax.random.uniform(jax.random.key(0), (4, 3, 2, 5))
    for options in ({"name": "pooled", "bn": False}, {"name": "linear", "channels": 6}):
        neck = make_neck(**options)
        variables = neck.init(jax.random.key(1), x)
        y, before = neck.apply(variables, x, method="with_before")
        np.testing.assert_array_equal(y, before)
        np.testing.assert_array_equal(y, neck.apply(variables, x))


@pytest.mark.parametrize(("p", "expected"), [(1.0, np.mean), (60.0, np.max)])
def test_gem_lies_between_mean_and_maximum(p, expected):
    x = np.random.default_rng(0).uniform(0.1, 1, (3, 4, 5, 2)).astype(np.float32)
    y, _ = GeM(p).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y, expected(x, axis=(1, 2)), rtol=0.06)
    default, variables = GeM().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(default, np.mean(x**3.0, axis=(1, 2)) ** (1 / 3), rtol=1e-5)
    assert variables["params"]["p"].shape == (1,)


def test_instance_norm_takes_light_and_cast_out_of_each_image():
    x = jax.random.normal(jax.random.key(0), (3, 6, 4, 5))
    changed = x * jnp.array([1.0, 3, 0.5])[:, None, None, None] + jnp.arange(5.0)
    norm = InstanceNorm()
    variables = norm.init(jax.random.key(0), x)
    np.testing.assert_allclose(norm.apply(variables, changed), norm.apply(variables, x), atol=1e-3)
    y, _ = InstanceBatchNorm(train=False).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(
        y[..., :2], norm.apply(norm.init(jax.random.key(0), x[..., :2]), x[..., :2])
    )
    np.testing.assert_allclose(y[..., 2:], x[..., 2:] / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_gate_weighs_whole_channels():
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 32))
    y, variables = ChannelGate().init_with_output(jax.random.key(1), x)
    weight = y / x
    np.testing.assert_allclose(weight, jnp.broadcast_to(weight[:, :1, :1], x.shape), rtol=1e-3)
    assert variables["params"]["fc1"]["kernel"].shape == (32, 2)


MODES = {"train": False, "axis_name": None, "dtype": jnp.float32}


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(OmniScaleBlock(128, **MODES), marks=pytest.mark.full, id="osnet"),
        pytest.param(Bottleneck(64, 1, **MODES), id="resnet"),
    ],
)
def test_initialisation_is_the_originals(block):
    variables = jax.jit(block.init)(jax.random.key(0), jnp.zeros((1, 4, 2, 64)))

    def check(path, leaf):
        names = [entry.key for entry in path]
        if names[-1] == "kernel":  # He's normal, over the outputs
            std = np.sqrt(
                2 / (np.prod(leaf.shape[:2]) * leaf.shape[3] if leaf.ndim == 4 else leaf.shape[1])
            )
            spread = 4 / np.sqrt(2 * leaf.size)  # four standard errors
            assert float(leaf.std()) == pytest.approx(std, rel=spread), names
        elif names[-1] in ("scale", "var"):
            assert (leaf == 1).all()
        else:
            assert (leaf == 0).all()

    jax.tree_util.tree_map_with_path(check, variables)
    neck = make_neck("linear").init(jax.random.key(0), jnp.zeros((1, 2, 2, 128)))
    assert float(neck["params"]["fc"]["kernel"].std()) == pytest.approx(0.01, rel=0.02)


def test_unknown_names_and_options_list_the_valid_ones():
    with pytest.raises(ValueError, match="'resnet51'; valid: resnet50, resnet"):
        make_backbone("resnet51")
    with pytest.raises(ValueError, match="unknown backbone 'resnet152_ibn_a'"):
        make_backbone("resnet152_ibn_a")
    with pytest.raises(ValueError, match="backbone.cut 'layer5'"):
        make_backbone("resnet18", cut="layer5")
    with pytest.raises(ValueError, match="'osnet_x1_0' has no option cut"):
        make_backbone("osnet_x1_0", cut="layer3")
    with pytest.raises(ValueError, match="last_stride is 3"):
        make_backbone("resnet18", last_stride=3)
    with pytest.raises(ValueError, match="unknown backbone.stem 'valid'; valid: padded"):
        make_backbone("resnet18", stem="valid")
    for non_local in ((0, 2, 3), (0, 3, 0, 0), (0, "a", 0, 0)):
        with pytest.raises(ValueError, match=r"non_local is .*at most \(2, 2, 2, 2\)"):
            make_backbone("resnet18", non_local=non_local)
    with pytest.raises(ValueError, match="unknown neck 'mapp'; valid: map"):
        make_neck("mapp")
