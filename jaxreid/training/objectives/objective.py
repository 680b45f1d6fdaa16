"""The protocol of all objectives."""

import dataclasses
from typing import Any, ClassVar

import jax

from jaxreid.training.memory import ClassMemory


@dataclasses.dataclass(frozen=True)
class Batch:
    """A training batch as an objective sees it: all images, whole on every device.

    `jit` leaves out what an objective does not use.

    Attributes:
        feature: [B, h, w, d] or [B, d] float, features of the images.
        before: of the same shape but for the channels, what precedes the BN neck; the features
            again where there is none.
        label: [B] int32, training identities.
        memory: this device's part of the class memory, or None.
        epoch: [] int32, from 0.
        key: random key of this step, the same on all devices; None in an evaluation.
    """

    feature: jax.Array
    before: jax.Array
    label: jax.Array
    memory: ClassMemory | None = None
    epoch: jax.Array | int = 0
    key: jax.Array | None = None


class Objective:
    """Loss of a batch.

    An objective is one file: a subclass, a frozen dataclass with its options as attributes,
    `validate` if they can be wrong, and `__call__`. Attributes `num_classes` and `axis_name`
    receive the number of training identities and the mesh axis over which the step is spread.

    It is called inside the sharded step, once per device. The work is divided over the devices: by
    classes where there is a class memory, else by images (`losses.my_share`, `losses.total`).

    Attributes:
        uses_memory: needs a class memory.
        classifies: needs logits of the training identities (`Model.classify`).
    """

    uses_memory: ClassVar[bool] = False
    classifies: ClassVar[bool] = False

    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an option is out of its range.
        """

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Loss and numbers to log.

        Args:
            model: the `Model`, bound to its variables: `match`, `match_perturbed`, `classify`.
            batch: images and labels.

        Returns:
            [] float, the mean over the batch, and named scalars, among them "accuracy", a fraction.
            All are reduced over the mesh, and so the gradient of the loss needs no reduction.
        """
        raise NotImplementedError
