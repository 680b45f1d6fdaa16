"""QAConv-MS neck: local features of several scales, and features with global context.

Notation: B images, h w map size, n = h * w positions, d channels.

Source: Chen et al., ICME 2023, and TCSVT 34(9), 2024. Both papers leave details open: the defaults
follow the authors' code, the options cover the other readings.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxreid.models.features import Features
from jaxreid.models.layers import Conv, attention, uniform_init
from jaxreid.models.necks.neck import Neck
from jaxreid.names import check_at_least, check_name
from jaxreid.ops.normalize import l2_normalize

# Axes over which the output of a template kernel is L2-normalised, in order.
NORMS = {"position": ((1, 2),), "both": (3, (1, 2)), "channel": (3,)}
FUSIONS = ("score", "feature")


class EncoderLayer(nn.Module):
    """Post-norm transformer encoder layer: self-attention, then an MLP, each with a residual.

    Attributes:
        hidden: hidden units of the MLP.
        dtype: dtype of the products; sums, softmax and normalisation use float32 or wider.
        heads: attention heads; must divide the channels.

    Source: Vaswani et al., 2017, without dropout and positional encoding; initialised like
    PyTorch's TransformerEncoderLayer.
    """

    hidden: int = 2048
    dtype: jnp.dtype = jnp.float32
    heads: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, n, d] to [B, n, d]."""
        d = x.shape[-1]

        def dense(features: int, inputs: int, name: str, **overrides: Callable) -> nn.Dense:
            init = {"kernel_init": uniform_init(inputs), "bias_init": uniform_init(inputs)}
            return nn.Dense(features, dtype=self.dtype, name=name, **init | overrides)

        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)
        xavier, zeros = nn.initializers.xavier_uniform(), nn.initializers.zeros
        in_proj = dense(3 * d, d, "in_proj", kernel_init=xavier, bias_init=zeros)
        attended = attention(in_proj(x), self.heads)
        x = norm(name="norm1")(x + dense(d, d, "out_proj", bias_init=zeros)(attended))
        y = dense(d, self.hidden, "linear2")(nn.relu(dense(self.hidden, d, "linear1")(x)))
        return norm(name="norm2")(x + y)


class MultiScaleNeck(Neck):
    """Local features of several scales, concatenated; the matcher compares part with part.

    A 3x3 convolution computes a map x. The parts are:

    - "pixel": x with unit norm at every position;
    - for each scale k, the output of k x k template kernels on the normalised x, which encode the
      patch around a position;
    - optionally z, the output of a transformer encoder whose tokens are the positions of x.

    If "pixel" and z are the only parts, "pixel" is not normalised, as in the original.

    Attributes:
        channels: channels of x and z.
        scales: sizes of the template kernels, odd and distinct; () for none.
        template_channels: output channels per scale; 0 for as many as `channels`.
        norm: L2 normalisation of the template kernels' output. "position": each channel over all
            positions; together with the channel norm of the pixels this is the paper's pair of
            orthogonal normalisations. "both": over channels, then over positions. "channel": over
            channels only.
        attention_layers: layers of the encoder; 0 for no encoder.
        hidden: hidden units of the encoder's MLPs.
        fusion: "score": z is a part like the others, not normalised. "feature": z has unit norm
            over channels and is compared together with every part.
        dtype: dtype of the convolutions and products.

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

    @property
    def features(self) -> Features:
        """Maps in parts, by name "pixel", "1x1", "3x3", ... and "attention"."""
        width = self.template_channels or self.channels
        parts = {"pixel": self.channels} | {f"{k}x{k}": width for k in self.scales}
        if self.attention_layers and self.fusion == "score":
            parts["attention"] = self.channels
        shared = self.channels if self.attention_layers and self.fusion == "feature" else 0
        reaches = dict.fromkeys(parts, 0) | {f"{k}x{k}": k // 2 for k in self.scales}
        return Features("map", parts, shared, reaches)

    @property
    def _axes(self) -> dict[str, tuple[int | tuple[int, ...], ...]]:
        """Normalisation axes of each part and of "shared", in order."""
        features = self.features
        axes = {part: NORMS[self.norm] for part in features.parts} | {"pixel": (3,), "shared": (3,)}
        if "attention" in features.parts:
            axes["attention"] = ()
            if not self.scales:
                axes["pixel"] = ()
        return axes

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if an option is out of range or two options contradict each other."""
        check_name(self.norm, tuple(NORMS), "neck.norm")
        check_name(self.fusion, FUSIONS, "neck.fusion")
        least = {"channels": 1, "template_channels": 0, "attention_layers": 0, "hidden": 1}
        check_at_least({name: getattr(self, name) for name in least}, least, "neck")
        odd = all(type(size) is int and size > 0 and size % 2 for size in self.scales)
        if len(set(self.scales)) < len(self.scales) or not odd:
            raise ValueError(
                f"neck.scales is {self.scales}; expected distinct odd sizes, such as 1, 3."
            )
        if self.fusion == "feature" and self.attention_layers == 0:
            raise ValueError(
                "neck.fusion='feature' adds the encoder's output to every part, but "
                "neck.attention_layers=0 disables the encoder; change one of them."
            )

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map [B, h, w, c] to [B, h, w, channels of all parts + `shared`]; ignores `train`."""

        def convolved(x: jax.Array, channels: int, size: int, name: str) -> jax.Array:
            init = uniform_init(size**2 * x.shape[-1])
            conv = Conv(
                channels, size, use_bias=True, dtype=self.dtype, kernel_init=init, bias_init=init,
                name=name,
            )  # fmt: skip
            y = conv(x)
            return y.astype(jnp.promote_types(y.dtype, jnp.float32))

        def normalized(x: jax.Array, part: str) -> jax.Array:
            for axis in self._axes[part]:
                x = l2_normalize(x, axis=axis)
            return x

        x = convolved(x, self.channels, 3, "conv")
        unit = l2_normalize(x)
        parts = [normalized(x, "pixel")]
        for size in self.scales:
            channels = self.template_channels or self.channels
            y = convolved(unit, channels, size, f"template_{size}")
            parts.append(normalized(y, f"{size}x{size}"))
        if self.attention_layers:
            z = x.reshape(x.shape[0], -1, self.channels)
            for i in range(self.attention_layers):
                z = EncoderLayer(self.hidden, self.dtype, name=f"encoder_{i}")(z)
            part = "attention" if self.fusion == "score" else "shared"
            parts.append(normalized(z.reshape(x.shape), part))
        return jnp.concatenate(parts, axis=-1)

    @nn.nowrap
    def average(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Average two features of an image and renormalise the parts; see `Neck.average`.

        Each part is renormalised over its last normalisation axes, if any, so that the mean of a
        feature with itself is that feature.
        """
        features, axes = self.features, self._axes
        widths = features.parts | ({"shared": features.shared} if features.shared else {})
        ends = np.cumsum(list(widths.values()))[:-1]
        parts = jnp.split((first + second) / 2, ends, axis=-1)
        normalized = [
            l2_normalize(x, axis=axes[part][-1]) if axes[part] else x
            for part, x in zip(widths, parts, strict=True)
        ]
        return jnp.concatenate(normalized, axis=-1)
