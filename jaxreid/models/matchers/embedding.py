"""Matcher of whole embeddings."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxreid.models.matchers.matcher import Matcher
from jaxreid.names import check_name
from jaxreid.ops.metrics import METRICS, similarity


class Embedding(Matcher):
    """Similarity of embeddings under a fixed metric, without parameters.

    Attributes:
        metric: "cosine", or "euclidean": the negative squared distance, which ranks like the
            distance.
    """

    TAKES = "embeddings"
    LEARNS = {"name": "softmax", "triplet": 1.0}

    metric: str = "cosine"

    @nn.nowrap
    def validate(self) -> None:
        """Raise ValueError for an unknown metric."""
        check_name(self.metric, METRICS, "matcher.metric")

    def __call__(
        self,
        query: jax.Array,
        gallery: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Score embeddings [Q, d] and [G, d] as [Q, G]; ignores `train` and `mask`."""
        return similarity(query, gallery, self.metric)

    @nn.nowrap
    def distances(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores to distances for re-ranking: 1 - cosine, or squared Euclidean.

        Shape and dtype stay the same. Values below 0 from rounding are clipped.

        Source: torchreid.
        """
        return np.maximum(1 - scores if self.metric == "cosine" else -scores, 0)

    @property
    def directional(self) -> bool:
        """Whether embeddings count by their directions alone: those of the cosine do."""
        return self.metric == "cosine"

    @property
    def rerank_options(self) -> dict[str, Any]:
        """Options that square the distances (the Euclidean ones once more), as torchreid does."""
        return {"squared": True}

    @nn.nowrap
    def similarities(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores to similarities for TLift: (1 + cosine) / 2, or 1 / (1 + distance).

        Shape and dtype stay the same. Similarities are in [0, 1].

        Differs: TLift is published for QAConv, whose similarity is a sigmoid. The sigmoid of a
            cosine is nearly constant, and that of large distances is 0 for all pairs in float32.
        """
        if self.metric == "cosine":
            return np.clip((1 + scores) / 2, 0, 1)
        return 1 / (1 + np.sqrt(np.maximum(-scores, 0)))
