"""OSNet neck: one embedding from a linear layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.features import Features
from jaxreid.models.layers import BatchNorm, linear_inits
from jaxreid.models.necks.neck import Neck
from jaxreid.names import check_at_least


class LinearNeck(Neck):
    """One embedding: global average pooling, linear layer, BN and ReLU.

    Attributes:
        channels: channels of the embedding.
        affine: the BN learns a scale and a bias per channel; False in the architecture search of
            OSNet-AIN.
        axis_name: mesh axis over which the batch is sharded.
        initializer: one of `layers.INITIALIZERS`.

    Source: OSNet, Zhou et al., ICCV 2019.
    """

    channels: int = 512
    affine: bool = True
    axis_name: str | None = None
    initializer: str = "he"

    @property
    def features(self) -> Features:
        """Embeddings."""
        return Features("embedding")

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if `channels` is less than 1."""
        check_at_least({"channels": self.channels}, {"channels": 1}, "neck")

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map [B, h, w, c] to [B, channels], non-negative, in float32 or wider."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))
        init = linear_inits(self.initializer, x.shape[-1])
        x = nn.Dense(self.channels, name="fc", **init)(x)
        norm = BatchNorm(train=train, axis_name=self.axis_name, affine=self.affine, name="bn")
        return nn.relu(norm(x))
