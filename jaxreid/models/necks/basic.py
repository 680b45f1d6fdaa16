"""Necks: the feature map of a backbone to what a matcher compares."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.layers import BatchNorm, Conv, GeM, linear_init, uniform_init
from jaxreid.ops.normalize import l2_normalize

MAP_NORMS = ("batch", "none")
POOLS = ("average", "gem")


class MapNeck(nn.Module):
    """Local features of unit length.

    Attributes:
        channels: of a 3x3 convolution; 0 leaves it out.
        norm: "batch" (no bias, batch normalisation: QAConv 1.0 to 2.0) or "none" (with bias:
            QAConv 2.1).
        dtype: type of the convolution.
        axis_name: mesh axis over which the batch is spread.

    Source: Liao and Shao, ECCV 2020.
    """

    channels: int = 128
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, h, w, c] -> [B, h, w, channels], unit norm along the last axis."""
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
        """Features for an image of which there are two; of unit length again."""
        return l2_normalize(first + second)


class PooledNeck(nn.Module):
    """One embedding: the mean over all positions, batch-normalised.

    Attributes:
        pool: "average" or "gem".
        bn: end with a batch normalisation without bias, the "BN neck": losses on distances read
            what is before it, classification and matching what comes after.
        dtype: unused; the mean is taken in float32.
        axis_name: mesh axis over which the batch is spread.

    Source: Luo et al., CVPRW 2019, Section 3.5.
    """

    pool: str = "average"
    bn: bool = True
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, before: bool = False
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """[B, h, w, c] -> [B, c]; with `before` also the [B, c] that precede the BN neck."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        pooled = x = GeM(name="gem")(x) if self.pool == "gem" else x.mean((1, 2))
        if self.bn:
            norm = BatchNorm(train=train, axis_name=self.axis_name, use_bias=False, name="bn")
            x = norm(x)
        return (x, pooled) if before else x

    @nn.nowrap
    def average(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Features for an image of which there are two: the mean."""
        return (first + second) / 2


class LinearNeck(nn.Module):
    """One embedding: the mean over all positions through a linear layer, BN and ReLU.

    Attributes:
        channels: of the embedding.
        affine: the BN learns a scale and a bias for each channel. The architecture search of
            OSNet-AIN leaves them out.
        dtype: unused; the embedding is computed in float32.
        axis_name: mesh axis over which the batch is spread.

    Source: OSNet, Zhou et al., ICCV 2019.
    """

    channels: int = 512
    affine: bool = True
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, before: bool = False
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """[B, h, w, c] -> [B, channels]; with `before` twice: no BN neck is between the two."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))
        x = nn.Dense(self.channels, kernel_init=linear_init, name="fc")(x)
        norm = BatchNorm(train=train, axis_name=self.axis_name, affine=self.affine, name="bn")
        x = nn.relu(norm(x))
        return (x, x) if before else x

    average = PooledNeck.average
