"""Vision Transformer (ViT): patches of the image as tokens, and a class token.

Notation: B images, h w patches, n tokens, d channels.

Source: Dosovitskiy et al., ICLR 2021, arXiv 2010.11929. Weights of the small and the base network
exist from DeiT, DINO, DINOv2 (Oquab et al., 2023) and CLIP (Radford et al., ICML 2021); overlapping
patches follow TransReID (He et al., ICCV 2021, Section 3.1), without its camera embeddings.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.models.backbones.backbone import Backbone
from jaxreid.models.layers import attention
from jaxreid.names import check_at_least, check_name

OUTPUTS = ("patches", "class")


class Kind(NamedTuple):
    """Options that differ between published networks.

    Attributes:
        layer_scale: each branch of a block has a learned scale per channel.
        norm_before: the tokens are normalised before the first block, and the patches have no bias.
        quick_gelu: x sigmoid(1.702 x) in place of GELU.
        epsilon: of the layer normalisations.
    """

    layer_scale: bool = False
    norm_before: bool = False
    quick_gelu: bool = False
    epsilon: float = 1e-6


KINDS = {
    "vit": Kind(),
    "dinov2": Kind(layer_scale=True),
    "clip": Kind(norm_before=True, quick_gelu=True, epsilon=1e-5),
}
_SMALL, _BASE = {"width": 384, "heads": 6}, {"width": 768, "heads": 12}
# Names of weights, and the options they imply.
FAMILY = {
    "vit_small_patch16": _SMALL,
    "vit_base_patch16": _BASE,
    "vit_small_patch14_dinov2": _SMALL | {"patch": 14, "kind": "dinov2"},
    "vit_base_patch14_dinov2": _BASE | {"patch": 14, "kind": "dinov2"},
    "vit_base_patch16_clip": _BASE | {"kind": "clip"},
}

_init = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, then an MLP, each with a residual.

    Attributes:
        heads: attention heads.
        kind: variant.
        dtype: dtype of the products; sums, softmax and normalisation use float32 or wider.
    """

    heads: int
    kind: Kind
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, n, d] to [B, n, d]."""
        d = x.shape[-1]
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_init)
        norm = functools.partial(layer_norm, self.kind)

        def scaled(y: jax.Array, name: str) -> jax.Array:
            if not self.kind.layer_scale:
                return y
            return y * self.param(name, nn.initializers.constant(1e-5), (d,))

        y = attention(dense(3 * d, name="qkv")(norm("norm1")(x)), self.heads)
        x = x + scaled(dense(d, name="proj")(y), "ls1")
        y = dense(4 * d, name="fc1")(norm("norm2")(x))
        y = y * nn.sigmoid(1.702 * y) if self.kind.quick_gelu else nn.gelu(y, approximate=False)
        return x + scaled(dense(d, name="fc2")(y), "ls2")


class ViT(Backbone):
    """Vision Transformer, whose map holds the patches or the class token.

    The positions' embeddings are a table, so that a network is for one image size; `jaxreid
    convert` interpolates the table of another.

    Attributes:
        width: channels.
        depth: number of blocks.
        heads: attention heads; must divide `width`.
        patch: side of a patch in pixels.
        step: pixels from a patch to the next; 0 for `patch`, less for overlapping patches, as the
            12 of TransReID.
        output: "patches", a map of local features; or "class", a map of one position with the
            class token, from which neck "pooled" makes an embedding.
        registers: tokens besides class token and patches, without a position (DINOv2 with
            registers).
        kind: one of `KINDS`.
        dtype: dtype of the products.

    Differs: no dropout and no stochastic depth in training.
    """

    IMPLIED = ("kind",)
    IDENTITY = ("heads", "step")

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 16
    step: int = 0
    output: str = "patches"
    registers: int = 0
    kind: str = "vit"
    dtype: jnp.dtype = jnp.float32

    @property
    def stride(self) -> int:
        """Side of a patch: the smallest height and width of an image."""
        return self.patch

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if an option is out of range."""
        check_name(self.output, OUTPUTS, "backbone.output")
        check_name(self.kind, KINDS, "backbone.kind")
        least = {"width": 1, "depth": 1, "heads": 1, "patch": 1, "step": 0, "registers": 0}
        check_at_least({name: getattr(self, name) for name in least}, least, "backbone")
        if self.width % self.heads:
            raise ValueError(
                f"backbone.heads is {self.heads}, which does not divide backbone.width "
                f"{self.width}."
            )

    @nn.nowrap
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the numbers of patches along the height and the width of an image."""
        step = self.step or self.patch
        return (height - self.patch) // step + 1, (width - self.patch) // step + 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map normalised pixels [B, H, W, 3] to [B, h, w, d], or to [B, 1, 1, d]; ignores `train`.

        Raises:
            ValueError: if the table of positions is for images of another size.
        """
        kind, (h, w) = KINDS[self.kind], self.grid(*x.shape[1:3])
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.step or self.patch,
            padding="VALID",
            use_bias=not kind.norm_before,
            dtype=self.dtype,
            kernel_init=_init,
            name="patch_embed",
        )(x)
        x = x.reshape(x.shape[0], h * w, self.width)

        of_class, of_patches = jnp.split(self._positions(h * w), [1], axis=1)
        before = [self.param("cls_token", _init, (1, 1, self.width)) + of_class]
        if self.registers:
            before.append(self.param("register_tokens", _init, (1, self.registers, self.width)))
        first = jnp.concatenate(before, axis=1)
        first = jnp.broadcast_to(first, (x.shape[0], *first.shape[1:]))
        x = jnp.concatenate([first, x + of_patches], axis=1)
        if kind.norm_before:
            x = layer_norm(kind, "norm_before")(x)
        for i in range(self.depth):
            x = Block(self.heads, kind, self.dtype, name=f"block_{i}")(x)
        x = layer_norm(kind, "norm")(x)
        of_class, _, patches = jnp.split(x, [1, 1 + self.registers], axis=1)
        if self.output == "class":
            return of_class[:, None]
        return patches.reshape(x.shape[0], h, w, self.width)

    def _positions(self, patches: int) -> jax.Array:
        """Create or look up the table [1, 1 + patches, d], class token first."""
        if self.has_variable("params", "pos_embed"):
            held = self.get_variable("params", "pos_embed").shape[1] - 1
            if held != patches:
                raise ValueError(
                    f"the backbone has positions for {held} patches, but the images have "
                    f"{patches}; use images of its size, or convert its weights for this one "
                    "(jaxreid convert --input-size)."
                )
        return self.param("pos_embed", _init, (1, 1 + patches, self.width))


def layer_norm(kind: Kind, name: str) -> nn.Module:
    """Create a layer normalisation."""
    return nn.LayerNorm(epsilon=kind.epsilon, use_fast_variance=False, name=name)
