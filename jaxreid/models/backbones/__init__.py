"""Backbones: images to feature maps."""

from typing import Any

import jax.numpy as jnp

from jaxreid.models.backbones import osnet, osnet_search, resnet, vit
from jaxreid.models.backbones.backbone import Backbone
from jaxreid.names import Table, check_name

BACKBONES = Table("backbone", {}, base="jaxreid.models.backbones.backbone:Backbone")
BACKBONES.add(resnet.FAMILY, resnet.ResNet)
BACKBONES.add(osnet.FAMILY, osnet.OSNet)
BACKBONES.add(osnet_search.FAMILY, osnet_search.SuperNet)
BACKBONES.add(vit.FAMILY, vit.ViT)

DTYPES = ("float32", "bfloat16", "float64")


def make_backbone(
    name: str, *, dtype: str = "float32", axis_name: str | None = None, **options: Any
) -> Backbone:
    """Build a backbone, which maps normalised pixels [B, H, W, 3] to [B, h, w, c].

    Args:
        name: one of `BACKBONES`, named after the published weights, or package.module:Class.
        dtype: dtype of the convolutions, "float32" or "bfloat16" ("float64" for tests).
        axis_name: mesh axis over which the batch is sharded.
        **options: attributes of the backbone that its name does not imply.

    Raises:
        ValueError: unknown name or option, or option out of range.
    """
    check_name(dtype, DTYPES, "model.dtype")
    return BACKBONES.make(name, options, dtype=jnp.dtype(dtype), axis_name=axis_name)
