"""Centre loss: classification, triplets, and the distances of embeddings to their class centres.

Notation: B images of the batch, d channels of an embedding, C classes in this part of the memory.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.training.losses import total
from jaxreid.training.memory import ClassMemory
from jaxreid.training.objectives.objective import Batch
from jaxreid.training.objectives.softmax import SoftmaxObjective


@dataclasses.dataclass(frozen=True)
class CentreObjective(SoftmaxObjective):
    """Softmax objective with triplets, and a pull of embeddings towards the centre of their class.

    The class memory holds the centres. They and the pulled embeddings are features before the BN
    neck.

    Attributes:
        triplet: weight of the triplet loss; 0 disables it.
        centre: weight of the centre loss: half the squared distance to the centre, averaged over
            the batch.
        centre_rate: alpha, how far a centre moves towards the images of a batch.

    Source: Wen et al., ECCV 2016, Eq. 2 to 5, also for `centre_rate`; Luo et al., CVPRW 2019, for
        re-identification with triplets, and for the weight.
    Differs: a centre starts at the mean of the first images of its identity, and counts after them;
        in the papers it starts at random.
    """

    uses_memory = True

    triplet: float = 1.0
    centre: float = 5e-4
    centre_rate: float = 0.5

    def validate(self) -> None:
        """Raise ValueError for an option out of its range."""
        super().validate()
        self._check("centre")
        if not 0 < self.centre_rate <= 1:
            raise ValueError(
                f"objective.centre_rate is {self.centre_rate}; expected a value in (0, 1]."
            )

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the mean loss, the accuracy and the terms."""
        loss, stats = super().__call__(model, batch)
        first = 0
        if self.axis_name is not None:
            first = jax.lax.axis_index(self.axis_name) * len(batch.memory.valid)
        held, known, mine = own_centres(batch, first)
        squares = jnp.where(mine & known, jnp.square(batch.before - held).sum(1), 0)
        centre = total(squares, self.axis_name) / (2 * len(batch.label))
        stats = {"cross_entropy": loss} | stats | {"centre": centre}
        return loss + self.centre * centre, stats

    def remember(self, batch: Batch, first_class: jax.Array | int = 0) -> ClassMemory:
        """Return the centres after a batch; see `Objective.remember`.

        A centre with n images in the batch moves by n / (1 + n) * `centre_rate` of the way to their
        mean.
        """
        held, known, _ = own_centres(batch, first_class)
        same = (batch.label[:, None] == batch.label).astype(batch.before.dtype)
        count = same.sum(1, keepdims=True)
        mean = jnp.matmul(same, batch.before, precision="highest") / count
        moved = held + self.centre_rate * count / (1 + count) * (mean - held)
        centre = jnp.where(known[:, None], moved, mean)
        return batch.memory.write(centre, batch.label, first_class)


def own_centres(
    batch: Batch, first_class: jax.Array | int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Look up the centre of each image in this device's part of the class memory.

    Args:
        batch: B images, with the memory.
        first_class: class of row 0 of this part.

    Returns:
        [B, d] centres; [B] bool, the centre exists; [B] bool, it belongs to this part, without
        which the other two mean nothing.

    Raises:
        ValueError: centres and embeddings have different channels.
    """
    memory, expected = batch.memory, batch.before.shape[1:]
    if memory.feature.shape[1:] != expected:
        raise ValueError(
            f"embeddings have {memory.feature.shape[1:]} channels and {expected} before the BN "
            "neck; objective 'centre' expects the same number. Use neck 'pooled' or 'linear'."
        )
    row = batch.label - first_class
    mine = (row >= 0) & (row < len(memory.valid))
    row = jnp.where(mine, row, 0)
    return memory.feature[row], memory.valid[row], mine
