"""Matchers of local features on a ResNet: QAConv 1.0 to 2.1, TransMatcher, QAConv-MS (MQAConv)."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreid.models.backbones import resnet
from jaxreid.weights.layouts.layout import RAW, Layout, Rules, Tensors
from jaxreid.weights.layouts.resnet import BACKBONES, rules_of, whole

MEMORY = ("criterion.class_memory", "criterion.valid_class")
# Channels of the neck's input, for deep ResNets a fourth of them, by the layer before it.
_AFTER = {128: "layer2", 256: "layer3", 512: "layer4"}


def _cut(tensors: Tensors, arch: str, cut: str | None) -> str:
    """Return the layer before the neck.

    Raises:
        ValueError: the neck in the file is after another layer than `cut`.
    """
    if "neck_conv.weight" in tensors:
        wide = 4 if resnet.FAMILY[arch]["depth"] >= 50 else 1
        after = _AFTER.get(tensors["neck_conv.weight"].shape[1] // wide, cut)
        if cut not in (None, after):
            raise ValueError(f"cut is {cut}, but the neck in the file is after {after}.")
        cut = after
    return cut or "layer3"


def _local(
    arch: str,
    cut: str,
    size: tuple[int, int] | None,
    neck: dict[str, Any],
    matcher: dict[str, Any],
) -> dict[str, Any]:
    """Return the card of a model that compares maps."""
    height, width = size or (384, 128)
    return {
        "backbone": {"name": arch, "cut": cut},
        "neck": neck,
        "matcher": matcher,
        "height": height,
        "width": width,
        **RAW,
    }


def _qaconv(
    tensors: Tensors,
    arch: str,
    *,
    cut: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    cut = _cut(tensors, arch, cut)
    neck: dict[str, Any] = {"name": "map", "channels": 0, "norm": "none"}
    if "neck_conv.weight" in tensors:
        neck["channels"] = len(tensors["neck_conv.weight"])
        neck["norm"] = "batch" if "neck_bn.weight" in tensors else "none"
    height, width = input_size or (384, 128)
    stride = resnet.ResNet(cut=cut).stride
    positions = -(-height // stride) * -(-width // stride)
    weights = tensors.get("criterion.fc.weight", np.zeros((1, 0))).shape[-1]
    # Version 2.1 dropped the neck's normalisation and the second half of the head.
    old = neck["norm"] == "batch" if neck["channels"] else weights == 2 * positions
    matcher = {"name": "qaconv", "head": "v1" if old else "v2.1"}
    return _local(arch, cut, input_size, neck, matcher)


def _transmatcher(
    tensors: Tensors,
    arch: str,
    *,
    cut: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    neck = {"name": "transformer"} | _encoder(tensors)
    matcher = {"name": "transmatcher"} | _hidden(tensors, "criterion.decoder.layers.0.fc2.bias")
    return _local(arch, _cut(tensors, arch, cut), input_size, neck, matcher)


def _qaconv_ms(
    tensors: Tensors,
    arch: str,
    *,
    cut: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return the card; an encoder without a head of its own belongs to every part."""
    neck = {"name": "multi_scale"} | _encoder(tensors)
    kernels = [tensors[f"scaleLayers.{i}.weight"] for i in range(_count(tensors, "scaleLayers."))]
    neck["scales"] = [kernel.shape[-1] for kernel in kernels]
    if kernels:
        neck["template_channels"] = len(kernels[0])
    heads = _count(tensors, "criterion.decoder.layers.")
    if neck["attention_layers"] and heads == 1 + len(kernels):
        neck["fusion"] = "feature"
    matcher = {"name": "qaconv_ms"} | _hidden(tensors, "criterion.decoder.layers.0.fc2.bias")
    return _local(arch, _cut(tensors, arch, cut), input_size, neck, matcher)


def _encoder(tensors: Tensors) -> dict[str, Any]:
    """Return the options of a neck with a convolution and a transformer encoder."""
    channels = len(tensors.get("neck_conv.weight", ()))
    layers = {"channels": channels, "attention_layers": _count(tensors, "encoder.layers.")}
    return layers | _hidden(tensors, "encoder.layers.0.linear1.bias")


def _hidden(tensors: Tensors, bias: str) -> dict[str, int]:
    return {"hidden": len(tensors[bias])} if bias in tensors else {}


def _count(tensors: Tensors, prefix: str) -> int:
    """Return the length of a numbered list of modules."""
    return len(
        {name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)}
    )


def _rules_of_parts(arch: str, parts: Sequence[str]) -> Rules:
    scales = [part for part in parts if re.match(r"\d", part)]
    return (
        *rules_of("base.")(arch, parts),
        (r"^neck\.conv\.", "neck_conv."),
        *((rf"^neck\.template_{k[0]}\.", f"scaleLayers.{i}.") for i, k in enumerate(scales)),
        (r"^neck\.encoder_(\d+)\.", r"encoder.layers.\1."),
        (r"\.in_proj\.", ".self_attn.in_proj_"),
        (r"\.out_proj\.", ".self_attn.out_proj."),
        *(
            (rf"^matcher\.(heads|layers)_{part}\.", f"criterion.decoder.layers.{i}.")
            for i, part in enumerate(parts)
        ),
        (r"^matcher\.norm\.", "criterion.decoder.norm."),
        (r"\.head\.", "."),
        (r"\.norm_in\.", ".bn1."),
        (r"\.norm_hidden\.", ".bn2."),
        (r"\.norm_out\.", ".bn3."),
        (r"(\.layers\.\d+)\.(weight|bias)$", r"\1.fc2.\2"),
        (r"\.out_(kernel|bias)$", r".fc3.\1"),
        (r"\.kernel$", ".weight"),
    )


# The layer from which the others were copied.
_PROTOTYPE = r"base\.fc\.|criterion\.decoder_layer\."

QACONV = Layout(
    "QAConv with the neck 'map' on a ResNet of full width",
    BACKBONES,
    _qaconv,
    rules_of(
        "base.",
        (r"^neck\.", "neck_"),
        (r"^matcher\.norm_in\.", "criterion.bn."),
        (r"^matcher\.norm_out\.", "criterion.logit_bn."),
        (r"^matcher\.", "criterion.fc."),
    ),
    sign=r"base\.",
    unused=r"base\.fc\.",
    rest=whole("base."),
)
TRANSMATCHER = Layout(
    "TransMatcher", BACKBONES, _transmatcher, _rules_of_parts,
    sign=r"encoder\.|criterion\.decoder\.", unused=_PROTOTYPE,
)  # fmt: skip
QACONV_MS = Layout(
    "QAConv-MS", BACKBONES, _qaconv_ms, _rules_of_parts,
    sign=r"scaleLayers\.|criterion\.decoder\.layers\.0\.fc\.",
    # Of TransMatcher, which the code is made from.
    unused=_PROTOTYPE
    + r"|criterion\.decoder\.(layers\.\d+\.(score_embed$|fc1\.|fc\.)|norm\.)",
)  # fmt: skip
