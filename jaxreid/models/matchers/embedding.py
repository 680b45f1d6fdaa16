"""Embeddings compared as wholes."""

import flax.linen as nn
import jax

from jaxreid.ops.similarity import similarity


class Embedding(nn.Module):
    """Similarity of embeddings by a fixed metric; nothing is learned.

    Attributes:
        metric: "cosine" (of the angle) or "euclidean" (the negative squared distance, which ranks
            as the distance does).
    """

    metric: str = "cosine"

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
            query: [Q, d] float.
            gallery: [G, d] float.
            train: changes nothing.
            mask: changes nothing; rows of padding are scored as well.

        Returns:
            [Q, G] float32 or wider, whatever the embeddings' type; larger is more alike.
        """
        return similarity(query, gallery, self.metric)
