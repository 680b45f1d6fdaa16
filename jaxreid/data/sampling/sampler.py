"""Interface of all samplers. NumPy only."""

from collections.abc import Mapping

import numpy as np


class Sampler:
    """Order of the images in each epoch.

    For each epoch, the caller first requests the anchors. If there are any, it finds the nearest
    classes of each anchor and passes them to `order`:

        anchors = sampler.anchors(epoch)
        neighbours = None if anchors is None else nearest(anchors, sampler.neighbour_count)
        order = sampler.order(epoch, neighbours)

    The defaults suit samplers without graph and state.

    Attributes:
        steps_per_epoch: batches per epoch, the same in every epoch.
        neighbour_count: nearest classes per class that `order` takes; 0 without a graph.
    """

    steps_per_epoch: int
    neighbour_count: int = 0

    def anchors(self, epoch: int) -> np.ndarray | None:
        """Return the images whose nearest classes `order` needs for this epoch (from 0).

        Returns:
            int32 [C], one image per class; None if the sampler uses no graph or already has that of
            this epoch.
        """
        return None

    def order(self, epoch: int, neighbours: np.ndarray | None = None) -> np.ndarray:
        """Return the images of each batch of an epoch.

        Args:
            epoch: from 0.
            neighbours: int [C, neighbour_count], nearest classes of each class; required where
                `anchors` returns images.

        Returns:
            int32 [steps_per_epoch, batch_size], indices of images.
        """
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """Return the state for a checkpoint; empty if orders depend on seed and epoch alone."""
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the `state` of a sampler with the same arguments.

        Raises:
            ValueError: the state belongs to other images or arguments. The sampler is unchanged.
        """
