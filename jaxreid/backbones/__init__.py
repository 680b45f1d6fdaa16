"""Backbones, which turn images into feature maps, and the necks that finish their features."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxreid.backbones import osnet, resnet
from jaxreid.backbones.necks import MAP_NORMS, POOLS, LinearNeck, MapNeck, PooledNeck
from jaxreid.backbones.osnet import OSNet
from jaxreid.backbones.resnet import ResNet
from jaxreid.names import check_name

RESNETS = {f"resnet{depth}": {"depth": depth} for depth in resnet.BLOCKS} | {
    f"resnet{depth}_ibn_{ibn}": {"depth": depth, "ibn": ibn}
    for depth in resnet.IBN_DEPTHS
    for ibn in ("a", "b")
}
OSNETS = (
    {f"osnet_{width}": {"channels": c} for width, c in osnet.WIDTHS.items()}
    | {"osnet_ibn_x1_0": {"stem": "instance", "blocks": osnet.IBN}}
    | {
        f"osnet_ain_{width}": {"channels": c, "stem": "instance", "blocks": osnet.AIN}
        for width, c in osnet.WIDTHS.items()
    }
)
NAMES = (*RESNETS, *OSNETS)
NECKS = {"map": MapNeck, "pooled": PooledNeck, "linear": LinearNeck}
DTYPES = ("float32", "bfloat16", "float64")


def make_backbone(
    name: str, *, dtype: str = "float32", axis_name: str | None = None, **options: Any
) -> nn.Module:
    """A backbone by name: normalised pixels [B, H, W, 3] to a feature map [B, h, w, c].

    Args:
        name: one of `NAMES`, the names under which its weights are published.
        dtype: "float32" or "bfloat16", the type of its convolutions ("float64" for tests).
        axis_name: mesh axis over which a batch is spread.
        **options: of a ResNet `cut`, `last_stride`, `width`; OSNet has none.

    Raises:
        ValueError: an unknown name, or an option out of its range.
    """
    check_name(name, NAMES, "backbone")
    check_name(dtype, DTYPES, "model.dtype")
    common = {"dtype": jnp.dtype(dtype), "axis_name": axis_name}
    known = ("cut", "last_stride", "width") if name in RESNETS else ()
    if unknown := options.keys() - set(known):
        raise ValueError(
            f"backbone {name} has no option {', '.join(sorted(unknown))}; it has "
            f"{', '.join(known) or 'none'} (a backbone can be given in the argument of a "
            f"configuration, which then leaves out other backbones' options: "
            f"configs/qaconv.py:market1501,{name})."
        )
    if name in OSNETS:
        return OSNet(**OSNETS[name], **common)
    check_name(options.get("cut", "layer4"), resnet.CUTS, "backbone.cut")
    if options.get("last_stride", 2) not in (1, 2):
        raise ValueError(f"backbone.last_stride is {options['last_stride']}; it is 1 or 2.")
    return ResNet(**RESNETS[name], **options, **common)


def make_neck(
    name: str, *, dtype: str = "float32", axis_name: str | None = None, **options: Any
) -> nn.Module:
    """A neck by name: feature map [B, h, w, c] to local features or to one embedding.

    Args:
        name: "map" (local features [B, h, w, d]), "pooled" or "linear" (embeddings [B, d]).
        dtype: as for `make_backbone`.
        axis_name: as for `make_backbone`.
        **options: attributes of the neck (`channels`, `norm`, `pool`, `bn`).

    Raises:
        ValueError: an unknown name, or an option out of its range.
    """
    check_name(name, tuple(NECKS), "neck")
    check_name(options.get("norm", "batch"), MAP_NORMS, "neck.norm")
    check_name(options.get("pool", "average"), POOLS, "neck.pool")
    return NECKS[name](dtype=jnp.dtype(dtype), axis_name=axis_name, **options)
