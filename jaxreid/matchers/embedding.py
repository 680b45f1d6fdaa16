"""Embeddings compared as wholes."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxreid.ops.normalize import l2_normalize

METRICS = ("cosine", "euclidean")


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
        wide = jnp.promote_types(query.dtype, jnp.float32)
        query, gallery = query.astype(wide), gallery.astype(wide)
        if self.metric == "cosine":
            return l2_normalize(query) @ l2_normalize(gallery).T
        squares = jnp.sum(query**2, -1)[:, None] + jnp.sum(gallery**2, -1)[None, :]
        return 2 * query @ gallery.T - squares
