"""ResNet, plain and with instance normalisation (IBN-Net).

Source: He et al., CVPR 2016; IBN-Net: Pan et al., ECCV 2018. Cutting it after an inner layer
follows QAConv (Liao and Shao, ECCV 2020).
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.backbones.backbone import Backbone
from jaxreid.models.layers import BatchNorm, Conv, InstanceBatchNorm, InstanceNorm
from jaxreid.names import check_at_least, check_name
from jaxreid.ops.convolution import max_pool

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# Depths published by IBN-Net.
IBN_DEPTHS = (18, 34, 50, 101)
CUTS = ("layer1", "layer2", "layer3", "layer4")
# How the first convolution and its normalisation are followed.
#   padded    ReLU, max pooling padded by one pixel (torchvision)
#   linear    no ReLU, the same pooling (strong baseline of Luo et al.)
#   unpadded  ReLU, max pooling from the first pixel on (fast-reid)
STEMS = ("padded", "linear", "unpadded")

# Names of weights, and the options they imply.
FAMILY = {f"resnet{depth}": {"depth": depth} for depth in BLOCKS} | {
    f"resnet{depth}_ibn_{ibn}": {"depth": depth, "ibn": ibn}
    for depth in IBN_DEPTHS
    for ibn in ("a", "b")
}


class Block(nn.Module):
    """Base of the two residual blocks.

    Attributes:
        channels: channels of the 3x3 convolutions.
        stride: stride of the block.
        train: use and update batch statistics.
        axis_name: mesh axis over which the batch is sharded.
        dtype: dtype of the convolutions.
        ibn: "none"; "a", instance norm on half of the channels after the first convolution; "b",
            instance norm after the residual addition, before the last ReLU.
    """

    channels: int
    stride: int
    train: bool
    axis_name: str | None
    dtype: jnp.dtype
    ibn: str = "none"

    def conv(self, features: int, kernel: int, name: str, stride: int = 1) -> nn.Module:
        """Create a convolution with the block's dtype."""
        return Conv(features, kernel, stride=stride, dtype=self.dtype, name=name)

    def norm(self, name: str) -> nn.Module:
        """Create a batch normalisation in the block's mode."""
        return BatchNorm(train=self.train, axis_name=self.axis_name, name=name)

    def first_norm(self, name: str) -> nn.Module:
        """Create the normalisation after the first convolution: `InstanceBatchNorm` for IBN-a."""
        kind = InstanceBatchNorm if self.ibn == "a" else BatchNorm
        return kind(train=self.train, axis_name=self.axis_name, name=name)

    def join(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Add the block input `x`, projected to the shape of `y` if needed, to `y`; apply ReLU."""
        if x.shape != y.shape:
            x = self.conv(y.shape[-1], 1, "downsample_conv", self.stride)(x)
            x = self.norm("downsample_bn")(x)
        x = x + y
        if self.ibn == "b":
            x = InstanceNorm(name="IN")(x)
        return nn.relu(x)


class BasicBlock(Block):
    """Residual block of two 3x3 convolutions."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, h, w, C] to [B, h / stride, w / stride, channels]."""
        y = self.conv(self.channels, 3, "conv1", self.stride)(x)
        y = nn.relu(self.first_norm("bn1")(y))
        y = self.conv(self.channels, 3, "conv2")(y)
        return self.join(x, self.norm("bn2")(y))


class Bottleneck(Block):
    """Residual block of a 1x1, a 3x3 (strided) and a 1x1 convolution."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, h, w, C] to [B, h / stride, w / stride, 4 * channels]."""
        y = self.conv(self.channels, 1, "conv1")(x)
        y = nn.relu(self.first_norm("bn1")(y))
        y = self.conv(self.channels, 3, "conv2", self.stride)(y)
        y = nn.relu(self.norm("bn2")(y))
        y = self.conv(4 * self.channels, 1, "conv3")(y)
        return self.join(x, self.norm("bn3")(y))


class NonLocal(nn.Module):
    """Non-local block: adds to every position a mean over all, weighted by products of embeddings.

    Attributes:
        train: use and update batch statistics.
        axis_name: mesh axis over which the batch is sharded.
        dtype: dtype of the convolutions and products.
        channels: channels of the embeddings; 1 in fast-reid.

    Source: Wang et al., CVPR 2018, Equations 1, 4 and 6 without an activation.
    """

    train: bool
    axis_name: str | None
    dtype: jnp.dtype
    channels: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, h, w, C] to [B, h, w, C]."""

        def conv(features: int, name: str) -> nn.Module:
            return Conv(features, 1, use_bias=True, dtype=self.dtype, name=name)

        theta, phi, g = (conv(self.channels, name)(x) for name in ("theta", "phi", "g"))
        # Means of products first: the weights [h w, h w] need not be made.
        means = jnp.einsum("bhwk,bhwl->bkl", phi, g) / (x.shape[1] * x.shape[2])
        y = conv(x.shape[-1], "out_conv")(jnp.einsum("bhwk,bkl->bhwl", theta, means))
        return x + BatchNorm(train=self.train, axis_name=self.axis_name, name="out_bn")(y)


class ResNet(Backbone):
    """ResNet, cut after one of its four layers.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
        ibn: "none"; "a", IBN-a in the blocks of layers 1 to 3; "b", instance norm in place of batch
            norm in the stem, and instance norm at the end of layer1 and of layer2.
        cut: last layer to compute: "layer1" (stride 4), "layer2" (8), "layer3" (16), "layer4" (32).
        last_stride: stride of layer4; 1 keeps its map at stride 16, which suits re-identification
            embeddings (Luo et al., CVPRW 2019).
        stem: one of `STEMS`.
        non_local: number of blocks at the end of each layer that a non-local block follows.
        width: channels of the first convolution; 64 in the paper, less for small problems.
        dtype: dtype of the convolutions.
        axis_name: mesh axis over which the batch is sharded; None outside `shard_map`.
    """

    IMPLIED = ("depth", "ibn")
    IDENTITY = ("stem",)

    depth: int = 50
    ibn: str = "none"
    cut: str = "layer4"
    last_stride: int = 2
    stem: str = "padded"
    non_local: tuple[int, ...] = (0, 0, 0, 0)
    width: int = 64
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @property
    def stride(self) -> int:
        """Pixels per position of the feature map."""
        return 4 * math.prod(_strides(self.last_stride)[: CUTS.index(self.cut) + 1])

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError for an unknown `cut` or `stem`, or a number out of range."""
        check_name(self.cut, CUTS, "backbone.cut")
        check_name(self.stem, STEMS, "backbone.stem")
        check_at_least({"width": self.width}, {"width": 1}, "backbone")
        if self.last_stride not in (1, 2):
            raise ValueError(f"backbone.last_stride is {self.last_stride}; expected 1 or 2.")
        blocks = BLOCKS[self.depth]
        few = [n in range(most + 1) for n, most in zip(self.non_local, blocks, strict=False)]
        if len(self.non_local) != len(blocks) or not all(few):
            raise ValueError(
                f"backbone.non_local is {self.non_local}; expected a number of blocks for each "
                f"layer, at most {blocks}, as in (0, 2, 2, 0)."
            )

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map normalised pixels [B, H, W, 3] to [B, h, w, c], non-negative."""
        norm = functools.partial(BatchNorm, train=train, axis_name=self.axis_name)
        block = BasicBlock if self.depth < 50 else Bottleneck
        x = Conv(self.width, 7, stride=2, dtype=self.dtype, name="conv1")(x)
        x = InstanceNorm(name="bn1")(x) if self.ibn == "b" else norm(name="bn1")(x)
        x = x if self.stem == "linear" else nn.relu(x)
        x = max_pool(x, padding=int(self.stem != "unpadded"))
        strides = _strides(self.last_stride)
        for layer, blocks in enumerate(BLOCKS[self.depth][: CUTS.index(self.cut) + 1], start=1):
            for index in range(blocks):
                last = index == blocks - 1
                with_instance = layer < 4 if self.ibn == "a" else layer < 3 and last
                x = block(
                    channels=self.width * 2 ** (layer - 1),
                    stride=strides[layer - 1] if index == 0 else 1,
                    train=train,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    ibn=self.ibn if with_instance else "none",
                    name=f"layer{layer}_{index}",
                )(x)
                if (place := index - blocks + self.non_local[layer - 1]) >= 0:
                    options = {"train": train, "axis_name": self.axis_name, "dtype": self.dtype}
                    x = NonLocal(**options, name=f"non_local{layer}_{place}")(x)
        return x


def _strides(last: int) -> tuple[int, ...]:
    """Return the strides of the four layers, after a stem of stride 4."""
    return 1, 2, 2, last
