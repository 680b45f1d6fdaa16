"""torchreid's objectives: classification of the training identities, and distance triplets."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.names import check_name
from jaxreid.ops.metrics import METRICS, distances
from jaxreid.training.losses import hardest, my_share, total, triplet_loss
from jaxreid.training.objectives.objective import Batch, Objective


@dataclasses.dataclass(frozen=True)
class SoftmaxObjective(Objective):
    """Classification of the training identities, optionally with the hardest embedding triplets.

    Attributes:
        smoothing: label smoothing (`smoothed_cross_entropy`).
        triplet: weight of the triplet loss; 0 disables it.
        margin: margin of the triplet loss, in units of the distance.
        metric: distance of the triplet loss, "euclidean" or "cosine". The matcher may use the other
            one for testing, as the published OSNet-AIN models do.
        axis_name: mesh axis over which the images are divided.

    Source: torchreid's softmax and triplet engines (Zhou et al., ICCV 2019); Hermans et al., 2017,
        arXiv 1703.07737, for mining in the batch. An image is its own positive if its identity has
        no other image in the batch.
    """

    classifies = True

    smoothing: float = 0.1
    triplet: float = 0.0
    margin: float = 0.3
    metric: str = "euclidean"
    axis_name: str | None = None

    def validate(self) -> None:
        """Raise ValueError for an option out of its range."""
        check_name(self.metric, METRICS, "objective.metric")
        self._check("smoothing", below_one=True)
        self._check("triplet", "margin")

    def _check(self, *options: str, below_one: bool = False) -> None:
        """Raise ValueError for an option that is negative, or not below 1 if `below_one`."""
        for option in options:
            value = getattr(self, option)
            if below_one and not 0 <= value < 1:
                raise ValueError(f"objective.{option} is {value}; expected a value in [0, 1).")
            if value < 0:
                raise ValueError(f"objective.{option} is {value}; expected 0 or more.")

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the mean loss, the accuracy, and the terms if there are several.

        Classification uses the embeddings, triplets the features before the BN neck.
        """
        label, own = batch.label, my_share(batch.label, self.axis_name)
        plain, logit = self.logits(model, my_share(batch.feature, self.axis_name), own)
        mean = lambda values: total(values, self.axis_name) / len(label)  # noqa: E731
        loss = mean(smoothed_cross_entropy(logit, own, self.smoothing))
        stats = {"accuracy": mean(plain.argmax(1) == own)}
        if self.triplet:
            before = batch.before
            alike = -distances(my_share(before, self.axis_name), before, self.metric)
            same = own[:, None] == label[None, :]
            positive, negative = hardest(alike, same, jnp.zeros_like(same))
            triplet = mean(triplet_loss(positive, negative, self.margin))
            stats |= {"cross_entropy": loss, "triplet": triplet}
            loss = loss + self.triplet * triplet
        return loss, stats

    def logits(
        self, model: Any, embedding: jax.Array, label: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the logits [b, C] of embeddings [b, d]: for the accuracy, and for the loss."""
        logit = model.classify(embedding)
        return logit, logit


def smoothed_cross_entropy(logit: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """Compute the cross-entropy [B] with label smoothing.

    Args:
        logit: [B, C] float.
        label: [B] int32.
        smoothing: share of every target spread evenly over all classes, in [0, 1).

    Source: Szegedy et al., CVPR 2016, Section 7; torchreid.
    """
    log = jax.nn.log_softmax(logit)
    own = jnp.take_along_axis(log, label[:, None], axis=1)[:, 0]
    return -(1 - smoothing) * own - smoothing * log.mean(1)
