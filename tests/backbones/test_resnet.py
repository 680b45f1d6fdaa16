"""ResNet against the original's features, and its options."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import image, nchw, nhwc, param, seed_of

from jaxreid.backbones import make_backbone


def official_name(path):
    """Of one of our variables, in the original's state_dict."""
    *modules, leaf = path
    names = {"scale": "weight", "mean": "running_mean", "var": "running_var", "kernel": "weight"}
    leaf = names.get(leaf, leaf)
    if modules[0] == "neck_conv":
        return f"neck_conv.{leaf}"
    modules = [m.replace("_", ".", 1) if m.startswith("layer") else m for m in modules]
    modules = [
        {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}.get(m, m)
        for m in modules
    ]
    return ".".join(["base", *modules, leaf])


def rule_variables(backbone, shape, seed):
    abstract = jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, *shape, 3)))

    def fill(path, leaf):
        name = official_name([entry.key for entry in path][1:])
        if leaf.ndim == 4:  # HWIO here, OIHW there
            h, w, i, o = leaf.shape
            return param(seed, name, (o, i, h, w)).transpose(2, 3, 1, 0)
        return param(seed, name, leaf.shape)

    return jax.tree_util.tree_map_with_path(fill, abstract)


@pytest.mark.golden
@pytest.mark.parametrize(("depth", "ibn"), [(18, "none"), (50, "none"), (50, "b")])
def test_features_equal_the_original(golden_dir, depth, ibn):
    seed = seed_of(golden_dir)
    golden = np.load(golden_dir / f"backbone_resnet{depth}_{ibn}.npz")
    checks = json.loads((golden_dir / "backbone_checks.json").read_text())
    shape = checks["input"]["shape"]
    keys = {key.split("_")[0]: key for key in golden.files if key.startswith("layer")}.values()
    assert keys
    for key in keys:
        cut, neck = key.split("_neck")
        expected = golden[key]
        pixels = image(seed, "backbone_image", shape)[: len(expected)]
        backbone = make_backbone(
            f"resnet{depth}", cut=cut, ibn=ibn, neck=int(neck), neck_norm="none"
        )
        variables = rule_variables(backbone, shape[2:], seed)
        feature = nchw(jax.jit(backbone.apply)(variables, nhwc(pixels)))
        error = np.linalg.norm(feature - expected) / np.linalg.norm(expected)
        assert error < 1e-4, key  # float32 against float64; torch's own difference is 1e-6


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"name": "resnet18", "cut": "layer2", "width": 8, "neck": 6}, (2, 8, 4, 6)),
        ({"name": "resnet18", "cut": "layer4", "width": 8, "neck": 0}, (2, 2, 1, 64)),
        (
            {"name": "resnet50", "cut": "layer3", "width": 8, "neck": 6, "neck_norm": "none"},
            (2, 4, 2, 6),
        ),
    ],
)
def test_maps_are_unit_vectors_of_the_promised_shape(options, shape):
    backbone = make_backbone(**options)
    pixels = jax.random.uniform(jax.random.key(0), (2, 64, 32, 3))
    variables = jax.jit(backbone.init)(jax.random.key(1), pixels)
    feature = jax.jit(backbone.apply)(variables, pixels)
    assert feature.shape == shape
    np.testing.assert_allclose(jnp.linalg.norm(feature, axis=-1), 1, rtol=1e-5)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="'resnet51'; valid: resnet50, resnet18"):
        make_backbone("resnet51")
    with pytest.raises(ValueError, match="backbone.cut 'layer5'"):
        make_backbone("resnet18", cut="layer5")
