"""The neck of QAConv-MS: local features of several scales, and features that know the whole image.

Letters: B images, h w map size, n = h * w positions, d channels.

Source: Chen et al., ICME 2023, and TCSVT 34(9), 2024. Neither paper says everything; defaults are
what the authors' code computes, and the options are the other readings.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxreid.models.layers import Conv, uniform_init
from jaxreid.ops.normalize import l2_normalize

# What the output of a template kernel is normalised over, one after the other.
NORMS = {"position": ((1, 2),), "both": (3, (1, 2)), "channel": (3,)}
FUSIONS = ("score", "feature")


class EncoderLayer(nn.Module):
    """Self-attention, then a perceptron; each is added to its input and the sum layer-normalised.

    Attributes:
        hidden: units of the perceptron.
        dtype: of the products; sums, softmax and normalisation are float32 or wider.

    Source: Vaswani et al., 2017, with one head, without dropout and positions; initialised as
    PyTorch's TransformerEncoderLayer.
    """

    hidden: int = 2048
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, n, d] -> [B, n, d]."""
        d = x.shape[-1]

        def dense(features: int, inputs: int, name: str, **other: Callable) -> nn.Dense:
            init = {"kernel_init": uniform_init(inputs), "bias_init": uniform_init(inputs)}
            return nn.Dense(features, dtype=self.dtype, name=name, **init | other)

        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)
        xavier, zeros = nn.initializers.xavier_uniform(), nn.initializers.zeros
        in_proj = dense(3 * d, d, "in_proj", kernel_init=xavier, bias_init=zeros)
        query, key, value = jnp.split(in_proj(x), 3, axis=-1)
        logit = jnp.einsum("bnd,bmd->bnm", query, key, preferred_element_type=x.dtype)
        weight = jax.nn.softmax(logit * d**-0.5).astype(value.dtype)
        seen = jnp.einsum("bnm,bmd->bnd", weight, value)
        x = norm(name="norm1")(x + dense(d, d, "out_proj", bias_init=zeros)(seen))
        y = dense(d, self.hidden, "linear2")(nn.relu(dense(self.hidden, d, "linear1")(x)))
        return norm(name="norm2")(x + y)


class MultiScaleNeck(nn.Module):
    """Local features of several scales side by side, each to be compared with its like.

    A 3x3 convolution makes a map x. The parts are: x of unit length at every position ("pixel");
    for each scale k the output of k x k template kernels over that, which encode the patch around
    a position; and, unless it is left out, the output z of a transformer encoder whose tokens are
    the positions of x.

    Attributes:
        channels: of x, and of z.
        scales: sizes of the template kernels, odd and different; () for none.
        template_channels: template kernels of each scale; 0 for as many as `channels`.
        norm: of the template kernels' output. "position": each channel has unit length over all
            positions; with the pixels' unit length over channels this is the paper's pair of
            orthogonal normalisations. "both": first over channels, then over positions; "channel":
            over channels alone.
        attention_layers: of the encoder; 0 leaves it out.
        hidden: units of the perceptrons in the encoder.
        fusion: "score", z is a part like the others, and not normalised; "feature", z has unit
            length over channels and is compared along with every part.
        dtype: type of the convolutions and products.
        axis_name: unused; nothing here depends on the batch.

    Source: Chen et al., ICME 2023; TCSVT 2024 for the orthogonal normalisation.
    """

    channels: int = 512
    scales: tuple[int, ...] = (1, 3, 5)
    template_channels: int = 0
    norm: str = "position"
    attention_layers: int = 2
    hidden: int = 2048
    fusion: str = "score"
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @property
    def parts(self) -> dict[str, int]:
        """Channels of each part, by name, in order."""
        of_template = self.template_channels or self.channels
        parts = {"pixel": self.channels} | {f"{k}x{k}": of_template for k in self.scales}
        alone = self.attention_layers and self.fusion == "score"
        return parts | ({"attention": self.channels} if alone else {})

    @property
    def reaches(self) -> dict[str, int]:
        """How far around a position each part's template sees, by name, in order."""
        return dict.fromkeys(self.parts, 0) | {f"{k}x{k}": k // 2 for k in self.scales}

    @property
    def shared(self) -> int:
        """Channels after the parts, which belong to every part."""
        return self.channels if self.attention_layers and self.fusion == "feature" else 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, h, w, c] -> [B, h, w, sum of `parts` + `shared`]; training changes nothing."""

        def convolved(x: jax.Array, channels: int, size: int, name: str) -> jax.Array:
            init = uniform_init(size**2 * x.shape[-1])
            conv = Conv(
                channels, size, use_bias=True, dtype=self.dtype, kernel_init=init, bias_init=init,
                name=name,
            )  # fmt: skip
            y = conv(x)
            return y.astype(jnp.promote_types(y.dtype, jnp.float32))

        x = convolved(x, self.channels, 3, "conv")
        parts = [l2_normalize(x)]
        for size in self.scales:
            channels = self.template_channels or self.channels
            y = convolved(parts[0], channels, size, f"template_{size}")
            for axis in NORMS[self.norm]:
                y = l2_normalize(y, axis=axis)
            parts.append(y)
        if self.attention_layers:
            z = x.reshape(len(x), -1, self.channels)
            for i in range(self.attention_layers):
                z = EncoderLayer(self.hidden, self.dtype, name=f"encoder_{i}")(z)
            z = z.reshape(x.shape)
            parts.append(l2_normalize(z) if self.shared else z)
        return jnp.concatenate(parts, axis=-1)

    @nn.nowrap
    def average(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Features for an image of which there are two, such as its own and its mirror image's.

        Args:
            first: [B, h, w, d] float, what the neck returns.
            second: [B, h, w, d] float, likewise, of the same positions.

        Returns:
            [B, h, w, d]: the mean, in which every part again has unit length over what it was
            normalised over last. The mean of a feature with itself is that feature.
        """
        widths = (*self.parts.values(), *([self.shared] if self.shared else []))
        mean = jnp.split((first + second) / 2, np.cumsum(widths)[:-1], axis=-1)
        templates = range(1, 1 + len(self.scales))
        axes = {0: 3} | {i: NORMS[self.norm][-1] for i in templates}
        if self.shared:
            axes[len(widths) - 1] = 3
        parts = [l2_normalize(x, axis=axes[i]) if i in axes else x for i, x in enumerate(mean)]
        return jnp.concatenate(parts, axis=-1)
