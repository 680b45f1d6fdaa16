"""Batches with a fixed number of images from each of several data sets. NumPy only."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

_STREAM = 8  # samplers.py uses 1 and 2, pipeline.py 3, graph_sampler.py 4 to 7


class Sampler(Protocol):
    """What is needed of the sampler of one data set: `samplers.EpochSampler` has it."""

    steps_per_epoch: int

    def order(self, epoch: int, nearest: Any = None) -> np.ndarray:
        """The order of an epoch, int [steps_per_epoch, images]."""


def stretched(sampler: Sampler, epoch: int, steps: int, nearest: Any = None) -> np.ndarray:
    """An epoch of so many steps, at least the sampler's own: it starts over, in a new order.

    What the last pass has left at the end is not used; with m passes in each epoch, pass j of
    epoch e is epoch e * m + j of the sampler.

    Args:
        sampler: of one data set.
        epoch: from 0.
        steps: wanted.
        nearest: handed on to the sampler.

    Returns:
        int [steps, images].
    """
    passes = math.ceil(steps / sampler.steps_per_epoch)
    drawn = [sampler.order(epoch * passes + j, nearest) for j in range(passes)]
    return np.concatenate(drawn)[:steps]


class QuotaSampler:
    """Batches put together from those of several samplers, one for each data set.

    The first columns of an order are batches of the first data set, the next ones batches of the
    second, and so on. An epoch lasts as long as the data set that needs the most steps; the others
    start over (`stretched`).

    Args:
        samplers: of the data sets, whose orders are functions of the epoch alone.
        rows: of each data set, int [n], the places of its images in the joined set.

    Attributes:
        steps_per_epoch: batches of an epoch.
    """

    def __init__(self, samplers: Sequence[Sampler], rows: Sequence[np.ndarray]) -> None:
        self._samplers, self._rows = list(samplers), list(rows)
        self.steps_per_epoch = max(sampler.steps_per_epoch for sampler in self._samplers)

    def order(self, epoch: int, nearest: object = None) -> np.ndarray:
        """The order of an epoch, int32 [steps, batch_size], indices into the joined set."""
        del nearest  # for `GraphSampler`
        columns = [
            rows[stretched(sampler, epoch, self.steps_per_epoch)]
            for sampler, rows in zip(self._samplers, self._rows, strict=True)
        ]
        return np.concatenate(columns, axis=1).astype(np.int32)

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs to go on: nothing."""
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Goes on."""


def source_seed(seed: int, source: int) -> int:
    """The seed of one data set; different ones draw different numbers in the same epoch."""
    return int(np.random.SeedSequence([seed, source, _STREAM]).generate_state(1, np.uint64)[0])


def check_quota(
    name: str,
    quota: Sequence[int],
    sources: np.ndarray | None,
    images: int,
    batch_size: int,
    instances: int,
) -> list[np.ndarray]:
    """Refuses a quota that cannot be kept.

    Args:
        name: of the sampler.
        quota: images of each data set in a batch.
        sources: int [N], the data set of every image, from 0, or None for one.
        images: N.
        batch_size: images per global batch.
        instances: images per identity in a batch, of "pk".

    Returns:
        The places of the images of each data set, int [n] each.

    Raises:
        ValueError: it cannot be kept.
    """
    text = f"sampler.quota is {tuple(quota)}"
    if name == "graph":
        raise ValueError(
            f"{text}, which the graph sampler cannot keep: its batches hold the identities that "
            "are most alike, of whichever data set. Use quota=(), or alternate=True for an epoch "
            "of each data set in turn, or the sampler random or pk"
        )
    if not all(isinstance(count, int | np.integer) and count >= 1 for count in quota):
        raise ValueError(f"{text} and must hold a whole number of at least 1 for each data set")
    rows = places(sources, images)
    if len(quota) != len(rows):
        raise ValueError(f"{text}, for {len(quota)} data sets, and the images are of {len(rows)}")
    if sum(quota) != batch_size:
        raise ValueError(f"{text}, {sum(quota)} images together, and batch_size is {batch_size}")
    if name == "pk" and (instances < 1 or any(count % instances for count in quota)):
        raise ValueError(f"{text} and must hold multiples of instances, {instances}")
    return rows


def places(sources: np.ndarray | None, images: int) -> list[np.ndarray]:
    """The places of the images of each data set, int [n] each.

    Args:
        sources: int [N], the data set of every image, from 0, or None for one.
        images: N.

    Raises:
        ValueError: another number of sources.
    """
    sources = np.zeros(images, np.int32) if sources is None else np.asarray(sources)
    if sources.shape != (images,):
        raise ValueError(f"sources have shape {sources.shape} and must be one per image: {images}")
    rows = [np.flatnonzero(sources == s) for s in range(int(sources.max(initial=-1)) + 1)]
    if empty := [s for s, row in enumerate(rows) if not len(row)]:
        raise ValueError(f"data set {empty[0]} of 0 to {len(rows) - 1} has no image")
    return rows
