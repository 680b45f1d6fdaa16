"""Objectives on the scores of a batch with itself.

Source: QAConv 2.0 (all pairs) and 2.1 (hardest triplets; QAConv-GS, CVPR 2022, arXiv 2104.01546).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreid.training.losses import hardest, my_share, total, triplet_loss
from jaxreid.training.objectives.objective import Batch, Objective


class PairObjective(Objective):
    """Base of losses on the scores of a batch with itself.

    Differs: a row whose loss is not finite is left out of the mean, as in the original; where none
        is finite the original silently goes on to the next batch, and here the loss is NaN, which
        ends the training with a message.
    """

    axis_name: str | None

    def losses(
        self, logit: jax.Array, same: jax.Array, itself: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Loss [Q] of each query, and whether [Q] its hardest positive beats all negatives.

        Args:
            logit: [Q, B] float, scores with the whole batch.
            same: [Q, B] bool, the two are of one identity.
            itself: [Q, B] bool, the two are one image.
        """
        raise NotImplementedError

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss, and the share of images whose hardest positive beats the hardest negative."""
        count = len(batch.label)
        row = my_share(jnp.arange(count), self.axis_name)
        # The gallery is whole on every device.
        logit = model.match(my_share(batch.feature, self.axis_name), batch.feature, train=True)
        same = batch.label[row, None] == batch.label[None, :]
        loss, right = self.losses(logit, same, row[:, None] == jnp.arange(count))
        finite = jnp.isfinite(loss)
        loss = total(jnp.where(finite, loss, 0), self.axis_name) / total(finite, self.axis_name)
        return loss, {"accuracy": total(right, self.axis_name) / count}


@dataclasses.dataclass(frozen=True)
class PairwiseObjective(PairObjective):
    """Cross-entropy of all pairs (QAConv 2.0, QAConv-MS).

    Attributes:
        axis_name: mesh axis over which the queries are divided.
    """

    axis_name: str | None = None

    def losses(
        self, logit: jax.Array, same: jax.Array, itself: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """As `PairObjective.losses`; a positive beats only what is less alike."""
        positive, negative = hardest(logit, same, itself)
        return pairwise_loss(logit, same), positive > negative


@dataclasses.dataclass(frozen=True)
class TripletObjective(PairObjective):
    """Batch-hard triplets of scores (QAConv 2.1).

    Attributes:
        margin: in units of the score.
        axis_name: mesh axis over which the queries are divided.
    """

    margin: float = 16.0
    axis_name: str | None = None

    def losses(
        self, logit: jax.Array, same: jax.Array, itself: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """As `PairObjective.losses`; a positive beats what is no more alike."""
        positive, negative = hardest(logit, same, itself)
        return triplet_loss(positive, negative, self.margin), positive >= negative


def pairwise_loss(logit: jax.Array, same: jax.Array) -> jax.Array:
    """Binary cross-entropy of each query, summed over the batch.

    Args:
        logit: [Q, B] float, scores with the whole batch, each image with itself included.
        same: [Q, B] bool, the two are of one identity.

    Returns:
        [Q] float.

    Source: QAConv 2.0, pairwise matching loss.
    """
    cross_entropy = optax.losses.sigmoid_binary_cross_entropy(logit, same.astype(logit.dtype))
    return cross_entropy.sum(1)
