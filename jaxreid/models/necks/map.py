"""QAConv neck: local features of unit norm."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.features import Features
from jaxreid.models.layers import BatchNorm, Conv, uniform_init
from jaxreid.models.necks.neck import Neck
from jaxreid.names import check_at_least, check_name
from jaxreid.ops.normalize import l2_normalize

NORMS = ("batch", "none")


class MapNeck(Neck):
    """Local features of unit norm.

    Attributes:
        channels: output channels of a 3x3 convolution; 0 for no convolution.
        norm: "batch" (batch norm, no bias: QAConv 1.0 to 2.0) or "none" (bias, no norm:
            QAConv 2.1).
        dtype: dtype of the convolution.
        axis_name: mesh axis over which the batch is sharded.

    Source: Liao and Shao, ECCV 2020.
    """

    channels: int = 128
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @property
    def features(self) -> Features:
        """Maps without parts."""
        return Features("map")

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if an option is out of range."""
        check_at_least({"channels": self.channels}, {"channels": 0}, "neck")
        check_name(self.norm, NORMS, "neck.norm")

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map [B, h, w, c] to [B, h, w, channels], with unit norm along the last axis."""
        if self.channels:
            init = uniform_init(9 * x.shape[-1])
            x = Conv(
                self.channels,
                3,
                use_bias=self.norm == "none",
                dtype=self.dtype,
                kernel_init=init,
                bias_init=init,
                name="conv",
            )(x)
            if self.norm == "batch":
                x = BatchNorm(train=train, axis_name=self.axis_name, name="bn")(x)
        return l2_normalize(x.astype(jnp.promote_types(x.dtype, jnp.float32)))

    @nn.nowrap
    def average(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Average two features of an image and normalise the result to unit norm."""
        return l2_normalize(first + second)
