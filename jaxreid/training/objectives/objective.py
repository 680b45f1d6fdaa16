"""The protocol of all objectives."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxreid.training.memory import ClassMemory


@dataclasses.dataclass(frozen=True)
class Batch:
    """Training batch passed to an objective: all images, replicated on every device.

    `jit` removes what an objective does not use.

    Attributes:
        feature: [B, h, w, d] or [B, d] float, features of the images.
        before: features before the BN neck, equal in shape but for the channels; `feature` itself
            without a BN neck.
        label: [B] int32, training identities.
        memory: this device's part of the class memory, or None.
        epoch: [] int32, from 0.
        key: random key of this step, the same on all devices; None in evaluation.
    """

    feature: jax.Array
    before: jax.Array
    label: jax.Array
    memory: ClassMemory | None = None
    epoch: jax.Array | int = 0
    key: jax.Array | None = None


class Objective:
    """Loss of a batch.

    An objective is one file with a subclass: a frozen dataclass with its options as attributes,
    `validate` if they can be invalid, and `__call__`. Attributes `num_classes` and `axis_name`
    receive the number of training identities and the mesh axis over which the step is divided.

    It is called inside the sharded step, once per device. The work is divided over the devices: by
    classes if there is a class memory, otherwise by images (`losses.my_share`, `losses.total`).

    Attributes:
        uses_memory: requires a class memory.
        classifies: requires logits of the training identities (`Model.classify`).
    """

    uses_memory: ClassVar[bool] = False
    classifies: ClassVar[bool] = False

    def validate(self) -> None:
        """Raise ValueError for an option out of its range."""

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the loss and the metrics to log.

        Args:
            model: `Model` bound to its variables: `match`, `match_perturbed`, `classify`.
            batch: images and labels.

        Returns:
            [] float, mean over the batch, and named scalars including "accuracy", a fraction. All
            are reduced over the mesh, so that the gradient of the loss needs no reduction.
        """
        raise NotImplementedError

    def remember(self, batch: Batch, first_class: jax.Array | int = 0) -> ClassMemory:
        """Return this device's part of the class memory after a batch.

        By default it keeps the latest feature of each identity (`ClassMemory.write`).

        Args:
            batch: images and labels, with the memory before.
            first_class: class of row 0 of this part.
        """
        return batch.memory.write(batch.feature, batch.label, first_class)
