"""torchreid's objectives: classification of the training identities, and triplets of distances."""

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
    """Classification of the training identities, and the hardest triplets of embeddings with it.

    Attributes:
        smoothing: of the labels (`smoothed_cross_entropy`).
        triplet: weight of the triplet loss beside the cross-entropy; 0 leaves it out.
        margin: of the triplet loss, in units of the distance.
        metric: of its distances, "euclidean" or "cosine"; the matcher may test with the other, as
            the published models of OSNet-AIN do.
        axis_name: mesh axis over which the images are divided.

    Source: torchreid's softmax and triplet engines (Zhou et al., ICCV 2019); Hermans et al., 2017,
        arXiv 1703.07737, for mining in the batch. An image is its own positive where its identity
        has no other in the batch.
    """

    classifies = True

    smoothing: float = 0.1
    triplet: float = 0.0
    margin: float = 0.3
    metric: str = "euclidean"
    axis_name: str | None = None

    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an option is out of its range.
        """
        check_name(self.metric, METRICS, "objective.metric")
        self._check("smoothing", below_one=True)
        self._check("triplet", "margin")

    def _check(self, *options: str, below_one: bool = False) -> None:
        """Raises ValueError for an option that is negative, or not below 1."""
        for option in options:
            value = getattr(self, option)
            if below_one and not 0 <= value < 1:
                raise ValueError(f"objective.{option} is {value}; it is in [0, 1).")
            if value < 0:
                raise ValueError(f"objective.{option} is {value}; it is 0 or more.")

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss, the share of images that are classified rightly, and the parts of a sum.

        Embeddings are classified; distances of what precedes the BN neck make the triplets.
        """
        label, own = batch.label, my_share(batch.label, self.axis_name)
        logit = model.classify(my_share(batch.feature, self.axis_name))
        mean = lambda values: total(values, self.axis_name) / len(label)  # noqa: E731
        loss = mean(smoothed_cross_entropy(logit, own, self.smoothing))
        stats = {"accuracy": mean(logit.argmax(1) == own)}
        if self.triplet:
            before = batch.before
            alike = -distances(my_share(before, self.axis_name), before, self.metric)
            same = own[:, None] == label[None, :]
            positive, negative = hardest(alike, same, jnp.zeros_like(same))
            triplet = mean(triplet_loss(positive, negative, self.margin))
            stats |= {"cross_entropy": loss, "triplet": triplet}
            loss = loss + self.triplet * triplet
        return loss, stats


def smoothed_cross_entropy(logit: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy [B] with a share of every target spread evenly over all classes.

    Args:
        logit: [B, C] float.
        label: [B] int32.
        smoothing: that share, in [0, 1).

    Source: Szegedy et al., CVPR 2016, Section 7; torchreid.
    """
    log = jax.nn.log_softmax(logit)
    own = jnp.take_along_axis(log, label[:, None], axis=1)[:, 0]
    return -(1 - smoothing) * own - smoothing * log.mean(1)
