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

    Differs: as in the original, a row whose loss is not finite is excluded from the mean. If no row
        is finite, the original silently skips the batch; here the loss is NaN, which stops the
        training with an error.
    """

    axis_name: str | None

    def scores(self, model: Any, batch: Batch) -> jax.Array:
        """Return the scores [Q, B] of this device's images with the whole batch."""
        # The gallery is replicated on every device.
        return model.match(my_share(batch.feature, self.axis_name), batch.feature, train=True)

    def losses(
        self, logit: jax.Array, same: jax.Array, itself: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return loss [Q] of each query, and whether [Q] its hardest positive beats all negatives.

        Args:
            logit: [Q, B] float, scores with the whole batch.
            same: [Q, B] bool, both images have the same identity.
            itself: [Q, B] bool, both are the same image.
        """
        raise NotImplementedError

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return mean loss, and share of images whose hardest positive beats all negatives."""
        count = len(batch.label)
        row = my_share(jnp.arange(count), self.axis_name)
        logit = self.scores(model, batch)
        same = batch.label[row, None] == batch.label[None, :]
        loss, correct = self.losses(logit, same, row[:, None] == jnp.arange(count))
        finite = jnp.isfinite(loss)
        loss = total(jnp.where(finite, loss, 0), self.axis_name) / total(finite, self.axis_name)
        return loss, {"accuracy": total(correct, self.axis_name) / count}


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
        """See `PairObjective.losses`; a positive beats negatives with a lower score."""
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

    def validate(self) -> None:
        """Raise ValueError for a margin below 0, with which wrong orders would cost nothing."""
        if self.margin < 0:
            raise ValueError(f"objective.margin is {self.margin}; expected 0 or more.")

    def losses(
        self, logit: jax.Array, same: jax.Array, itself: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See `PairObjective.losses`; a positive beats negatives with a lower or equal score."""
        positive, negative = hardest(logit, same, itself)
        return triplet_loss(positive, negative, self.margin), positive >= negative


def pairwise_loss(logit: jax.Array, same: jax.Array) -> jax.Array:
    """Compute the binary cross-entropy of each query, summed over the batch.

    Args:
        logit: [Q, B] float, scores with the whole batch, including each image with itself.
        same: [Q, B] bool, both images have the same identity.

    Returns:
        [Q] float.

    Source: QAConv 2.0, pairwise matching loss.
    """
    cross_entropy = optax.losses.sigmoid_binary_cross_entropy(logit, same.astype(logit.dtype))
    return cross_entropy.sum(1)
