"""The protocol of all backbones."""

from typing import ClassVar

import flax.linen as nn
import jax


class Backbone(nn.Module):
    """Images to a feature map.

    A backbone is one file: a subclass with its options as attributes, `validate` if they can be
    wrong, and `__call__`; and `FAMILY` where one class has several names. Attributes `dtype` (type
    of its convolutions) and `axis_name` (mesh axis over which the batch is spread) receive those of
    the model.

    Attributes:
        IMPLIED: attributes that the name of the backbone decides alone.
        IDENTITY: options without which equal parameters make other features: a file of weights
            is refused by a model that differs in them.
    """

    IMPLIED: ClassVar[tuple[str, ...]] = ()
    IDENTITY: ClassVar[tuple[str, ...]] = ()

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Feature map of a batch of images.

        Args:
            x: [B, H, W, 3] float, normalised pixels.
            train: use and update batch statistics.

        Returns:
            [B, h, w, c] float.
        """
        raise NotImplementedError

    @nn.nowrap
    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an option is out of its range.
        """

    @nn.nowrap
    def draw(self, epoch: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Random numbers of one training step, which the call finds as variables in "drawn".

        Args:
            epoch: [] int32, from 0.
            key: follows from seed and step alone: all devices draw the same.
        """
        return {}
