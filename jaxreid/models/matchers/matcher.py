"""Matcher protocol.

Notation: Q queries, G gallery images, h w map size, d channels.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from jaxreid.models.features import Features


class Matcher(nn.Module):
    """Scores of all query-gallery pairs.

    A matcher is one file: a subclass with its options as attributes, `TAKES`, `validate` if options
    need checks, and `__call__`. If present, the attribute `axis_name` is set to the mesh axis over
    which queries or gallery are sharded in training, and `parts` and `shared` are set from the
    neck's `Features`.

    Scores are logits unless a subclass overrides `distances` and `similarities`. Optional methods:

    - `explain(query, gallery)` decomposes the scores of a few pairs by position, in evaluation,
      into an `Explanation` or `Parts` (`qaconv.py`, `qaconv_ms.py`);
    - `perturbed(query, gallery, factor, mask=...)` scores pairs twice: as they are, and with their
      pair features multiplied by a factor (`metric_network.py`);
    - `can_pool` and `pooled` compare coarser maps with the same weights.

    Attributes:
        TAKES: `Features.words` of the features that the matcher compares.
        LEARNS: objective that fine-tunes a model with this matcher, and its options.
    """

    TAKES: ClassVar[str] = "embeddings"
    LEARNS: ClassVar[Mapping[str, Any]] = {"name": "pairwise"}

    def __call__(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Score all pairs.

        Args:
            query: [Q, h, w, d] or [Q, d] float, output of the neck.
            gallery: [G, h, w, d] or [G, d] float, output of the neck.
            train: normalise with the statistics of these pairs and update the running ones.
            mask: [G] bool; gallery rows that are False are padding: they are scored, but excluded
                from the statistics.

        Returns:
            [Q, G] float32 or wider; larger is more similar.

        Raises:
            ValueError: if the features do not fit each other or the weights.
        """
        raise NotImplementedError

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError if an option is out of range."""

    @classmethod
    def takes(cls, features: Features) -> bool:
        """Return whether the matcher can compare these features, for any of its options."""
        return features.words == cls.TAKES

    @property
    def can_pool(self) -> bool:
        """Whether `pooled` gives parameters for coarser maps."""
        return False

    @nn.nowrap
    def pooled(self, params: Mapping[str, Any], window: tuple[int, int]) -> dict[str, Any]:
        """Convert parameters to average-pooled maps.

        Args:
            params: parameters of this matcher for h x w maps.
            window: rows and columns pooled into one cell; must divide h and w.

        Raises:
            ValueError: if `can_pool` is False.
        """
        raise ValueError(f"matcher {type(self).__name__} cannot compare coarser maps.")

    @nn.nowrap
    def distances(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores to distances for k-reciprocal re-ranking: 1 - sigmoid(score / 10).

        Shape and dtype stay the same. Distances are non-negative; smaller is more similar.

        Source: Liao and Shao, ECCV 2020, and its published code.
        """
        return 1 - sigmoid(scores / 10)

    @nn.nowrap
    def similarities(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores to similarities in [0, 1] for TLift, same shape: sigmoid(score)."""
        return sigmoid(scores)

    @property
    def directional(self) -> bool:
        """Whether embeddings count by their directions alone, so that means are of these."""
        return False

    @property
    def rerank_options(self) -> dict[str, Any]:
        """Re-ranking options that match `distances`; user settings take precedence."""
        return {}


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), accurate for results close to 0."""
    return np.exp(-np.logaddexp(0, -x))
