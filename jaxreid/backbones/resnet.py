"""ResNet, cut after an inner layer, as the source of local feature maps.

Source: He et al., CVPR 2016; the cut, the neck and the normalisation are QAConv's (Liao and Shao,
ECCV 2020).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.backbones.layers import BatchNorm, InstanceNorm, conv, max_pool
from jaxreid.ops.normalize import l2_normalize

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
CUTS = ("layer2", "layer3", "layer4")
IBN = ("none", "b")
NECK_NORMS = ("batch", "none")


class Block(nn.Module):
    """What the two residual blocks share.

    Attributes:
        channels: of the 3x3 convolutions.
        stride: of the block.
        train: use and update batch statistics.
        axis_name: mesh axis over which the batch is spread.
        dtype: type of the convolutions.
        instance_norm: normalise the sum by instance, before the last ReLU (IBN-b).
    """

    channels: int
    stride: int
    train: bool
    axis_name: str | None
    dtype: jnp.dtype
    instance_norm: bool = False

    def conv(self, features: int, kernel: int, name: str, stride: int = 1) -> nn.Conv:
        """A convolution of the block's type."""
        return conv(features, kernel, stride=stride, dtype=self.dtype, name=name)

    def norm(self, name: str) -> nn.Module:
        """A batch normalisation in the block's mode."""
        return BatchNorm(train=self.train, axis_name=self.axis_name, name=name)

    def join(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The end of the block: the sum of its input, brought to the shape of `y`, and `y`."""
        if x.shape != y.shape:
            x = self.conv(y.shape[-1], 1, "downsample_conv", self.stride)(x)
            x = self.norm("downsample_bn")(x)
        x = x + y
        if self.instance_norm:
            x = InstanceNorm(name="IN")(x)
        return nn.relu(x)


class BasicBlock(Block):
    """Two 3x3 convolutions and a residual connection."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h / stride, w / stride, channels]."""
        y = self.conv(self.channels, 3, "conv1", self.stride)(x)
        y = nn.relu(self.norm("bn1")(y))
        y = self.conv(self.channels, 3, "conv2")(y)
        return self.join(x, self.norm("bn2")(y))


class Bottleneck(Block):
    """1x1, 3x3 (which takes the stride) and 1x1 convolution and a residual connection."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h / stride, w / stride, 4 * channels]."""
        y = self.conv(self.channels, 1, "conv1")(x)
        y = nn.relu(self.norm("bn1")(y))
        y = self.conv(self.channels, 3, "conv2", self.stride)(y)
        y = nn.relu(self.norm("bn2")(y))
        y = self.conv(4 * self.channels, 1, "conv3")(y)
        return self.join(x, self.norm("bn3")(y))


class ResNet(nn.Module):
    """Images to unit-length local features.

    Attributes:
        depth: 18 or 50.
        cut: the last layer that is computed: "layer2" (stride 8), "layer3" (16), "layer4" (32).
        ibn: "none", or "b" (IBN-Net-b): instance instead of batch normalisation in the stem, and
            after the last block of layer1 and of layer2.
        width: channels of the first convolution; 64 in the paper, less for small problems.
        neck: channels of the 3x3 convolution after the cut; 0 leaves it out.
        neck_norm: "batch" (no bias, batch normalisation: QAConv 1.0 to 2.0) or "none" (with bias:
            QAConv 2.1).
        freeze_stats: keep the running statistics of batch normalisation fixed while training; its
            scale and bias still learn.
        dtype: type of the convolutions.
        axis_name: mesh axis over which the batch is spread; None outside `shard_map`.
    """

    depth: int = 50
    cut: str = "layer3"
    ibn: str = "none"
    width: int = 64
    neck: int = 128
    neck_norm: str = "batch"
    freeze_stats: bool = False
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Feature map of a batch of images.

        Args:
            x: [B, H, W, 3] float, normalised pixels.
            train: use and update batch statistics, unless they are frozen.

        Returns:
            [B, h, w, d] float, unit norm along d.
        """
        use_batch = train and not self.freeze_stats
        norm = functools.partial(BatchNorm, train=use_batch, axis_name=self.axis_name)
        block = BasicBlock if self.depth < 50 else Bottleneck
        x = conv(self.width, 7, stride=2, dtype=self.dtype, name="conv1")(x)
        x = InstanceNorm(name="bn1")(x) if self.ibn == "b" else norm(name="bn1")(x)
        x = max_pool(nn.relu(x))
        last = int(self.cut.removeprefix("layer"))
        for layer, blocks in enumerate(BLOCKS[self.depth][:last], start=1):
            for index in range(blocks):
                x = block(
                    channels=self.width * 2 ** (layer - 1),
                    stride=2 if layer > 1 and index == 0 else 1,
                    train=use_batch,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    instance_norm=self.ibn == "b" and layer < 3 and index == blocks - 1,
                    name=f"layer{layer}_{index}",
                )(x)
        if self.neck:
            bias = self.neck_norm == "none"
            x = conv(self.neck, 3, use_bias=bias, dtype=self.dtype, name="neck_conv")(x)
            if self.neck_norm == "batch":
                x = norm(name="neck_bn")(x)
        return l2_normalize(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
