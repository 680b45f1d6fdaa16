"""Batches with a fixed number of images from each of several data sets. NumPy only."""

import math
from collections.abc import Sequence

import numpy as np

from jaxreid.data.sampling.sampler import Sampler
from jaxreid.data.streams import Stream, derived_seed


def stretched(
    sampler: Sampler, epoch: int, steps: int, neighbours: np.ndarray | None = None
) -> np.ndarray:
    """Stretch an epoch to more steps than the sampler's own, by repeated passes in new orders.

    With m passes per epoch, pass j of epoch e is epoch e * m + j of the sampler; the last pass is
    cut short. A sampler with a graph must have this number of steps itself. `steps` is at least the
    number of steps of the sampler.

    Returns:
        int [steps, images].
    """
    passes = math.ceil(steps / sampler.steps_per_epoch)
    drawn = [sampler.order(epoch * passes + j, neighbours) for j in range(passes)]
    return np.concatenate(drawn)[:steps]


class QuotaSampler(Sampler):
    """Sampler that concatenates the batches of several samplers, one per data set.

    The first columns of an order are batches of the first data set, the next ones batches of the
    second, and so on. An epoch lasts as long as the data set that needs the most steps; the others
    start over (`stretched`).

    Args:
        samplers: one per data set; their orders must depend on the epoch alone.
        rows: int [n] per data set, indices of its images in the joined set.
    """

    def __init__(self, samplers: Sequence[Sampler], rows: Sequence[np.ndarray]) -> None:
        self._samplers, self._rows = list(samplers), list(rows)
        self.steps_per_epoch = max(sampler.steps_per_epoch for sampler in self._samplers)

    def order(self, epoch: int, neighbours: np.ndarray | None = None) -> np.ndarray:
        """Return the order of an epoch, int32 [steps, batch_size], indices into the joined set."""
        columns = [
            rows[stretched(sampler, epoch, self.steps_per_epoch)]
            for sampler, rows in zip(self._samplers, self._rows, strict=True)
        ]
        return np.concatenate(columns, axis=1).astype(np.int32)


def source_seed(seed: int, source: int) -> int:
    """Return the seed of one data set, so that data sets draw different numbers in an epoch."""
    return int(derived_seed(seed, source, Stream.DATA_SET))


def check_quota(
    name: str,
    quota: Sequence[int],
    sources: np.ndarray | None,
    images: int,
    batch_size: int,
    instances: int,
) -> list[np.ndarray]:
    """Check that a quota is possible for the sampler `name`; return `places`.

    Raises:
        ValueError: the quota is impossible.
    """
    setting = f"sampler.quota is {tuple(quota)}"
    if name == "graph":
        raise ValueError(
            f"{setting}, which the graph sampler cannot keep: its batches hold the most similar "
            "identities, from any data set. Use quota=(), or alternate=True for an epoch of each "
            "data set in turn, or the sampler random or pk"
        )
    if not all(isinstance(count, int | np.integer) and count >= 1 for count in quota):
        raise ValueError(f"{setting}; expected a whole number of at least 1 for each data set")
    rows = places(sources, images)
    if len(quota) != len(rows):
        raise ValueError(
            f"{setting}, for {len(quota)} data sets, but the images come from {len(rows)}: give a "
            "number for each set of data.train, or ()"
        )
    if sum(quota) != batch_size:
        raise ValueError(f"{setting}, {sum(quota)} images in total, but batch_size is {batch_size}")
    if name != "random" and (instances < 1 or any(count % instances for count in quota)):
        raise ValueError(f"{setting}; expected multiples of instances, {instances}")
    return rows


def places(sources: np.ndarray | None, images: int) -> list[np.ndarray]:
    """Return the indices of the images of each data set, int [n] each.

    `sources` (int [N]) is the data set of each of the N `images`, from 0; None is a single one.

    Raises:
        ValueError: not one source per image, or a data set without images.
    """
    sources = np.zeros(images, np.int32) if sources is None else np.asarray(sources)
    if sources.shape != (images,):
        raise ValueError(f"sources have shape {sources.shape}; expected one per image: {images}")
    rows = [np.flatnonzero(sources == s) for s in range(int(sources.max(initial=-1)) + 1)]
    if empty := [s for s, row in enumerate(rows) if not len(row)]:
        raise ValueError(f"data set {empty[0]} of 0 to {len(rows) - 1} has no image")
    return rows
