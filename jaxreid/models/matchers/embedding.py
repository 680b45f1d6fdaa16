"""Embeddings compared as wholes."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxreid.models.matchers.matcher import Matcher
from jaxreid.names import check_name
from jaxreid.ops.metrics import METRICS, similarity


class Embedding(Matcher):
    """Similarity of embeddings by a fixed metric; nothing is learned.

    Attributes:
        metric: "cosine" (of the angle) or "euclidean" (the negative squared distance, which ranks
            as the distance does).
    """

    TAKES = "embeddings"

    metric: str = "cosine"

    @nn.nowrap
    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an unknown metric.
        """
        check_name(self.metric, METRICS, "matcher.metric")

    def __call__(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Scores [Q, G] of embeddings [Q, d] and [G, d], whether `train` and `mask` or not."""
        return similarity(query, gallery, self.metric)

    @nn.nowrap
    def distances(self, scores: np.ndarray) -> np.ndarray:
        """Distances for re-ranking: 1 - the cosine, or the squared Euclidean distance.

        Args:
            scores: float array of any shape.

        Returns:
            Array of the same shape and type; rounding below 0 is cut off.

        Source: torchreid.
        """
        return np.maximum(1 - scores if self.metric == "cosine" else -scores, 0)

    @property
    def rerank_options(self) -> dict[str, Any]:
        """Distances are squared (for Euclidean ones once more), as torchreid does."""
        return {"squared": True}

    @nn.nowrap
    def similarities(self, scores: np.ndarray) -> np.ndarray:
        """Similarities for TLift: (1 + cosine) / 2, or 1 / (1 + Euclidean distance).

        Args:
            scores: float array of any shape.

        Returns:
            Array of the same shape and type in [0, 1].

        Differs: TLift is published for QAConv, whose similarity is a sigmoid. Of a cosine that is
            nearly constant, and of large distances 0 for all in float32.
        """
        if self.metric == "cosine":
            return np.clip((1 + scores) / 2, 0, 1)
        return 1 / (1 + np.sqrt(np.maximum(-scores, 0)))
