"""Backbones: images to features."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxreid.backbones.resnet import BLOCKS, CUTS, IBN, NECK_NORMS, ResNet
from jaxreid.names import check_name

NAMES = tuple(f"resnet{depth}" for depth in BLOCKS)


def make_backbone(
    name: str, *, dtype: str = "float32", axis_name: str | None = None, **options: Any
) -> nn.Module:
    """A backbone by name.

    Args:
        name: one of `NAMES`.
        dtype: "float32" or "bfloat16", the type of its convolutions.
        axis_name: mesh axis over which a batch is spread.
        **options: attributes of the backbone (`cut`, `neck`, ...).

    Raises:
        ValueError: an unknown name, or an option out of its range.
    """
    check_name(name, NAMES, "backbone")
    check_name(dtype, ("float32", "bfloat16"), "backbone.dtype")
    check_name(options.get("cut", "layer3"), CUTS, "backbone.cut")
    check_name(options.get("ibn", "none"), IBN, "backbone.ibn")
    check_name(options.get("neck_norm", "batch"), NECK_NORMS, "backbone.neck_norm")
    depth = int(name.removeprefix("resnet"))
    return ResNet(depth=depth, dtype=jnp.dtype(dtype), axis_name=axis_name, **options)
