"""Training batches: sampled, decoded and augmented images."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreid.data.images import device
from jaxreid.data.sampling.samplers import make_sampler
from jaxreid.data.split import Split
from jaxreid.mesh import platform


class Feed:
    """Batches of a training set, epoch by epoch.

    Args:
        sampler: keywords of `make_sampler`: name, instances, quota, alternate.
        augment: keywords of `augmentation.plan`; "after_accuracy": augment only after an epoch with
            a higher training accuracy (QAConv 1.1 and 1.2: 0.6); 0 augments from the start; and
            "on": where to augment, on the "host", on the "device" inside the training step, or
            "auto" for the device unless it is a CPU.
        batch_size: images per step over all processes.
        interpolation: resize method, "bicubic" or "bilinear".

    Attributes:
        steps_per_epoch: batches per epoch.
        neighbour_count: see `Sampler`, also for the methods anchors, state and restore.
        augment: for `train_step`, (image, augmentation of a batch) -> augmented image of the size
            of the model; None if the host does it.

    Raises:
        ValueError: a setting is invalid.
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
        on_device = is_on_device(augment.pop("on"))
        self._settings, self._on_device = augment, on_device
        self._sampler = make_sampler(
            labels=images.labels,
            cameras=images.camid,
            sources=images.source,
            batch_size=batch_size,
            seed=seed,
            **sampler,
        )
        self.steps_per_epoch = self._sampler.steps_per_epoch
        self.neighbour_count = self._sampler.neighbour_count
        self.anchors = self._sampler.anchors
        self.state, self.restore = self._sampler.state, self._sampler.restore
        # Imported late because it imports TensorFlow: `jaxreid.training` must import without it, to
        # refuse training with a readable message.
        from jaxreid.data.images.augmentation import plan
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
        # Build the pipeline once, so that wrong settings are reported now.
        trial = np.zeros((1, batch_size), np.int32)
        self._batches(trial, augment=augment, epoch=0, on_device=on_device).close()
        self.augment = None
        if on_device:
            size = {"height": height, "width": width}
            form = {"plan": plan(**size, **augment), **size, "interpolation": interpolation}
            self.augment = functools.partial(device.augment, **form)

    def batches(
        self,
        epoch: int,
        *,
        start: int,
        accuracy: Sequence[float],
        neighbours: np.ndarray | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Return this process's part of the batches of one epoch.

        Args:
            epoch: from 0, requested in order.
            start: first step to return.
            accuracy: training accuracy of each epoch so far.
            neighbours: see `Sampler.order`.
        """
        order = self._sampler.order(epoch, neighbours)
        plain = self._after and not any(value > self._after for value in accuracy[:epoch])
        augment = {"augment": None if plain else self._settings}
        if self._on_device:
            # The same form of batches in all epochs, for which the step is compiled once.
            augment = {"augment": self._settings, "on_device": True, "augmented": not plain}
        return self._batches(order, epoch=epoch, start=start, **augment)


def is_on_device(where: str) -> bool:
    """Return whether a device augments; where is "host", "device" or "auto" (`augment.on`)."""
    return where == "device" or (where == "auto" and platform() != "cpu")
