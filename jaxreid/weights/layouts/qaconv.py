"""QAConv 1.0 to 2.1."""

from typing import Any

import numpy as np

from jaxreid.models.backbones import resnet
from jaxreid.weights.layouts.layout import RAW, Layout, Tensors
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


def _card(
    tensors: Tensors,
    arch: str,
    *,
    cut: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    height, width = input_size or (384, 128)
    cut = _cut(tensors, arch, cut)
    neck: dict[str, Any] = {"name": "map", "channels": 0, "norm": "none"}
    if "neck_conv.weight" in tensors:
        neck["channels"] = len(tensors["neck_conv.weight"])
        neck["norm"] = "batch" if "neck_bn.weight" in tensors else "none"
    stride = resnet.ResNet(cut=cut).stride
    positions = -(-height // stride) * -(-width // stride)
    weights = tensors.get("criterion.fc.weight", np.zeros((1, 0))).shape[-1]
    # Version 2.1 dropped the neck's normalisation and the second half of the head.
    old = neck["norm"] == "batch" if neck["channels"] else weights == 2 * positions
    return {
        "backbone": {"name": arch, "cut": cut},
        "neck": neck,
        "matcher": {"name": "qaconv", "head": "v1" if old else "v2.1"},
        "height": height,
        "width": width,
        **RAW,
    }


QACONV = Layout(
    "QAConv with the neck 'map' on a ResNet of full width",
    BACKBONES,
    _card,
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
