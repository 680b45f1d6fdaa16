"""Neck protocol.

Notation: B images, h w map size, c channels of the backbone, d channels of the features.
"""

import flax.linen as nn
import jax

from jaxreid.models.features import Features


class Neck(nn.Module):
    """Backbone feature map to the features that a matcher compares.

    A neck is one file: a subclass with its options as attributes, `features`, `validate` if options
    need checks, and `__call__`. The attributes `dtype` (of the convolutions), `axis_name` (mesh
    axis over which the batch is sharded) and `initializer` (one of `layers.INITIALIZERS`, that of
    the backbone), if present, are set from the model.
    """

    @property
    def features(self) -> Features:
        """Layout of the neck's features."""
        raise NotImplementedError

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if an option is out of range."""

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Compute the features of a batch.

        Args:
            x: [B, h, w, c] float, feature map of the backbone.
            train: use and update batch statistics.

        Returns:
            [B, h, w, d] or [B, d] float.
        """
        raise NotImplementedError

    def with_before(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Compute features and the features before the BN neck; see `__call__`.

        Without a BN neck both are the same.
        """
        feature = self(x, train=train)
        return feature, feature

    @nn.nowrap
    def average(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Average two aligned features [B, ..., d], such as those of an image and its flip."""
        return (first + second) / 2
