"""Necks: the feature map of a backbone to local features or to one embedding."""

from typing import Any

import jax.numpy as jnp

from jaxreid.models.necks.neck import Neck
from jaxreid.names import Table

NECKS = Table(
    "neck",
    {
        "map": "jaxreid.models.necks.map:MapNeck",
        "multi_scale": "jaxreid.models.necks.multi_scale:MultiScaleNeck",
        "transformer": "jaxreid.models.necks.transmatcher:TransformerNeck",
        "pooled": "jaxreid.models.necks.pooled:PooledNeck",
        "linear": "jaxreid.models.necks.linear:LinearNeck",
    },
    base="jaxreid.models.necks.neck:Neck",
)


def make_neck(
    name: str,
    *,
    dtype: str = "float32",
    axis_name: str | None = None,
    initializer: str = "he",
    **options: Any,
) -> Neck:
    """A neck by name: feature map [B, h, w, c] to local features or to one embedding.

    Args:
        name: one of `NECKS`, or package.module:Class.
        dtype: as for `make_backbone`.
        axis_name: as for `make_backbone`.
        initializer: one of `layers.INITIALIZERS`, as the backbone's.
        **options: attributes of the neck.

    Raises:
        ValueError: an unknown name or option, or an option out of its range.
    """
    context = {"dtype": jnp.dtype(dtype), "axis_name": axis_name, "initializer": initializer}
    return NECKS.make(name, options, **context)
