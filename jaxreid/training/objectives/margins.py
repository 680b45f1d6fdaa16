"""Classification by cosines, with a margin for the correct class: ArcFace and CosFace.

Notation: b images of this device, d channels, C classes.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.training.objectives.softmax import SoftmaxObjective


@dataclasses.dataclass(frozen=True)
class MarginObjective(SoftmaxObjective):
    """Base of classifications by the cosines of embeddings and weights of the classes.

    The bias of the classifier is not used. The accuracy is that of the cosines without margin.

    Attributes:
        smoothing: label smoothing (`smoothed_cross_entropy`); the papers use none.
        scale: factor of the cosines.
        class_margin: margin of the correct class; 0 for none.
    """

    smoothing: float = 0.0
    scale: float = 64.0
    class_margin: float = 0.0

    def validate(self) -> None:
        """Raise ValueError for an option out of its range."""
        super().validate()
        self._check("class_margin")
        check_scale(self.scale)

    def logits(
        self, model: Any, embedding: jax.Array, label: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See `SoftmaxObjective.logits`: the cosines, and the scaled ones with margin."""
        cosine = model.classify(embedding, cosine=True)
        own = label[:, None] == jnp.arange(cosine.shape[1])
        return cosine, self.scale * self.with_margin(cosine, own)

    def with_margin(self, cosine: jax.Array, own: jax.Array) -> jax.Array:
        """Return cosines [b, C] with the margin; `own` [b, C] bool marks the correct classes."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ArcFaceObjective(MarginObjective):
    """ArcFace: classification by cosines, with an angle added to that of the correct class.

    Attributes:
        class_margin: added angle, in radians.

    Source: Deng et al., CVPR 2019, arXiv 1801.07698, Eq. 3.
    """

    class_margin: float = 0.5

    def validate(self) -> None:
        """Raise ValueError for an option out of its range."""
        super().validate()
        if self.class_margin >= math.pi:
            raise ValueError(
                f"objective.class_margin is {self.class_margin}; expected an angle in radians, "
                "below pi, as in 0.5."
            )

    def with_margin(self, cosine: jax.Array, own: jax.Array) -> jax.Array:
        """See `MarginObjective.with_margin`."""
        return jnp.where(own, added_angle(cosine, self.class_margin), cosine)


@dataclasses.dataclass(frozen=True)
class CosFaceObjective(MarginObjective):
    """CosFace: classification by cosines, less a margin for the correct class.

    Attributes:
        class_margin: subtracted from the cosine.

    Source: Wang et al., CVPR 2018, arXiv 1801.09414, Eq. 4.
    """

    class_margin: float = 0.35

    def with_margin(self, cosine: jax.Array, own: jax.Array) -> jax.Array:
        """See `MarginObjective.with_margin`."""
        return cosine - self.class_margin * own


def added_angle(cosine: jax.Array, margin: float) -> jax.Array:
    """Compute cos(angle + margin) from the cosine of an angle; decreasing, with finite gradients.

    Beyond pi, where the cosine would rise again, it is cos(angle) - margin * sin(margin), as in the
    authors' code.

    Args:
        cosine: float, any shape.
        margin: radians, in [0, pi).
    """
    # The root has an infinite slope at 0, that is at angles of 0 and pi.
    sine = jnp.sqrt(jnp.maximum(1 - jnp.square(cosine), 1e-12))
    inside = cosine * math.cos(margin) - sine * math.sin(margin)
    return jnp.where(cosine > -math.cos(margin), inside, cosine - margin * math.sin(margin))


def check_scale(scale: float) -> None:
    """Raise ValueError for a scale of cosines that is not above 0."""
    if scale <= 0:
        raise ValueError(f"objective.scale is {scale}; expected a number above 0, as in 64.")
