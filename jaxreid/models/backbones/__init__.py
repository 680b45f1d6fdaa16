"""Backbones: images to feature maps."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxreid.models.backbones import osnet, resnet
from jaxreid.models.backbones.osnet import OSNet
from jaxreid.models.backbones.osnet_search import SuperNet
from jaxreid.models.backbones.resnet import ResNet
from jaxreid.names import check_name

RESNETS = {f"resnet{depth}": {"depth": depth} for depth in resnet.BLOCKS} | {
    f"resnet{depth}_ibn_{ibn}": {"depth": depth, "ibn": ibn}
    for depth in resnet.IBN_DEPTHS
    for ibn in ("a", "b")
}
OSNETS = (
    {f"osnet_{width}": {"channels": c} for width, c in osnet.WIDTHS.items()}
    | {  # weights are published of the first alone
        f"osnet_ibn_{width}": {"channels": c, "stem": "instance", "blocks": osnet.IBN}
        for width, c in osnet.WIDTHS.items()
    }
    | {
        f"osnet_ain_{width}": {"channels": c, "stem": "instance", "blocks": osnet.AIN}
        for width, c in osnet.WIDTHS.items()
    }
)
SEARCHES = {f"osnet_search_{width}": {"channels": c} for width, c in osnet.WIDTHS.items()}
NAMES = (*RESNETS, *OSNETS, *SEARCHES)
TEMPERATURE = tuple(f"temperature{part}" for part in ("", "_factor", "_every", "_floor"))
DTYPES = ("float32", "bfloat16", "float64")


def make_backbone(
    name: str, *, dtype: str = "float32", axis_name: str | None = None, **options: Any
) -> nn.Module:
    """A backbone by name: normalised pixels [B, H, W, 3] to a feature map [B, h, w, c].

    Args:
        name: one of `NAMES`, the names under which its weights are published, if they are.
        dtype: "float32" or "bfloat16", the type of its convolutions ("float64" for tests).
        axis_name: mesh axis over which a batch is spread.
        **options: of a ResNet `cut`, `last_stride`, `width`; of an OSNet `stem` and `blocks`, which
            replace those of the name: any architecture of OSNet-AIN's search space; of the
            super-network of that search (`osnet_search_*`) `temperature` and its relatives.

    Raises:
        ValueError: an unknown name, or an option out of its range.
    """
    check_name(name, NAMES, "backbone")
    check_name(dtype, DTYPES, "model.dtype")
    common = {"dtype": jnp.dtype(dtype), "axis_name": axis_name}
    if name in RESNETS:
        known = ("cut", "last_stride", "width")
    else:
        known = TEMPERATURE if name in SEARCHES else ("stem", "blocks")
    if unknown := options.keys() - set(known):
        raise ValueError(
            f"backbone {name} has no option {', '.join(sorted(unknown))}; it has "
            f"{', '.join(known)} (a backbone can be given in the argument of a "
            f"configuration, which then leaves out other backbones' options: "
            f"configs/qaconv.py:market1501,{name})."
        )
    if name in SEARCHES:
        return _super_net(SEARCHES[name] | options, common)
    if name in OSNETS:
        return _osnet(OSNETS[name] | options, common)
    check_name(options.get("cut", "layer4"), resnet.CUTS, "backbone.cut")
    if options.get("last_stride", 2) not in (1, 2):
        raise ValueError(f"backbone.last_stride is {options['last_stride']}; it is 1 or 2.")
    return ResNet(**RESNETS[name], **options, **common)


def _osnet(options: dict[str, Any], common: dict[str, Any]) -> OSNet:
    check_name(options.get("stem", "batch"), osnet.STEMS, "backbone.stem")
    blocks = tuple(options.get("blocks", osnet.PLAIN))
    for place in blocks:
        check_name(place, osnet.PLACES, "place in backbone.blocks")
    if len(blocks) != len(osnet.BLOCKS):
        raise ValueError(
            f"backbone.blocks has {len(blocks)} places; needed are {len(osnet.BLOCKS)}, one for "
            f"each of {', '.join(osnet.BLOCKS)}."
        )
    return OSNet(**options | {"blocks": blocks}, **common)


def _super_net(options: dict[str, Any], common: dict[str, Any]) -> SuperNet:
    net = SuperNet(**options, **common)
    if min(net.temperature, net.temperature_factor, net.temperature_floor) <= 0:
        raise ValueError(
            "backbone.temperature, temperature_factor and temperature_floor are "
            f"{net.temperature}, {net.temperature_factor} and {net.temperature_floor}; all must "
            "be greater than 0."
        )
    if net.temperature_every < 1:
        raise ValueError(
            f"backbone.temperature_every is {net.temperature_every}; needed is at least 1."
        )
    return net
