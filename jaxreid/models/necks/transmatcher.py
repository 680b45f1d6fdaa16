"""TransMatcher neck: a feature map, and the outputs of successive encoder layers on it.

Notation: B images, h w map size, n = h * w positions, d channels.

Source: Liao and Shao, NeurIPS 2021, arXiv 2105.14432.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.features import Features
from jaxreid.models.layers import Conv, uniform_init
from jaxreid.models.necks.multi_scale import EncoderLayer
from jaxreid.models.necks.neck import Neck
from jaxreid.names import check_at_least


class TransformerNeck(Neck):
    """A feature map and the output of each transformer encoder layer, concatenated.

    A 3x3 convolution computes the map; its positions are the tokens of the encoder, without
    positional encoding. Neither the map nor the output of the last layer is normalised further. All
    encoder layers start as copies of the first, as in PyTorch's TransformerEncoder.

    Attributes:
        channels: channels of the convolution and of each part; 0 for no convolution, which keeps
            the backbone's channels.
        attention_layers: layers of the encoder; 0 for the map only.
        hidden: hidden units of the encoder's MLPs.
        heads: attention heads; must divide the channels.
        dtype: dtype of the convolution and of the encoder's products.

    Source: Liao and Shao, NeurIPS 2021.
    """

    channels: int = 512
    attention_layers: int = 2
    hidden: int = 2048
    heads: int = 1
    dtype: jnp.dtype = jnp.float32

    @property
    def features(self) -> Features:
        """Maps in parts of equal width, by name "map", "encoder_1", "encoder_2", ..."""
        names = "map", *(f"encoder_{i + 1}" for i in range(self.attention_layers))
        return Features("map", dict.fromkeys(names, self.channels), 0, dict.fromkeys(names, 0))

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if an option is out of range."""
        least = {"channels": 0, "attention_layers": 0, "hidden": 1, "heads": 1}
        check_at_least({name: getattr(self, name) for name in least}, least, "neck")

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map [B, h, w, c] to [B, h, w, parts * d]; ignores `train`.

        Raises:
            ValueError: if `heads` does not divide the channels.
        """
        if self.channels:
            init = uniform_init(9 * x.shape[-1])
            options = {"dtype": self.dtype, "kernel_init": init, "bias_init": init}
            x = Conv(self.channels, 3, use_bias=True, name="conv", **options)(x)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if x.shape[-1] % self.heads:
            raise ValueError(
                f"{self.heads} heads do not divide {x.shape[-1]} channels; change neck.heads or "
                "neck.channels."
            )
        layer = EncoderLayer(self.hidden, self.dtype, self.heads, parent=None)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        parts = [tokens]
        for i in range(self.attention_layers):
            params = self.param(f"encoder_{i}", self._start, layer, tokens)
            parts.append(layer.apply({"params": params}, parts[-1]))
        return jnp.concatenate(parts, axis=-1).reshape(*x.shape[:3], -1)

    def _start(self, key: jax.Array, layer: EncoderLayer, tokens: jax.Array) -> Any:
        """Initialise a layer's parameters, as a copy of the first layer's if that exists."""
        if self.has_variable("params", "encoder_0"):
            return self.get_variable("params", "encoder_0")
        return layer.init(key, tokens)["params"]
