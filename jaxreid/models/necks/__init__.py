"""Necks: backbone feature maps to local features or to one embedding."""

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
    """Build a neck, which maps [B, h, w, c] to local features or to one embedding.

    `name` is one of `NECKS` or package.module:Class, `initializer` that of the backbone and
    `options` are attributes of the neck. For `dtype` and `axis_name` see `make_backbone`.

    Raises:
        ValueError: unknown name or option, or option out of range.
    """
    context = {"dtype": jnp.dtype(dtype), "axis_name": axis_name, "initializer": initializer}
    return NECKS.make(name, options, **context)
