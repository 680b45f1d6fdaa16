"""Strong-baseline neck: one embedding with a BN neck."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.features import Features
from jaxreid.models.layers import BatchNorm, GeM
from jaxreid.models.necks.neck import Neck
from jaxreid.names import check_name

POOLS = ("average", "gem")


class PooledNeck(Neck):
    """One embedding: global pooling, then batch normalisation.

    Attributes:
        pool: "average" or "gem".
        bn: end with a batch normalisation without bias, the "BN neck": metric losses use its input,
            classification and matching its output.
        axis_name: mesh axis over which the batch is sharded.

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
        """Raise ValueError for an unknown pooling."""
        check_name(self.pool, POOLS, "neck.pool")

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map [B, h, w, c] to [B, c]; pooling runs in float32 or wider."""
        return self.with_before(x, train=train)[0]

    @nn.compact
    def with_before(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Map [B, h, w, c] to [B, c], and to the [B, c] before the BN neck."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        pooled = GeM(name="gem")(x) if self.pool == "gem" else x.mean((1, 2))
        if not self.bn:
            return pooled, pooled
        norm = BatchNorm(train=train, axis_name=self.axis_name, use_bias=False, name="bn")
        return norm(pooled), pooled
