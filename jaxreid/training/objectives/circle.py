"""Circle loss: of images and classes, and of the pairs of a batch.

Source: Sun et al., CVPR 2020, arXiv 2002.10857.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.ops.metrics import similarity
from jaxreid.training.losses import hardest, my_share
from jaxreid.training.objectives.margins import MarginObjective, check_scale
from jaxreid.training.objectives.objective import Batch
from jaxreid.training.objectives.pairs import PairObjective


@dataclasses.dataclass(frozen=True)
class CircleObjective(MarginObjective):
    """Circle loss of class-level labels: classification by weighted cosines.

    Attributes:
        class_margin: relaxation m: cosines above 1 - m with the correct class, and below m with
            others, are good enough.

    Source: Sun et al., CVPR 2020, Eq. 4 to 6 with the weights of the classes as the other side of a
        pair; `scale` is gamma.
    """

    scale: float = 128.0
    class_margin: float = 0.25

    def validate(self) -> None:
        """Raise ValueError for an option out of its range."""
        super().validate()
        self._check("class_margin", below_one=True)

    def with_margin(self, cosine: jax.Array, own: jax.Array) -> jax.Array:
        """See `MarginObjective.with_margin`."""
        return circle_scores(cosine, own, self.class_margin)


@dataclasses.dataclass(frozen=True)
class CirclePairsObjective(PairObjective):
    """Circle loss of pairwise labels: cosines of all pairs of embeddings in a batch.

    It uses the features before the BN neck. An image without a positive or without a negative has
    a loss of 0.

    Attributes:
        scale: gamma, the factor of the weighted cosines.
        margin: relaxation m: cosines above 1 - m in a pair of one identity, and below m in others,
            are good enough.
        axis_name: mesh axis over which the queries are divided.

    Source: Sun et al., CVPR 2020, Eq. 4 to 6; defaults of its image retrieval.
    """

    scale: float = 80.0
    margin: float = 0.4
    axis_name: str | None = None

    def validate(self) -> None:
        """Raise ValueError for an option out of its range."""
        check_scale(self.scale)
        if not 0 <= self.margin < 1:
            raise ValueError(f"objective.margin is {self.margin}; expected a value in [0, 1).")

    def scores(self, model: Any, batch: Batch) -> jax.Array:
        """See `PairObjective.scores`: cosines, whatever the matcher."""
        if batch.before.ndim != 2:
            raise ValueError(
                "objective 'circle_pairs' compares embeddings, but the neck makes feature maps; "
                "use neck 'pooled' or 'linear', as configs/osnet.py does, or objective 'triplet'."
            )
        return similarity(my_share(batch.before, self.axis_name), batch.before, "cosine")

    def losses(
        self, logit: jax.Array, same: jax.Array, itself: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See `PairObjective.losses`; a positive beats negatives with a lower or equal score."""
        positive, negative = hardest(logit, same, itself)
        return circle_loss(logit, same, itself, self.scale, self.margin), positive >= negative


def circle_scores(cosine: jax.Array, same: jax.Array, margin: float) -> jax.Array:
    """Compute alpha * (s - delta) of each pair: cosines, weighted by their distance to the optimum.

    The weights have no gradient.

    Args:
        cosine: float, any shape.
        same: bool of the same shape, pairs of one identity.
        margin: relaxation m.

    Source: Sun et al., CVPR 2020, Eq. 5, with optima 1 + m and -m and margins 1 - m and m; Eq. 10
        for weights without gradient.
    """
    fixed = jax.lax.stop_gradient(cosine)
    positive = jax.nn.relu(1 + margin - fixed) * (cosine - (1 - margin))
    negative = jax.nn.relu(fixed + margin) * (cosine - margin)
    return jnp.where(same, positive, negative)


def circle_loss(
    cosine: jax.Array, same: jax.Array, itself: jax.Array, scale: float, margin: float
) -> jax.Array:
    """Compute the circle loss [Q] of each query; 0 without a positive or without a negative.

    Args:
        cosine: [Q, B] float.
        same: [Q, B] bool, both images have the same identity.
        itself: [Q, B] bool, both are the same image.
        scale: gamma.
        margin: relaxation m.

    Source: Sun et al., CVPR 2020, Eq. 4.
    """
    positive, negative = same & ~itself, ~same
    exists = positive.any(1) & negative.any(1)
    score = scale * circle_scores(cosine, same, margin)

    def log_sum(score: jax.Array, mask: jax.Array) -> jax.Array:
        # An empty sum has a logarithm without a finite gradient.
        return jax.nn.logsumexp(score, axis=1, where=mask | ~exists[:, None])

    loss = jax.nn.softplus(log_sum(score, negative) + log_sum(-score, positive))
    return jnp.where(exists, loss, 0)
