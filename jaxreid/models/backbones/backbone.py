"""Backbone protocol."""

from typing import ClassVar

import flax.linen as nn
import jax


class Backbone(nn.Module):
    """Images to a feature map.

    A backbone is one file: a subclass with its options as attributes, `validate` if they need
    checks, and `__call__`; plus `FAMILY` if one class has several names. The attributes `dtype`
    (of the convolutions) and `axis_name` (mesh axis over which the batch is sharded), if present,
    are set from the model.

    Attributes:
        IMPLIED: attributes that are set by the backbone's name only.
        IDENTITY: options that change the features without changing the parameter shapes. A model
            rejects a weights file that differs in one of them.
    """

    IMPLIED: ClassVar[tuple[str, ...]] = ()
    IDENTITY: ClassVar[tuple[str, ...]] = ()

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Compute the feature map of a batch of images.

        Args:
            x: [B, H, W, 3] float, normalised pixels.
            train: use and update batch statistics.

        Returns:
            [B, h, w, c] float.
        """
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """Pixels per position of the feature map: the smallest height and width of an image."""
        return 1

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if an option is out of range."""

    @nn.nowrap
    def draw(self, epoch: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Draw the random numbers of one training step; the call reads them from "drawn".

        Args:
            epoch: [] int32, from 0.
            key: depends on seed and step only, so all devices draw the same numbers.
        """
        return {}
