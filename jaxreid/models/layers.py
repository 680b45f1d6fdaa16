"""Layers shared by the backbones, with PyTorch's padding and batch statistics."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.mesh import kept_whole
from jaxreid.ops.convolution import convolve
from jaxreid.ops.metrics import similarity
from jaxreid.ops.normalize import batch_norm, instance_norm

# Weight initialisation.
#   he       He et al., ICCV 2015, fan-out, for convolutions; normal(0.01) for linear layers; zero
#            biases. Used by ResNet and OSNet.
#   uniform  PyTorch's default, which depends on the fan-in only
INITIALIZERS = ("he", "uniform")
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
linear_init = nn.initializers.normal(0.01)


def uniform_init(inputs: float) -> Callable[..., jax.Array]:
    """Return PyTorch's default initializer for weights and biases of a layer of fan-in `inputs`."""
    bound = inputs**-0.5

    def uniform(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return uniform


def conv_inits(initializer: str, inputs: int) -> dict[str, Callable]:
    """Return the keywords `kernel_init` and `bias_init` of a convolution.

    Args:
        initializer: one of `INITIALIZERS`.
        inputs: fan-in.
    """
    return _inits(initializer, inputs, conv_init)


def linear_inits(initializer: str, inputs: int) -> dict[str, Callable]:
    """Return the keywords `kernel_init` and `bias_init` of a linear layer; see `conv_inits`."""
    return _inits(initializer, inputs, linear_init)


def _inits(initializer: str, inputs: int, he: Callable) -> dict[str, Callable]:
    if initializer == "he":
        return {"kernel_init": he, "bias_init": nn.initializers.zeros}
    uniform = uniform_init(inputs)
    return {"kernel_init": uniform, "bias_init": uniform}


class Conv(nn.Module):
    """Square convolution with PyTorch's symmetric padding.

    Attributes:
        features: output channels.
        kernel: kernel size, odd.
        stride: stride in both directions.
        depthwise: depthwise convolution; `features` must equal the input channels.
        dtype: compute dtype; parameters are float32.
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
        """Map [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
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
        train: normalise with batch statistics and update the running ones.
        axis_name: mesh axis over which the batch is sharded.
        use_bias: learn a bias per channel, if `affine`.
        affine: learn a scale per channel, and a bias if `use_bias`.

    Differs: keeps the unbiased running variance, as PyTorch does; Flax keeps the biased one.
    """

    train: bool
    axis_name: str | None = None
    use_bias: bool = True
    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise [..., C]."""
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
    """Instance normalisation: each channel of each image by its own statistics, also in evaluation.

    Removes camera style (illumination, colour cast) from the features.

    Attributes:
        affine: learn a scale and a bias per channel.

    Source: Ulyanov et al., 2016; for recognition Pan et al. (IBN-Net), ECCV 2018.
    """

    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise [B, h, w, C]."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape) if self.affine else 1.0
        bias = self.param("bias", nn.initializers.zeros, shape) if self.affine else 0.0
        return kept_whole(instance_norm)(x, scale, bias)


class InstanceBatchNorm(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest.

    Attributes:
        train: see `BatchNorm`.
        axis_name: see `BatchNorm`.

    Source: IBN-Net-a (Pan et al., ECCV 2018).
    """

    train: bool
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise [B, h, w, C]."""
        first, rest = jnp.split(x, [x.shape[-1] // 2], axis=-1)
        instance = InstanceNorm(name="IN")(first)
        batch = BatchNorm(train=self.train, axis_name=self.axis_name, name="BN")(rest)
        return jnp.concatenate([instance, batch], axis=-1)


class ChannelGate(nn.Module):
    """Channel gate: a sigmoid weight per channel, computed from the channel means of the map.

    Attributes:
        reduction: ratio of input channels to hidden units.
        dtype: compute dtype.
        initializer: one of `INITIALIZERS`.

    Source: the unified aggregation gate of OSNet, ICCV 2019, Section 3.2. All streams of a block
    call one gate and share its weights.
    """

    reduction: int = 16
    dtype: jnp.dtype = jnp.float32
    initializer: str = "he"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Gate [..., h, w, C]."""
        channels = x.shape[-1]
        hidden = channels // self.reduction
        # 1x1 convolutions in the original, hence the initialisation of a convolution.
        init = functools.partial(conv_inits, self.initializer)
        gate = nn.Dense(hidden, dtype=self.dtype, name="fc1", **init(channels))(x.mean((-3, -2)))
        gate = nn.Dense(channels, dtype=self.dtype, name="fc2", **init(hidden))(nn.relu(gate))
        return x * nn.sigmoid(gate)[..., None, None, :]


def attention(projected: jax.Array, heads: int) -> jax.Array:
    """Compute self-attention from queries, keys and values [B, n, 3 d], side by side, as [B, n, d].

    The softmax runs in float32 or wider, the products in the dtype of the arguments. `heads` must
    divide d.
    """
    shape = (*projected.shape[:2], heads, -1)
    query, key, value = (part.reshape(shape) for part in jnp.split(projected, 3, axis=-1))
    wide = jnp.promote_types(projected.dtype, jnp.float32)
    logit = jnp.einsum("bnkd,bmkd->bknm", query, key, preferred_element_type=wide)
    weight = jax.nn.softmax(logit * query.shape[-1] ** -0.5).astype(value.dtype)
    return jnp.einsum("bknm,bmkd->bnkd", weight, value).reshape(*projected.shape[:2], -1)


class Classifier(nn.Module):
    """Linear classifier.

    Attributes:
        classes: number of classes.
        initializer: one of `INITIALIZERS`.
    """

    classes: int
    initializer: str = "he"

    @nn.compact
    def __call__(self, x: jax.Array, *, cosine: bool = False) -> jax.Array:
        """Map [B, d] to logits [B, classes], or to the cosines with the weights of the classes."""
        init = linear_inits(self.initializer, x.shape[-1])
        shape = (x.shape[-1], self.classes)
        kernel = self.param("kernel", init["kernel_init"], shape, jnp.float32)
        bias = self.param("bias", init["bias_init"], shape[1:], jnp.float32)
        if cosine:
            return similarity(x, kernel.T, "cosine")
        # Promote before the product, so that with float64 inputs the gradients are summed over the
        # devices in float64.
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias)
        return x @ kernel + bias


class GeM(nn.Module):
    """Generalised-mean pooling: average for p = 1, maximum as p grows.

    Attributes:
        initial_p: initial value of the learned exponent.

    Source: Radenovic et al., TPAMI 2019, Section 3.2.
    """

    initial_p: float = 3.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool [B, h, w, C] to [B, C]."""
        p = self.param("p", nn.initializers.constant(self.initial_p), (1,))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return jnp.mean(jnp.maximum(wide, 1e-6) ** p, axis=(1, 2)) ** (1 / p)
