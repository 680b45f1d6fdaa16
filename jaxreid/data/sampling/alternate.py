"""Epochs that are of one data set each, in turn. NumPy only."""

import copy
from collections.abc import Callable, Sequence

import numpy as np

from jaxreid.data.sampling.quota import Sampler, stretched


class AlternatingSampler:
    """Epoch e holds batches of data set e modulo their number, which its own sampler draws.

    All epochs are as long as the data set that needs the most steps makes them; the others start
    over within theirs. A graph is therefore made of the identities of one data set only, at the
    start of its epoch.

    Args:
        samplers: of the data sets; a `GraphSampler` with as many steps as the longest.
        rows: of each data set, int [n], the places of its images in the joined set.

    Attributes:
        steps_per_epoch: batches of an epoch.

    Source: the multi-source training of QAConv-MS (Chen et al., TCSVT 2024).
    """

    def __init__(self, samplers: Sequence[Sampler], rows: Sequence[np.ndarray]) -> None:
        self._samplers, self._rows = list(samplers), list(rows)
        self.steps_per_epoch = max(sampler.steps_per_epoch for sampler in self._samplers)

    def order(
        self, epoch: int, nearest: Callable[[np.ndarray, int], np.ndarray] | None = None
    ) -> np.ndarray:
        """The order of an epoch, int32 [steps, batch_size], indices into the joined set.

        Args:
            epoch: as for the samplers: of "graph" the one last asked for, or the one after it.
            nearest: as for `GraphSampler.order`, with images of the joined set and the classes of
                one data set.
        """
        turn, source = divmod(epoch, len(self._samplers))
        rows = self._rows[source].astype(np.int32)

        def nearest_here(anchors: np.ndarray, count: int) -> np.ndarray:
            return nearest(rows[anchors], count)

        return rows[stretched(self._samplers[source], turn, self.steps_per_epoch, nearest_here)]

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs to go on: the states of all samplers, by number."""
        return {
            f"{key}_{source}": value
            for source, sampler in enumerate(self._samplers)
            for key, value in sampler.state().items()
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Goes on where a sampler with the same arguments had this state.

        Args:
            state: as `state` returns it.

        Raises:
            ValueError: it belongs to other images or arguments. The sampler is then as before.
        """
        if set(state) != set(self.state()):
            raise ValueError(f"a state holds {sorted(self.state())}, not {sorted(state)}")
        restored = copy.deepcopy(self._samplers)
        for source, sampler in enumerate(restored):
            sampler.restore({key: state[f"{key}_{source}"] for key in sampler.state()})
        self._samplers = restored
