"""Layouts of published checkpoints: names of variables, and the model of a checkpoint."""

from collections.abc import Collection

from jaxreid.weights.layouts.layout import Layout
from jaxreid.weights.layouts.osnet import OSNET
from jaxreid.weights.layouts.qaconv import QACONV, QACONV_MS, TRANSMATCHER
from jaxreid.weights.layouts.resnet import (
    FAST_REID,
    IMAGENET_RESNET,
    STRONG_BASELINE,
    TORCHREID_RESNET,
)
from jaxreid.weights.layouts.vit import CLIP, VIT

# A checkpoint is of the first one that holds it.
LAYOUTS = (
    QACONV_MS,
    TRANSMATCHER,
    QACONV,
    FAST_REID,
    STRONG_BASELINE,
    TORCHREID_RESNET,
    IMAGENET_RESNET,
    OSNET,
    VIT,
    CLIP,
)

# Backbones that a checkpoint can have.
ARCHITECTURES = tuple(dict.fromkeys(arch for layout in LAYOUTS for arch in layout.backbones))


def layout_of(names: Collection[str], arch: str) -> Layout:
    """Return the layout of a checkpoint with these names, for one of `ARCHITECTURES`."""
    return next(layout for layout in LAYOUTS if layout.holds(names, arch))
