"""OSNet: features of several scales in every block, at a tenth of ResNet's cost.

Source: Zhou et al., ICCV 2019, arXiv 1905.00953; OSNet-IBN and OSNet-AIN: TPAMI 2021, arXiv
1910.06827.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.backbones.layers import BatchNorm, ChannelGate, Conv, InstanceNorm
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
PLAIN = ("none",) * 6
IBN = ("sum", "sum", "none", "none", "none", "none")
AIN = ("residual", "residual", "none", "residual", "residual", "none")
STREAMS = 4


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
    """

    features: int
    kernel: int = 1
    stride: int = 1
    norm: str = "batch"
    relu: bool = True
    train: bool = False
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h / stride, w / stride, features]."""
        x = Conv(self.features, self.kernel, stride=self.stride, dtype=self.dtype, name="conv")(x)
        if self.norm == "batch":
            x = BatchNorm(train=self.train, axis_name=self.axis_name, name="bn")(x)
        elif self.norm == "instance":
            x = InstanceNorm(name="bn")(x)
        return nn.relu(x) if self.relu else x


class LiteConv(nn.Module):
    """3x3 convolution in two steps: 1x1 across channels, then 3x3 within each; BN and ReLU.

    Attributes:
        train: use and update batch statistics.
        axis_name: mesh axis over which the batch is spread.
        dtype: type of the convolutions.
    """

    train: bool
    axis_name: str | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, C]."""
        channels = x.shape[-1]
        x = Conv(channels, 1, dtype=self.dtype, name="conv1")(x)
        x = Conv(channels, 3, depthwise=True, dtype=self.dtype, name="conv2")(x)
        return nn.relu(BatchNorm(train=self.train, axis_name=self.axis_name, name="bn")(x))


class OmniScaleBlock(nn.Module):
    """A residual block of four streams, whose receptive fields are 3, 5, 7 and 9 pixels wide.

    Stream t is t lite convolutions. One gate, the same for all streams, decides by image and
    channel how much each contributes.

    Attributes:
        features: channels that come out; the streams have a quarter.
        instance_norm: one of `PLACES`.
        train: use and update batch statistics.
        axis_name: mesh axis over which the batch is spread.
        dtype: type of the convolutions.
    """

    features: int
    instance_norm: str
    train: bool
    axis_name: str | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, features]."""
        mode = {"train": self.train, "axis_name": self.axis_name, "dtype": self.dtype}
        gate = ChannelGate(dtype=self.dtype, name="gate")
        start = ConvNorm(self.features // 4, **mode, name="conv1")(x)
        y = 0
        for stream in range(1, STREAMS + 1):
            scale = start
            for index in range(stream):
                scale = LiteConv(**mode, name=f"stream{stream}_{index}")(scale)
            y = y + gate(scale)
        inside = self.instance_norm in ("residual", "both")
        outside = self.instance_norm in ("sum", "both")
        y = ConvNorm(
            self.features, norm="none" if inside else "batch", relu=False, **mode, name="conv3"
        )(y)
        if inside:
            y = InstanceNorm(name="IN_residual" if outside else "IN")(y)
        if x.shape[-1] != self.features:
            x = ConvNorm(self.features, relu=False, **mode, name="downsample")(x)
        y = x + y
        if outside:
            y = InstanceNorm(name="IN")(y)
        return nn.relu(y)


class OSNet(nn.Module):
    """Images to a feature map of stride 16.

    Attributes:
        channels: of the stem and of the three stages.
        stem: its normalisation, "batch" or "instance".
        blocks: for each of the six blocks one of `PLACES`.
        dtype: type of the convolutions.
        axis_name: mesh axis over which the batch is spread; None outside `shard_map`.
    """

    channels: tuple[int, ...] = WIDTHS["x1_0"]
    stem: str = "batch"
    blocks: tuple[str, ...] = PLAIN
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Feature map of a batch of images.

        Args:
            x: [B, H, W, 3] float, normalised pixels.
            train: use and update batch statistics.

        Returns:
            [B, H / 16, W / 16, c] float, not negative.
        """
        mode = {"train": train, "axis_name": self.axis_name, "dtype": self.dtype}
        x = ConvNorm(self.channels[0], 7, stride=2, norm=self.stem, **mode, name="conv1")(x)
        x = max_pool(x)
        for stage, features in enumerate(self.channels[1:], start=2):
            for index in range(2):
                place = self.blocks[2 * (stage - 2) + index]
                x = OmniScaleBlock(features, place, **mode, name=f"conv{stage}_{index}")(x)
            if stage < 4:
                x = ConvNorm(features, **mode, name=f"pool{stage}")(x)
                x = average_pool(x)
        return ConvNorm(self.channels[-1], **mode, name="conv5")(x)
