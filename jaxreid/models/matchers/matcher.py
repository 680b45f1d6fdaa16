"""The protocol of all matchers.

Letters: Q queries, G gallery images, h w map size, d channels.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from jaxreid.models.features import Features


class Matcher(nn.Module):
    """Scores of every query with every gallery image.

    A matcher is one file: a subclass with its options as attributes, `TAKES`, `validate` if they
    can be wrong, and `__call__`. An attribute `axis_name` receives the mesh axis over which queries
    or gallery are divided in training, `parts` and `shared` those of the neck's `Features`.

    Scores are logits unless a subclass overrides `distances` and `similarities`. A matcher can do
    more by having more methods:

    - `explain(query, gallery)` takes the scores of a few pairs apart by positions, in evaluation:
      an `Explanation`, or `Parts` (`qaconv.py`, `qaconv_ms.py`);
    - `perturbed(query, gallery, factor, mask=...)` scores pairs twice, also with their pair
      features multiplied by a factor (`metric_network.py`);
    - `can_pool` and `pooled` compare coarser maps with the same weights.

    Attributes:
        TAKES: `Features.words` of the features that it compares.
    """

    TAKES: ClassVar[str] = "embeddings"

    def __call__(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Scores all pairs.

        Args:
            query: [Q, h, w, d] or [Q, d] float, features as the neck makes them.
            gallery: [G, h, w, d] or [G, d] float, the same.
            train: normalise with the statistics of these pairs and update the running ones.
            mask: [G] bool; gallery rows that are False are padding: they are scored, but do not
                enter the statistics.

        Returns:
            [Q, G] float32 or wider; larger is more alike.

        Raises:
            ValueError: features that do not fit each other, or not the weights.
        """
        raise NotImplementedError

    @nn.nowrap
    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an option is out of its range.
        """

    @classmethod
    def takes(cls, features: Features) -> bool:
        """True if it can compare these features, whatever its options."""
        return features.words == cls.TAKES

    @property
    def can_pool(self) -> bool:
        """True if coarser maps can be compared with `pooled`."""
        return False

    @nn.nowrap
    def pooled(self, params: Mapping[str, Any], window: tuple[int, int]) -> dict[str, Any]:
        """Parameters for maps whose cells are means of several positions.

        Args:
            params: parameters of this matcher, made for h x w maps.
            window: rows and columns that become one cell; they divide h and w.

        Raises:
            ValueError: not `can_pool`.
        """
        raise ValueError(f"the matcher {type(self).__name__} cannot compare coarser maps.")

    @nn.nowrap
    def distances(self, scores: np.ndarray) -> np.ndarray:
        """Distances for k-reciprocal re-ranking: 1 - sigmoid(score / 10).

        Args:
            scores: float array of any shape.

        Returns:
            Array of the same shape and type, not negative; smaller is more alike.

        Source: Liao and Shao, ECCV 2020, and its published code.
        """
        return 1 - sigmoid(scores / 10)

    @nn.nowrap
    def similarities(self, scores: np.ndarray) -> np.ndarray:
        """Similarities in [0, 1] for TLift: sigmoid(score).

        Args:
            scores: float array of any shape.

        Returns:
            Array of the same shape and type; larger is more alike.
        """
        return sigmoid(scores)

    @property
    def rerank_options(self) -> dict[str, Any]:
        """Options of re-ranking that belong to `distances`; a user's own come before them."""
        return {}


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), accurate also where it is nearly 0."""
    return np.exp(-np.logaddexp(0, -x))
