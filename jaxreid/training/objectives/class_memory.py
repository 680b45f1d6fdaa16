"""QAConv's objective: every image against the latest map of every identity.

Source: Liao and Shao, ECCV 2020, arXiv 1904.10424.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreid.training.objectives.objective import Batch, Objective


@dataclasses.dataclass(frozen=True)
class ClassMemoryObjective(Objective):
    """QAConv's loss: every image against the latest map of every identity.

    Attributes:
        num_classes: training identities; memory rows beyond them are padding.
        valid_flags: exclude classes that have not been seen yet (QAConv 1.1 and later). False
            includes their empty maps, as in QAConv 1.0.
        axis_name: mesh axis over which the classes are divided.
    """

    uses_memory = True

    num_classes: int
    valid_flags: bool = True
    axis_name: str | None = None

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the mean focal loss, and the share of images whose best class is correct."""
        memory, label = batch.memory, batch.label
        rows = memory.valid.shape[0]
        if self.axis_name is None or jax.lax.axis_size(self.axis_name) == 1:
            # One device need not match the padding, which lets others divide the memory.
            memory = jax.tree.map(lambda x: x[: self.num_classes], memory)
            rows = min(rows, self.num_classes)
        first = 0 if self.axis_name is None else jax.lax.axis_index(self.axis_name) * rows
        real = first + jnp.arange(rows) < self.num_classes
        logit = model.match(batch.feature, memory.feature, train=True, mask=real)
        loss = focal_loss(logit, label, memory.valid if self.valid_flags else real, first)
        nearest = nearest_class(
            jnp.where(real, jax.lax.stop_gradient(logit), -jnp.inf), first, self.axis_name
        )
        accuracy = (nearest == label).astype(loss.dtype).mean()
        loss = loss.mean()
        if self.axis_name is not None:
            loss = jax.lax.psum(loss, self.axis_name)
            # Equal on every device already; the mean marks it as replicated for shard_map.
            accuracy = jax.lax.pmean(accuracy, self.axis_name)
        return loss, {"accuracy": accuracy}


def focal_loss(
    logit: jax.Array, label: jax.Array, valid: jax.Array, first_class: jax.Array | int = 0
) -> jax.Array:
    """Compute the focal binary cross-entropy of each image, summed over classes.

    Args:
        logit: [B, C] float, scores of the batch with (a part of) the classes.
        label: [B] int32.
        valid: [C] bool; classes with False are excluded.
        first_class: class of column 0.

    Returns:
        [B] sum over c of valid_c * w * BCE, with w = (1 - p)^2 for the correct class and p^2 for
        the others. The gradient includes the weight, as in the original code.

    Source: Liao and Shao, ECCV 2020, Eq. 4; QAConv 1.1 and later for the valid flags.
    """
    own = label[:, None] == first_class + jnp.arange(logit.shape[1])
    cross_entropy = optax.losses.sigmoid_binary_cross_entropy(logit, own.astype(logit.dtype))
    miss = jax.nn.sigmoid(jnp.where(own, -logit, logit))
    return jnp.sum(jnp.where(valid, jnp.square(miss) * cross_entropy, 0), axis=1)


def nearest_class(
    logit: jax.Array, first_class: jax.Array | int = 0, axis_name: str | None = None
) -> jax.Array:
    """Find the class with the highest score for each image, over all devices.

    Args:
        logit: [B, C] float; -inf for classes to exclude.
        first_class: class of column 0.
        axis_name: mesh axis over which the classes are divided, in order.

    Returns:
        [B] int32; the first one in case of ties.
    """
    best, nearest = logit.max(1), logit.argmax(1) + first_class
    if axis_name is not None:
        best = jax.lax.all_gather(best, axis_name)
        nearest = jax.lax.all_gather(nearest, axis_name)
        winner = best.argmax(0)
        nearest = jnp.take_along_axis(nearest, winner[None], axis=0)[0]
    return nearest
