"""The model: a backbone, a matcher, and the images they expect."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.backbones import make_backbone
from jaxreid.matchers import make_matcher


class Model(nn.Module):
    """Images to features, and features to scores.

    Attributes:
        backbone: images to features.
        matcher: features of queries and gallery to scores.
        height: of the images, in pixels.
        width: of the images, in pixels.
        mean: [3], taken from pixels in [0, 1] before the backbone.
        std: [3], by which the rest is divided.
    """

    backbone: nn.Module
    matcher: nn.Module
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def encode(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Features of a batch.

        Args:
            image: [B, H, W, 3] uint8.
            train: use and update batch statistics.

        Returns:
            [B, h, w, d] float feature maps, or [B, d] embeddings.
        """
        pixels = image.astype(jnp.float32) / 255
        pixels = (pixels - jnp.array(self.mean)) / jnp.array(self.std)
        return self.backbone(pixels, train=train)

    def match(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Scores [Q, G] of features; larger is more alike."""
        return self.matcher(query, gallery, train=train, mask=mask)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Scores of a batch with itself; runs every part once, to make the parameters."""
        feature = self.encode(image)
        return self.match(feature, feature)


def apply_training(
    model: Model, function: Callable[[Model], Any], variables: dict[str, Any]
) -> tuple[Any, Any]:
    """Calls `function` with the model bound to its variables.

    Args:
        model: the model.
        function: takes the bound model; what it returns may depend on any of its methods.
        variables: {"params", "batch_stats"}.

    Returns:
        What `function` returned, and the batch statistics that its calls have left.
    """
    result, updates = nn.apply(function, model, mutable=["batch_stats"])(variables)
    return result, updates.get("batch_stats", variables["batch_stats"])


def make_model(
    *,
    backbone: dict[str, Any],
    matcher: dict[str, Any],
    height: int,
    width: int,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    axis_name: str | None = None,
) -> Model:
    """A model from the names and options of its parts.

    Args:
        backbone: keywords of `make_backbone`.
        matcher: keywords of `make_matcher`.
        height: of the images, in pixels.
        width: of the images, in pixels.
        mean: subtracted from pixels in [0, 1]. QAConv uses none.
        std: divides them.
        axis_name: mesh axis over which a training batch is spread.

    Raises:
        ValueError: an unknown name, or an option out of its range.
    """
    return Model(
        backbone=make_backbone(**backbone, axis_name=axis_name),
        matcher=make_matcher(**matcher, axis_name=axis_name),
        height=height,
        width=width,
        mean=tuple(mean),
        std=tuple(std),
    )
