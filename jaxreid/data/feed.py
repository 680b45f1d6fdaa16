"""The images of a training: sampled, decoded, augmented, in batches."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreid.data.sampling.samplers import make_sampler
from jaxreid.data.split import Split


class Feed:
    """Batches of a training set, epoch by epoch.

    Args:
        images: the training set.
        sampler: keywords of `make_sampler`: name, instances, quota, alternate.
        augment: keywords of `augmentation.augment`; and "after_accuracy": images stay as they are
            until the accuracy of an epoch has been higher (QAConv 1.1 and 1.2: 0.6); 0 augments
            from the start.
        batch_size: images per step, over all processes.
        height: of the images, in pixels.
        width: of the images, in pixels.
        seed: of order and augmentation.
        interpolation: "bicubic" or "bilinear", of the resize.

    Attributes:
        steps_per_epoch: batches of an epoch.
        neighbour_count: as for `Sampler`, as are the methods anchors, state and restore.

    Raises:
        ValueError: a setting that cannot work.
    """

    def __init__(
        self,
        images: Split,
        *,
        sampler: Mapping[str, Any],
        augment: Mapping[str, Any],
        batch_size: int,
        height: int,
        width: int,
        seed: int,
        interpolation: str = "bicubic",
    ) -> None:
        augment = dict(augment)
        self._after = augment.pop("after_accuracy")
        self._augment = augment
        self._sampler = make_sampler(
            labels=images.labels,
            sources=images.source,
            batch_size=batch_size,
            seed=seed,
            **sampler,
        )
        self.steps_per_epoch = self._sampler.steps_per_epoch
        self.neighbour_count = self._sampler.neighbour_count
        self.anchors = self._sampler.anchors
        self.state, self.restore = self._sampler.state, self._sampler.restore
        # Late: TensorFlow, without which training can be asked for, and is refused in words.
        from jaxreid.data.pipeline import ImageStore, train_batches

        self._batches = functools.partial(
            train_batches,
            ImageStore(images.image, images.name),
            images.labels,
            height=height,
            width=width,
            seed=seed,
            interpolation=interpolation,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        trial = np.zeros((1, batch_size), np.int32)
        self._batches(trial, augment=augment, epoch=0).close()  # finds wrong settings early

    def batches(
        self,
        epoch: int,
        *,
        start: int,
        accuracy: Sequence[float],
        neighbours: np.ndarray | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Returns this process's part of the batches of one epoch.

        Args:
            epoch: from 0; after another one, the next.
            start: first step wanted.
            accuracy: of every epoch so far.
            neighbours: as for `Sampler.order`.
        """
        order = self._sampler.order(epoch, neighbours)
        plain = self._after and not any(value > self._after for value in accuracy[:epoch])
        return self._batches(
            order, augment=None if plain else self._augment, epoch=epoch, start=start
        )
