"""Necks: the feature map of a backbone to local features or to one embedding."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxreid.models.necks import multi_scale
from jaxreid.models.necks.basic import MAP_NORMS, POOLS, LinearNeck, MapNeck, PooledNeck
from jaxreid.models.necks.multi_scale import MultiScaleNeck
from jaxreid.names import check_at_least, check_name, check_options

NECKS = {
    "map": MapNeck,
    "multi_scale": MultiScaleNeck,
    "pooled": PooledNeck,
    "linear": LinearNeck,
}
FEATURES = {  # what each makes
    "map": "map",
    "multi_scale": "multi-scale map",
    "pooled": "embedding",
    "linear": "embedding",
}


def make_neck(
    name: str, *, dtype: str = "float32", axis_name: str | None = None, **options: Any
) -> nn.Module:
    """A neck by name: feature map [B, h, w, c] to local features or to one embedding.

    Args:
        name: "map" or "multi_scale" (local features [B, h, w, d]), "pooled" or "linear"
            (embeddings [B, d]).
        dtype: as for `make_backbone`.
        axis_name: as for `make_backbone`.
        **options: attributes of the neck (`channels`, `norm`, `pool`, `bn`, `affine`; of
            "multi_scale" see there).

    Raises:
        ValueError: an unknown name, or an option out of its range.
    """
    check_name(name, tuple(NECKS), "neck")
    check_options(NECKS[name], options, f"neck {name!r}")
    if name == "multi_scale":
        options = _multi_scale(options)
    else:
        check_at_least(options, {"channels": 0 if name == "map" else 1}, "neck")
        check_name(options.get("norm", "batch"), MAP_NORMS, "neck.norm")
        check_name(options.get("pool", "average"), POOLS, "neck.pool")
    return NECKS[name](dtype=jnp.dtype(dtype), axis_name=axis_name, **options)


def _multi_scale(options: dict[str, Any]) -> dict[str, Any]:
    check_name(options.get("norm", "position"), tuple(multi_scale.NORMS), "neck.norm")
    check_name(options.get("fusion", "score"), multi_scale.FUSIONS, "neck.fusion")
    least = {"channels": 1, "template_channels": 0, "attention_layers": 0, "hidden": 1}
    check_at_least(options, least, "neck")
    scales = tuple(options.get("scales", MultiScaleNeck.scales))
    odd = all(type(size) is int and size > 0 and size % 2 for size in scales)
    if len(set(scales)) < len(scales) or not odd:
        raise ValueError(f"neck.scales is {scales}; needed are different odd sizes, such as 1, 3.")
    if options.get("fusion") == "feature" and options.get("attention_layers") == 0:
        raise ValueError(
            "neck.fusion='feature' adds the encoder's output to every part, and "
            "neck.attention_layers=0 leaves the encoder out; set one of them otherwise."
        )
    return options | {"scales": scales}
