"""Sampler for epochs of one data set each, in turn. NumPy only."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np

from jaxreid.data.sampling.quota import stretched
from jaxreid.data.sampling.sampler import Sampler


class AlternatingSampler(Sampler):
    """Sampler that takes epoch e from data set e mod S of S data sets, by the sampler of this set.

    All epochs have the length of the data set that needs the most steps; the other data sets start
    over within their epochs. A graph therefore covers the identities of one data set only and is
    computed at the start of its epoch.

    Args:
        samplers: one per data set; a `GraphSampler` must have as many steps as the longest.
        rows: int [n] per data set, indices of its images in the joined set.

    Source: the multi-source training of QAConv-MS (Chen et al., TCSVT 2024).
    """

    def __init__(self, samplers: Sequence[Sampler], rows: Sequence[np.ndarray]) -> None:
        self._samplers, self._rows = list(samplers), list(rows)
        self.steps_per_epoch = max(sampler.steps_per_epoch for sampler in self._samplers)
        self.neighbour_count = self._samplers[0].neighbour_count

    def anchors(self, epoch: int) -> np.ndarray | None:
        """Return images of the joined set, int32 [C], one per class of this epoch's data set."""
        turn, source = divmod(epoch, len(self._samplers))
        anchors = self._samplers[source].anchors(turn)
        return None if anchors is None else self._rows[source].astype(np.int32)[anchors]

    def order(self, epoch: int, neighbours: np.ndarray | None = None) -> np.ndarray:
        """Return the order of an epoch, int32 [steps, batch_size], indices into the joined set.

        Args:
            epoch: as for the samplers: "graph" accepts the current epoch or the next one.
            neighbours: nearest classes of each class of this epoch's data set, numbered from 0
                within it.
        """
        turn, source = divmod(epoch, len(self._samplers))
        sampler, steps = self._samplers[source], self.steps_per_epoch
        return self._rows[source].astype(np.int32)[stretched(sampler, turn, steps, neighbours)]

    def state(self) -> dict[str, np.ndarray]:
        """Return the states of all samplers; keys end in the index of the sampler."""
        return {
            f"{key}_{source}": value
            for source, sampler in enumerate(self._samplers)
            for key, value in sampler.state().items()
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the `state` of a sampler with the same arguments.

        Raises:
            ValueError: the state belongs to other images or arguments. The sampler is unchanged.
        """
        if set(state) != set(self.state()):
            raise ValueError(
                f"expected a sampler state with the keys {sorted(self.state())}, "
                f"got {sorted(state)}"
            )
        restored = copy.deepcopy(self._samplers)
        for source, sampler in enumerate(restored):
            sampler.restore({key: state[f"{key}_{source}"] for key in sampler.state()})
        self._samplers = restored
