"""ResNets that make one embedding: of ImageNet, and of re-identification toolboxes."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxreid.models.backbones import resnet
from jaxreid.models.model import abstract_variables, feature_shape, make_model
from jaxreid.weights.layouts.layout import IMAGENET, Layout, Rules, Tensors, classes_of
from jaxreid.weights.layouts.osnet import LINEAR_NECK

BACKBONES = tuple(resnet.FAMILY)


def rules_of(prefix: str, *others: tuple[str, str]) -> Callable[[str, Sequence[str]], Rules]:
    """Return `Layout.rules` of a ResNet whose names begin with `prefix`, and of what follows it."""
    rules = (
        (r"^backbone\.layer(\d)_(\d+)\.", r"backbone.layer\1.\2."),
        (r"\.downsample_conv\.", ".downsample.0."),
        (r"\.downsample_bn\.", ".downsample.1."),
        (r"^backbone\.non_local(\d)_(\d+)\.", r"backbone.NL_\1.\2."),
        (r"\.out_conv\.", ".W.0."),
        (r"\.out_bn\.", ".W.1."),
        (r"^backbone\.", prefix),
        *others,
    )
    return lambda arch, parts: rules


def whole(prefix: str = "") -> Callable[[str, Tensors], dict[str, np.ndarray]]:
    """Return `Layout.rest` of a ResNet: variables of a whole one that the model never uses.

    All are 0 but the variances, which are 1.
    """

    def rest(arch: str, tensors: Tensors) -> dict[str, np.ndarray]:
        model = make_model(**_imagenet({}, arch))
        layout = Layout("", BACKBONES, _imagenet, rules_of(prefix))
        others = {}
        for name, shape in layout.shapes(model, arch).items():
            if name not in tensors:
                make = np.ones if name.endswith("running_var") else np.zeros
                others[name] = make(shape, np.float32)
        channels = feature_shape(model, abstract_variables(model))[0]
        others[f"{prefix}fc.weight"] = np.zeros((1000, channels), np.float32)
        others[f"{prefix}fc.bias"] = np.zeros(1000, np.float32)
        return others

    return rest


def _embedding(
    arch: str,
    size: tuple[int, int],
    *,
    metric: str = "cosine",
    neck: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the card of a ResNet with one embedding; `options` are those of the backbone."""
    return {
        "backbone": {"name": arch} | options,
        "neck": neck or {"name": "pooled", "pool": "average", "bn": False},
        "matcher": {"name": "embedding", "metric": metric},
        "height": size[0],
        "width": size[1],
        "interpolation": "bilinear",
        **IMAGENET,
    }


def _imagenet(
    tensors: Tensors,
    arch: str,
    *,
    cut: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    return _embedding(arch, input_size or (224, 224))


def _torchreid(
    tensors: Tensors,
    arch: str,
    *,
    cut: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return the card; with a linear layer, as in resnet50_fc512, the last stride is 1."""
    card = _embedding(arch, input_size or (256, 128), metric="euclidean")
    if "fc.0.weight" in tensors:
        card["neck"] = {"name": "linear", "channels": len(tensors["fc.0.weight"])}
        card["backbone"]["last_stride"] = 1
    return card | {"classes": classes_of(tensors)}


def _strong_baseline(
    tensors: Tensors,
    arch: str,
    *,
    cut: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    neck = {"name": "pooled", "pool": "average"}
    size = input_size or (256, 128)
    return _embedding(arch, size, neck=neck, last_stride=1, stem="linear")


def _fast_reid(
    tensors: Tensors,
    arch: str,
    *,
    cut: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return the card; GeM, non-local blocks and pixel normalisation are read off the file."""
    gem = "heads.pool_layer.p" in tensors
    size = input_size or ((384, 128) if gem else (256, 128))
    options: dict[str, Any] = {"last_stride": 1, "stem": "unpadded"}
    blocks = [re.match(r"NL_(\d)\.\d+\.g\.weight", name) for name in tensors]
    if layers := [int(block[1]) for block in blocks if block]:
        options["non_local"] = [layers.count(layer) for layer in (1, 2, 3, 4)]
    neck = {"name": "pooled", "pool": "gem" if gem else "average"}
    card = _embedding(arch, size, neck=neck, **options) | {"interpolation": "bicubic"}
    pixels = {"mean": "pixel_mean", "std": "pixel_std"}
    return card | {
        key: tuple((tensors[name].ravel() / 255).tolist())
        for key, name in pixels.items()
        if name in tensors
    }


def _zero_bias(bias: str) -> Callable[[str, Tensors], dict[str, np.ndarray]]:
    """Return `Layout.rest` of a BN neck, whose bias stays 0."""
    return lambda arch, tensors: {
        bias: np.zeros_like(tensors[bias.replace("bias", "running_mean")])
    }


IMAGENET_RESNET = Layout(
    "ResNets of ImageNet", BACKBONES, _imagenet, rules_of(""), unused=r"fc\.",
    rest=whole(),
)  # fmt: skip
STRONG_BASELINE = Layout(
    "the strong baseline of Luo et al.", BACKBONES, _strong_baseline,
    rules_of("", (r"^neck\.bn\.", "bottleneck.")), outer="base.",
    sign=r"bottleneck\.running_mean$", unused=r"classifier\.", zeros=r"bottleneck\.bias$",
    rest=_zero_bias("bottleneck.bias"),
)  # fmt: skip
FAST_REID = Layout(
    "BoT and SBS of fast-reid", BACKBONES, _fast_reid,
    rules_of("", (r"^neck\.bn\.", "heads.bottleneck.0."), (r"^neck\.gem\.", "heads.pool_layer.")),
    outer="backbone.",
    sign=r"heads\.bottleneck\.0\.running_mean$",
    unused=r"heads\.(weight$|classifier\.)|pixel_(mean|std)$",
    zeros=r"heads\.bottleneck\.0\.bias$", rest=_zero_bias("heads.bottleneck.0.bias"),
)  # fmt: skip
TORCHREID_RESNET = Layout(
    "ResNets of torchreid", BACKBONES, _torchreid, rules_of("", *LINEAR_NECK),
    sign=r"fc\.0\.weight$|classifier\.bias$", rest=lambda *_: {},
)  # fmt: skip
