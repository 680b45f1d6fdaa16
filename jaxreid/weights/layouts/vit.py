"""Vision Transformers: DeiT, DINO, DINOv2, timm, the ViT of TransReID, and CLIP for images."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.models.backbones import make_backbone, vit
from jaxreid.weights.layouts.layout import HALF, IMAGENET, Layout, Rules, Tensors

CLIP_PIXELS = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
_CLIP = tuple(name for name in vit.FAMILY if name.endswith("_clip"))
_TIMM = tuple(name for name in vit.FAMILY if name not in _CLIP)


def _rules(arch: str, parts: Sequence[str]) -> Rules:
    return (
        (r"^backbone\.block_(\d+)\.", r"blocks.\1."),
        (r"\.(qkv|proj)\.", r".attn.\1."),
        (r"\.(fc\d)\.", r".mlp.\1."),
        (r"\.(ls\d)$", r".\1.gamma"),
        (r"^backbone\.patch_embed\.", "patch_embed.proj."),
        (r"^backbone\.", ""),
    )


def _clip_rules(arch: str, parts: Sequence[str]) -> Rules:
    return (
        (r"^backbone\.block_(\d+)\.", r"visual.transformer.resblocks.\1."),
        (r"\.qkv\.", ".attn.in_proj_"),
        (r"\.proj\.", ".attn.out_proj."),
        (r"\.fc1\.", ".mlp.c_fc."),
        (r"\.fc2\.", ".mlp.c_proj."),
        (r"\.norm(\d)\.", r".ln_\1."),
        (r"^backbone\.norm_before\.", "visual.ln_pre."),
        (r"^backbone\.norm\.", "visual.ln_post."),
        (r"^backbone\.patch_embed\.", "visual.conv1."),
        (r"^backbone\.cls_token$", "visual.class_embedding"),
        (r"^backbone\.pos_embed$", "visual.positional_embedding"),
    )


def _card(
    tensors: Tensors,
    arch: str,
    *,
    cut: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    patch = make_backbone(arch).patch
    height, width = input_size or (256 // patch * patch, 128 // patch * patch)
    backbone: dict[str, Any] = {"name": arch, "output": "class"}
    if (registers := tensors.get("register_tokens")) is not None:
        backbone["registers"] = registers.shape[1]
    if arch in _CLIP:
        pixels = CLIP_PIXELS
    # TransReID begins with weights of the first ViT.
    elif "bottleneck.running_mean" in tensors:
        pixels = HALF
        backbone["step"] = _step(tensors, arch, height, width)
    else:
        pixels = IMAGENET
    return {
        "backbone": backbone,
        "neck": {"name": "pooled", "pool": "average", "bn": False},
        "matcher": {"name": "embedding", "metric": "cosine"},
        "height": height,
        "width": width,
        "interpolation": "bicubic",
        **pixels,
    }


def _step(tensors: Tensors, arch: str, height: int, width: int) -> int:
    """Return the largest step whose patches have as many positions as the table; 0 for none."""
    for step in range(make_backbone(arch).patch, 0, -1):
        h, w = make_backbone(arch, step=step).grid(height, width)
        if "pos_embed" in tensors and tensors["pos_embed"].shape[1] - 1 == h * w:
            return step
    return 0


def _adapted(table: str, *others: str) -> Callable[[Tensors, Mapping[str, Any]], Tensors]:
    """Return `Layout.adapted`: a table of positions for the images, and tensors with a batch axis.

    A table of a square grid is interpolated for the patches of the images.
    """

    def adapted(tensors: Tensors, card: Mapping[str, Any]) -> Tensors:
        new = {name: tensors[name].reshape(1, 1, -1) for name in others if name in tensors}
        held = tensors.get(table)
        if held is not None and held.ndim in (2, 3) and held.size == math.prod(held.shape[-2:]):
            held = held.reshape(1, *held.shape[-2:])
            grid = make_backbone(**card["backbone"]).grid(card["height"], card["width"])
            side = math.isqrt(max(held.shape[1] - 1, 0))
            if side**2 == held.shape[1] - 1 and grid != (side, side):
                square = held[0, 1:].reshape(side, side, -1)
                positions = interpolated(square, grid).reshape(1, -1, held.shape[-1])
                held = np.concatenate([held[:, :1], positions], axis=1)
            new[table] = held
        return {**tensors, **new}

    return adapted


def interpolated(table: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Interpolate positions [H, W, d] bilinearly at the centres of the cells of a grid.

    Source: TransReID; the same as PyTorch's `interpolate` without aligned corners.
    """
    for axis, size in enumerate(grid):
        last = table.shape[axis] - 1
        at = np.clip((np.arange(size) + 0.5) * (last + 1) / size - 0.5, 0, last)
        low = at.astype(int)
        share = np.expand_dims(at - low, tuple(i for i in range(3) if i != axis))
        before, after = (table.take(i, axis) for i in (low, np.minimum(low + 1, last)))
        table = before * (1 - share) + after * share
    return np.asarray(table, np.float32)


VIT = Layout(
    "ViT",
    _TIMM,
    _card,
    _rules,
    unused=r"head\.|mask_token$|bottleneck\.|classifier\.",
    adapted=_adapted("pos_embed"),
)
CLIP = Layout(
    "CLIP",
    _CLIP,
    _card,
    _clip_rules,
    # The projection to the space of texts, and the network of texts.
    unused=r"(?!visual\.)|visual\.proj$",
    adapted=_adapted("visual.positional_embedding", "visual.class_embedding"),
)
