"""Protocol of all samplers. NumPy only."""

from collections.abc import Mapping

import numpy as np


class Sampler:
    """Order of the images in each epoch.

    For every epoch the caller asks for the anchors first. If there are any, it finds the
    nearest classes of each one and gives them to `order`:

        anchors = sampler.anchors(epoch)
        neighbours = None if anchors is None else nearest(anchors, sampler.neighbour_count)
        order = sampler.order(epoch, neighbours)

    This class is that of samplers without a graph and without a state.

    Attributes:
        steps_per_epoch: batches of an epoch, the same in every epoch.
        neighbour_count: nearest classes that `order` takes for each class; 0 without a graph.
    """

    steps_per_epoch: int
    neighbour_count: int = 0

    def anchors(self, epoch: int) -> np.ndarray | None:
        """Images whose nearest classes `order` needs for this epoch.

        Args:
            epoch: from 0.

        Returns:
            int32 [C], an image of each class; None if the sampler uses no graph, or holds that of
            this epoch already.
        """
        return None

    def order(self, epoch: int, neighbours: np.ndarray | None = None) -> np.ndarray:
        """Images of every batch of an epoch.

        Args:
            epoch: from 0.
            neighbours: int [C, neighbour_count], the nearest classes of each class, where `anchors`
                asks for them.

        Returns:
            int32 [steps_per_epoch, batch_size], indices of images.
        """
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """State for a checkpoint; empty where an order depends on seed and epoch alone."""
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from a state of a sampler with the same arguments.

        Raises:
            ValueError: the state belongs to other images or arguments. The sampler is unchanged.
        """
