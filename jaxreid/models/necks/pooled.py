"""The neck of strong baselines: one embedding, and a BN neck."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.features import Features
from jaxreid.models.layers import BatchNorm, GeM
from jaxreid.models.necks.neck import Neck
from jaxreid.names import check_name

POOLS = ("average", "gem")


class PooledNeck(Neck):
    """One embedding: the mean over all positions, batch-normalised.

    Attributes:
        pool: "average" or "gem".
        bn: end with a batch normalisation without bias, the "BN neck": losses on distances read
            what is before it, classification and matching what comes after.
        axis_name: mesh axis over which the batch is spread.

    Source: Luo et al., CVPRW 2019, Section 3.5.
    """

    pool: str = "average"
    bn: bool = True
    axis_name: str | None = None

    @property
    def features(self) -> Features:
        """Embeddings."""
        return Features("embedding")

    @nn.nowrap
    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an unknown pooling.
        """
        check_name(self.pool, POOLS, "neck.pool")

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, h, w, c] -> [B, c]; the mean is taken in float32 or wider."""
        return self.with_before(x, train=train)[0]

    @nn.compact
    def with_before(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """[B, h, w, c] -> [B, c], and the [B, c] that precede the BN neck."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        pooled = GeM(name="gem")(x) if self.pool == "gem" else x.mean((1, 2))
        if not self.bn:
            return pooled, pooled
        norm = BatchNorm(train=train, axis_name=self.axis_name, use_bias=False, name="bn")
        return norm(pooled), pooled
