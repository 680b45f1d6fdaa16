"""Layers that the backbones share, with PyTorch's geometry and statistics."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.ops.convolution import convolve
from jaxreid.ops.normalize import EPSILON, batch_norm, moments

# Weights before training.
#   he       He et al., ICCV 2015, over the outputs of a convolution, linear layers near 0 and no
#            biases: that of ResNet and OSNet
#   uniform  PyTorch's default, which depends on the inputs alone
INITIALIZERS = ("he", "uniform")
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
linear_init = nn.initializers.normal(0.01)


def uniform_init(inputs: float) -> Callable[..., jax.Array]:
    """PyTorch's default for weights and biases of a layer that sums `inputs` numbers."""
    bound = inputs**-0.5

    def uniform(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return uniform


def conv_inits(initializer: str, inputs: int) -> dict[str, Callable]:
    """Keywords `kernel_init` and `bias_init` of a convolution.

    Args:
        initializer: one of `INITIALIZERS`.
        inputs: numbers that each output sums.
    """
    return _inits(initializer, inputs, conv_init)


def linear_inits(initializer: str, inputs: int) -> dict[str, Callable]:
    """As `conv_inits`, of a linear layer."""
    return _inits(initializer, inputs, linear_init)


def _inits(initializer: str, inputs: int, he: Callable) -> dict[str, Callable]:
    if initializer == "he":
        return {"kernel_init": he, "bias_init": nn.initializers.zeros}
    uniform = uniform_init(inputs)
    return {"kernel_init": uniform, "bias_init": uniform}


class Conv(nn.Module):
    """A square convolution with PyTorch's symmetric padding.

    Attributes:
        features: channels that come out.
        kernel: its size, odd.
        stride: in both directions.
        use_bias: add a bias for each channel.
        depthwise: each channel on its own; `features` are those that come in.
        dtype: of the computation; parameters are float32.
        kernel_init: of its weights.
        bias_init: of its bias.
    """

    features: int
    kernel: int
    stride: int = 1
    use_bias: bool = False
    depthwise: bool = False
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = conv_init
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]."""
        inputs = 1 if self.depthwise else x.shape[-1]
        shape = (self.kernel, self.kernel, inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
            y = y + bias.astype(self.dtype)
        return y


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    Attributes:
        train: normalise with the statistics of the batch and update the running ones.
        axis_name: mesh axis over which the batch is spread.
        use_bias: add a bias for each channel.
        affine: learn a scale for each channel, and the bias.

    Differs: Flax's own keeps the biased running variance; this one keeps PyTorch's unbiased one.
    """

    train: bool
    axis_name: str | None = None
    use_bias: bool = True
    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape) if self.affine else 1.0
        biased = self.affine and self.use_bias
        bias = self.param("bias", nn.initializers.zeros, shape) if biased else 0.0
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

    Attributes:
        affine: learn a scale and a bias for each channel.

    Source: Ulyanov et al., 2016; in recognition Pan et al. (IBN-Net), ECCV 2018.
    """

    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, C]."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape) if self.affine else 1.0
        bias = self.param("bias", nn.initializers.zeros, shape) if self.affine else 0.0
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, variance, _ = moments(wide, axes=(1, 2))
        mean, variance = mean[:, None, None], variance[:, None, None]
        return ((wide - mean) * jax.lax.rsqrt(variance + EPSILON) * scale + bias).astype(x.dtype)


class InstanceBatchNorm(nn.Module):
    """The first half of the channels normalised by instance, the rest by batch.

    Attributes:
        train: as for `BatchNorm`.
        axis_name: as for `BatchNorm`.

    Source: IBN-Net-a (Pan et al., ECCV 2018).
    """

    train: bool
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, C]."""
        half = x.shape[-1] // 2
        instance = InstanceNorm(name="IN")(x[..., :half])
        batch = BatchNorm(train=self.train, axis_name=self.axis_name, name="BN")(x[..., half:])
        return jnp.concatenate([instance, batch], axis=-1)


class ChannelGate(nn.Module):
    """Weighs each channel by its mean over the whole map.

    Attributes:
        reduction: channels for each one of the hidden layer.
        dtype: of the computation.
        initializer: one of `INITIALIZERS`.

    Source: the unified aggregation gate of OSNet, ICCV 2019, Section 3.2. One gate, called for
    every stream of a block, has one set of weights.
    """

    reduction: int = 16
    dtype: jnp.dtype = jnp.float32
    initializer: str = "he"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., h, w, C] -> [..., h, w, C]."""
        channels = x.shape[-1]
        hidden = channels // self.reduction
        # 1x1 convolutions in the originals, and initialised as such.
        init = functools.partial(conv_inits, self.initializer)
        gate = nn.Dense(hidden, dtype=self.dtype, name="fc1", **init(channels))(x.mean((-3, -2)))
        gate = nn.Dense(channels, dtype=self.dtype, name="fc2", **init(hidden))(nn.relu(gate))
        return x * nn.sigmoid(gate)[..., None, None, :]


class Classifier(nn.Module):
    """Logits of classes: a linear layer.

    Attributes:
        classes: there are.
        initializer: one of `INITIALIZERS`.
    """

    classes: int
    initializer: str = "he"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, d] -> [B, classes]."""
        init = linear_inits(self.initializer, x.shape[-1])
        shape = (x.shape[-1], self.classes)
        kernel = self.param("kernel", init["kernel_init"], shape, jnp.float32)
        bias = self.param("bias", init["bias_init"], shape[1:], jnp.float32)
        # Before the product: in double precision, gradients are then added up over devices in it.
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias)
        return x @ kernel + bias


class GeM(nn.Module):
    """Generalised mean over the positions, between their average (p = 1) and their maximum.

    Attributes:
        initial_p: the exponent before training; it is learned.

    Source: Radenovic et al., TPAMI 2019, Section 3.2.
    """

    initial_p: float = 3.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, C]."""
        p = self.param("p", nn.initializers.constant(self.initial_p), (1,))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.mean(jnp.maximum(wide, 1e-6) ** p, axis=(1, 2)) ** (1 / p)
