"""OSNet: multi-scale features in every block, at a tenth of ResNet's cost.

Source: Zhou et al., ICCV 2019, arXiv 1905.00953; OSNet-IBN and OSNet-AIN: TPAMI 2021, arXiv
1910.06827.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.backbones.backbone import Backbone
from jaxreid.models.layers import BatchNorm, ChannelGate, Conv, InstanceNorm, conv_inits
from jaxreid.names import check_name
from jaxreid.ops.convolution import average_pool, max_pool

WIDTHS = {
    "x1_0": (64, 256, 384, 512),
    "x0_75": (48, 192, 288, 384),
    "x0_5": (32, 128, 192, 256),
    "x0_25": (16, 64, 96, 128),
}
# Positions of instance norm in a block: the four candidates of the search for OSNet-AIN.
#   none      nowhere
#   residual  in the residual branch, in place of the batch norm
#   sum       after the residual addition, before the last ReLU
#   both      in both places
PLACES = ("none", "residual", "sum", "both")
STEMS = ("batch", "instance")
BLOCKS = ("conv2_0", "conv2_1", "conv3_0", "conv3_1", "conv4_0", "conv4_1")
PLAIN = ("none",) * len(BLOCKS)
IBN = ("sum", "sum", "none", "none", "none", "none")
AIN = ("residual", "residual", "none", "residual", "residual", "none")
STREAMS = 4

# Names of weights, and the options they imply. OSNet-IBN is published in the first width only.
FAMILY = {
    f"osnet_{kind}{width}": {"channels": channels} | options
    for kind, options in (
        ("", {}),
        ("ibn_", {"stem": "instance", "blocks": IBN}),
        ("ain_", {"stem": "instance", "blocks": AIN}),
    )
    for width, channels in WIDTHS.items()
}


class ConvNorm(nn.Module):
    """Convolution, normalisation and optional ReLU.

    Attributes:
        features: output channels.
        kernel: kernel size.
        norm: "batch", "instance" or "none".
        relu: end with a ReLU.
        train: use and update batch statistics.
        axis_name: mesh axis over which the batch is sharded.
        dtype: dtype of the convolution.
        affine: the normalisation learns a scale and a bias per channel.
        initializer: one of `layers.INITIALIZERS`.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    norm: str = "batch"
    relu: bool = True
    train: bool = False
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32
    affine: bool = True
    initializer: str = "he"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, h, w, C] to [B, h / stride, w / stride, features]."""
        options = {"stride": self.stride, "dtype": self.dtype, "name": "conv"}
        options |= conv_inits(self.initializer, self.kernel**2 * x.shape[-1])
        x = Conv(self.features, self.kernel, **options)(x)
        if self.norm == "batch":
            x = BatchNorm(self.train, self.axis_name, affine=self.affine, name="bn")(x)
        elif self.norm == "instance":
            x = InstanceNorm(self.affine, name="bn")(x)
        return nn.relu(x) if self.relu else x


class LiteConv(nn.Module):
    """Lite 3x3 convolution: 1x1 pointwise, then 3x3 depthwise, BN and ReLU.

    The attributes are those of `ConvNorm`.
    """

    train: bool
    axis_name: str | None
    dtype: jnp.dtype
    affine: bool = True
    initializer: str = "he"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, h, w, C] to [B, h, w, C]."""
        channels = x.shape[-1]
        across = conv_inits(self.initializer, channels)
        within = conv_inits(self.initializer, 3 * 3)
        x = Conv(channels, 1, dtype=self.dtype, name="conv1", **across)(x)
        x = Conv(channels, 3, depthwise=True, dtype=self.dtype, name="conv2", **within)(x)
        norm = BatchNorm(self.train, self.axis_name, affine=self.affine, name="bn")
        return nn.relu(norm(x))


class Streams(nn.Module):
    """Base of the omni-scale blocks: four streams with receptive fields 3, 5, 7 and 9.

    Stream t is a stack of t lite convolutions. One gate, shared by all streams, weights the
    channels of each stream per image. The streams have a quarter of the output channels `features`;
    the other attributes are those of `ConvNorm`.
    """

    features: int
    train: bool
    axis_name: str | None
    dtype: jnp.dtype
    affine: bool = True
    initializer: str = "he"

    @property
    def mode(self) -> dict[str, Any]:
        """Keywords shared by all layers."""
        names = ("train", "axis_name", "dtype", "affine", "initializer")
        return {name: getattr(self, name) for name in names}

    @nn.nowrap
    def streams(self, x: jax.Array) -> jax.Array:
        """Return the sum of the four gated streams, [B, h, w, features / 4]."""
        gate = ChannelGate(dtype=self.dtype, initializer=self.initializer, name="gate")
        start = ConvNorm(self.features // 4, **self.mode, name="conv1")(x)
        y = 0
        for stream in range(1, STREAMS + 1):
            scale = start
            for index in range(stream):
                scale = LiteConv(**self.mode, name=f"stream{stream}_{index}")(scale)
            y = y + gate(scale)
        return y

    @nn.nowrap
    def shortcut(self, x: jax.Array) -> jax.Array:
        """Return the residual input, projected to `features` channels if needed."""
        if x.shape[-1] == self.features:
            return x
        return ConvNorm(self.features, relu=False, **self.mode, name="downsample")(x)


class OmniScaleBlock(Streams):
    """Residual block of four streams.

    Attributes:
        instance_norm: one of `PLACES`.
    """

    instance_norm: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, h, w, C] to [B, h, w, features]."""
        y = self.streams(x)
        inside = self.instance_norm in ("residual", "both")
        outside = self.instance_norm in ("sum", "both")
        norm = "none" if inside else "batch"
        y = ConvNorm(self.features, norm=norm, relu=False, **self.mode, name="conv3")(y)
        if inside:
            y = InstanceNorm(self.affine, name="IN_residual" if outside else "IN")(y)
        y = self.shortcut(x) + y
        if outside:
            y = InstanceNorm(self.affine, name="IN")(y)
        return nn.relu(y)


class OSNet(Backbone):
    """OSNet up to its feature map of stride 16.

    Attributes:
        channels: channels of the stem and of the three stages.
        stem: normalisation of the stem, "batch" or "instance".
        blocks: one of `PLACES` for each of the six blocks.
        dtype: dtype of the convolutions.
        axis_name: mesh axis over which the batch is sharded; None outside `shard_map`.
        affine: see `ConvNorm`.
        initializer: one of `layers.INITIALIZERS`; also applies to neck and classifier.
    """

    IMPLIED = ("channels", "affine", "initializer")
    IDENTITY = ("stem", "blocks")

    channels: tuple[int, ...] = WIDTHS["x1_0"]
    stem: str = "batch"
    blocks: tuple[str, ...] = PLAIN
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    affine: bool = True
    initializer: str = "he"

    @property
    def stride(self) -> int:
        """Pixels per position of the feature map."""
        return 16

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError for an unknown stem or place, or a wrong number of places."""
        check_name(self.stem, STEMS, "backbone.stem")
        for place in self.blocks:
            check_name(place, PLACES, "place in backbone.blocks")
        if len(self.blocks) != len(BLOCKS):
            raise ValueError(
                f"backbone.blocks has {len(self.blocks)} places; expected {len(BLOCKS)}, one for "
                f"each of {', '.join(BLOCKS)}."
            )

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map normalised pixels [B, H, W, 3] to [B, H / 16, W / 16, c], non-negative."""
        mode = {
            "train": train,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
            "affine": self.affine,
            "initializer": self.initializer,
        }
        x = ConvNorm(self.channels[0], 7, stride=2, norm=self.stem, **mode, name="conv1")(x)
        x = max_pool(x)
        for number, block in enumerate(BLOCKS):
            stage, index = divmod(number, 2)
            features = self.channels[1 + stage]
            x = self.block(x, number, features=features, **mode, name=block)
            if index == 1 and stage < 2:
                x = ConvNorm(features, **mode, name=f"pool{stage + 2}")(x)
                x = average_pool(x)
        return ConvNorm(self.channels[-1], **mode, name="conv5")(x)

    @nn.nowrap
    def block(self, x: jax.Array, number: int, **options: Any) -> jax.Array:
        """Apply block `number` (0 to 5); `options` are its attributes except `instance_norm`."""
        return OmniScaleBlock(instance_norm=self.blocks[number], **options)(x)
