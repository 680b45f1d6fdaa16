"""The protocol of all necks.

Letters: B images, h w map size, c channels of the backbone, d channels of the features.
"""

import flax.linen as nn
import jax

from jaxreid.models.features import Features


class Neck(nn.Module):
    """The feature map of a backbone to the features that a matcher compares.

    A neck is one file: a subclass with its options as attributes, `features`, `validate` if options
    can be wrong, and `__call__`. Attributes `dtype` (type of its convolutions), `axis_name` (mesh
    axis over which the batch is spread) and `initializer` (one of `layers.INITIALIZERS`, the
    backbone's) receive those of the model.
    """

    @property
    def features(self) -> Features:
        """Description of the features that it makes."""
        raise NotImplementedError

    @nn.nowrap
    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an option is out of its range.
        """

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Features of a batch.

        Args:
            x: [B, h, w, c] float, feature map of the backbone.
            train: use and update batch statistics.

        Returns:
            [B, h, w, d] or [B, d] float.
        """
        raise NotImplementedError

    def with_before(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Features, and what precedes the BN neck: the features again where there is none.

        Args:
            x: as for the call.
            train: as for the call.
        """
        feature = self(x, train=train)
        return feature, feature

    @nn.nowrap
    def average(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Features of an image that has two, such as its own and its mirror image's: the mean.

        Args:
            first: [B, ..., d] float, features.
            second: [B, ..., d] float, of the same positions.
        """
        return (first + second) / 2
