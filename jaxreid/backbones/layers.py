"""Layers that the backbones share, with PyTorch's geometry and statistics."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.ops.normalize import EPSILON, batch_norm, moments

# He et al., ICCV 2015, over the outputs of a convolution: the initialisation of ResNet.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    Attributes:
        train: normalise with the statistics of the batch and update the running ones.
        axis_name: mesh axis over which the batch is spread.

    Differs: Flax's own keeps the biased running variance; this one keeps PyTorch's unbiased one.
    """

    train: bool
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        axes = tuple(range(x.ndim - 1))
        y, running = batch_norm(
            x,
            scale,
            bias,
            (mean.value, var.value),
            axes=axes,
            train=self.train and not self.is_initializing(),
            axis_name=self.axis_name,
        )
        if self.train and not self.is_initializing():
            mean.value, var.value = running
        return y


class InstanceNorm(nn.Module):
    """Normalisation of each channel of each image by its own statistics, in training and after.

    It takes the look of a camera (light, colour cast) out of the features.

    Source: IBN-Net (Pan et al., ECCV 2018), as used by QAConv 1.1 and later.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, C]."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, variance, _ = moments(wide, axes=(1, 2))
        mean, variance = mean[:, None, None], variance[:, None, None]
        return ((wide - mean) * jax.lax.rsqrt(variance + EPSILON) * scale + bias).astype(x.dtype)


def conv(
    features: int,
    kernel: int,
    *,
    stride: int = 1,
    use_bias: bool = False,
    dtype: jnp.dtype = jnp.float32,
    kernel_init: Callable = conv_init,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution with PyTorch's symmetric padding of `kernel // 2`.

    "SAME" would pad a stride of 2 on one side only, and converted weights would be read one pixel
    off.
    """
    pad = kernel // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=[(pad, pad), (pad, pad)],
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=kernel_init,
        name=name,
    )


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum, stride 2, padded with minus infinity: [B, h, w, C] -> half the size."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)])
