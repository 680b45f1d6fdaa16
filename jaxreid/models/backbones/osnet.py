"""OSNet: features of several scales in every block, at a tenth of ResNet's cost.

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
# Where a block has an instance normalisation: the four candidates of the search for OSNet-AIN.
#   none      nowhere
#   residual  in the residual branch, after the batch normalisation's place, which it takes
#   sum       on the sum, before the last ReLU
#   both      in both places
PLACES = ("none", "residual", "sum", "both")
STEMS = ("batch", "instance")
BLOCKS = ("conv2_0", "conv2_1", "conv3_0", "conv3_1", "conv4_0", "conv4_1")
PLAIN = ("none",) * len(BLOCKS)
IBN = ("sum", "sum", "none", "none", "none", "none")
AIN = ("residual", "residual", "none", "residual", "residual", "none")
STREAMS = 4

# Names of weights, and the options that they imply. Of OSNet-IBN only the first width is published.
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
    """Convolution, normalisation and, if wanted, ReLU.

    Attributes:
        features: channels that come out.
        kernel: size of the convolution.
        stride: of the convolution.
        norm: "batch", "instance" or "none".
        relu: end with a ReLU.
        train: use and update batch statistics.
        axis_name: mesh axis over which the batch is spread.
        dtype: type of the convolution.
        affine: the normalisation learns a scale and a bias for each channel.
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
        """[B, h, w, C] -> [B, h / stride, w / stride, features]."""
        options = {"stride": self.stride, "dtype": self.dtype, "name": "conv"}
        options |= conv_inits(self.initializer, self.kernel**2 * x.shape[-1])
        x = Conv(self.features, self.kernel, **options)(x)
        if self.norm == "batch":
            x = BatchNorm(self.train, self.axis_name, affine=self.affine, name="bn")(x)
        elif self.norm == "instance":
            x = InstanceNorm(self.affine, name="bn")(x)
        return nn.relu(x) if self.relu else x


class LiteConv(nn.Module):
    """3x3 convolution in two steps: 1x1 across channels, then 3x3 within each; BN and ReLU.

    Attributes:
        train: use and update batch statistics.
        axis_name: mesh axis over which the batch is spread.
        dtype: type of the convolutions.
        affine: as for `ConvNorm`.
        initializer: as for `ConvNorm`.
    """

    train: bool
    axis_name: str | None
    dtype: jnp.dtype
    affine: bool = True
    initializer: str = "he"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, C]."""
        channels = x.shape[-1]
        across = conv_inits(self.initializer, channels)
        within = conv_inits(self.initializer, 3 * 3)
        x = Conv(channels, 1, dtype=self.dtype, name="conv1", **across)(x)
        x = Conv(channels, 3, depthwise=True, dtype=self.dtype, name="conv2", **within)(x)
        norm = BatchNorm(self.train, self.axis_name, affine=self.affine, name="bn")
        return nn.relu(norm(x))


class Streams(nn.Module):
    """Base of the omni-scale blocks: four streams, 3, 5, 7 and 9 pixels wide.

    Stream t is t lite convolutions. One gate, the same for all streams, decides by image and
    channel how much each contributes.

    Attributes:
        features: channels that come out; the streams have a quarter.
        train: use and update batch statistics.
        axis_name: mesh axis over which the batch is spread.
        dtype: type of the convolutions.
        affine: as for `ConvNorm`.
        initializer: as for `ConvNorm`.
    """

    features: int
    train: bool
    axis_name: str | None
    dtype: jnp.dtype
    affine: bool = True
    initializer: str = "he"

    @property
    def mode(self) -> dict[str, Any]:
        """Keywords of all layers."""
        names = ("train", "axis_name", "dtype", "affine", "initializer")
        return {name: getattr(self, name) for name in names}

    @nn.nowrap
    def streams(self, x: jax.Array) -> jax.Array:
        """The four streams through the gate, added up: [B, h, w, features / 4]."""
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
        """Residual connection: the input, with `features` channels."""
        if x.shape[-1] == self.features:
            return x
        return ConvNorm(self.features, relu=False, **self.mode, name="downsample")(x)


class OmniScaleBlock(Streams):
    """A residual block of four streams.

    Attributes:
        instance_norm: one of `PLACES`.
    """

    instance_norm: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, features]."""
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
    """Images to a feature map of stride 16.

    Attributes:
        channels: of the stem and of the three stages.
        stem: its normalisation, "batch" or "instance".
        blocks: for each of the six blocks one of `PLACES`.
        dtype: type of the convolutions.
        axis_name: mesh axis over which the batch is spread; None outside `shard_map`.
        affine: as for `ConvNorm`.
        initializer: one of `layers.INITIALIZERS`; of neck and classifier, too.
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

    @nn.nowrap
    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an unknown stem or place, or not as many places as blocks.
        """
        check_name(self.stem, STEMS, "backbone.stem")
        for place in self.blocks:
            check_name(place, PLACES, "place in backbone.blocks")
        if len(self.blocks) != len(BLOCKS):
            raise ValueError(
                f"backbone.blocks has {len(self.blocks)} places; needed are {len(BLOCKS)}, one for "
                f"each of {', '.join(BLOCKS)}."
            )

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Feature map of a batch of images.

        Args:
            x: [B, H, W, 3] float, normalised pixels.
            train: use and update batch statistics.

        Returns:
            [B, H / 16, W / 16, c] float, not negative.
        """
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
        """Output of one of the six blocks.

        Args:
            x: [B, h, w, C].
            number: of the block, from 0.
            **options: attributes of the block but for its instance normalisation.
        """
        return OmniScaleBlock(instance_norm=self.blocks[number], **options)(x)
