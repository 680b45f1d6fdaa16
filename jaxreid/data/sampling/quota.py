"""Batches with a fixed number of images from each of several data sets. NumPy only."""

import math
from collections.abc import Sequence

import numpy as np

from jaxreid.data.sampling.sampler import Sampler
from jaxreid.data.streams import Stream, derived_seed


def stretched(
    sampler: Sampler, epoch: int, steps: int, neighbours: np.ndarray | None = None
) -> np.ndarray:
    """An epoch of more steps than the sampler's own: the sampler starts over, in a new order.

    The rest of the last pass is not used; with m passes in each epoch, pass j of epoch e is epoch
    e * m + j of the sampler. A sampler with a graph must have these steps itself.

    Args:
        sampler: of one data set.
        epoch: from 0.
        steps: steps of the result, at least those of the sampler.
        neighbours: as for `Sampler.order`.

    Returns:
        int [steps, images].
    """
    passes = math.ceil(steps / sampler.steps_per_epoch)
    drawn = [sampler.order(epoch * passes + j, neighbours) for j in range(passes)]
    return np.concatenate(drawn)[:steps]


class QuotaSampler(Sampler):
    """Batches put together from those of several samplers, one for each data set.

    The first columns of an order are batches of the first data set, the next ones batches of the
    second, and so on. An epoch lasts as long as the data set that needs the most steps; the others
    start over (`stretched`).

    Args:
        samplers: of the data sets, whose orders are functions of the epoch alone.
        rows: of each data set, int [n], the places of its images in the joined set.
    """

    def __init__(self, samplers: Sequence[Sampler], rows: Sequence[np.ndarray]) -> None:
        self._samplers, self._rows = list(samplers), list(rows)
        self.steps_per_epoch = max(sampler.steps_per_epoch for sampler in self._samplers)

    def order(self, epoch: int, neighbours: np.ndarray | None = None) -> np.ndarray:
        """Order of an epoch, int32 [steps, batch_size], indices into the joined set."""
        columns = [
            rows[stretched(sampler, epoch, self.steps_per_epoch)]
            for sampler, rows in zip(self._samplers, self._rows, strict=True)
        ]
        return np.concatenate(columns, axis=1).astype(np.int32)


def source_seed(seed: int, source: int) -> int:
    """The seed of one data set; different ones draw different numbers in the same epoch."""
    return int(derived_seed(seed, source, Stream.DATA_SET))


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
