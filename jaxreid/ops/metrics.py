"""How alike embeddings are, by a fixed metric."""

import jax
import jax.numpy as jnp

from jaxreid.ops.normalize import l2_normalize

METRICS = ("cosine", "euclidean")


def similarity(query: jax.Array, gallery: jax.Array, metric: str) -> jax.Array:
    """Scores all pairs.

    Args:
        query: [Q, d] float.
        gallery: [G, d] float.
        metric: "cosine" (of the angle) or "euclidean" (the negative squared distance, which ranks
            as the distance does).

    Returns:
        [Q, G] float32 or wider, whatever the embeddings' type; larger is more alike.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    query, gallery = query.astype(wide), gallery.astype(wide)
    # In full: where two are near each other, the squares and their product nearly cancel.
    products = lambda a, b: jnp.matmul(a, b.T, precision="highest")  # noqa: E731
    if metric == "cosine":
        return products(l2_normalize(query), l2_normalize(gallery))
    squares = jnp.sum(query**2, -1)[:, None] + jnp.sum(gallery**2, -1)[None, :]
    return 2 * products(query, gallery) - squares


def distances(query: jax.Array, gallery: jax.Array, metric: str) -> jax.Array:
    """All distances, for losses.

    Args:
        query: [Q, d] float.
        gallery: [G, d] float.
        metric: "euclidean", at least 1e-6, so that its gradient is finite where two are equal; or
            "cosine", 1 - the cosine of the angle.

    Returns:
        [Q, G] float.
    """
    alike = similarity(query, gallery, metric)
    return 1 - alike if metric == "cosine" else jnp.sqrt(jnp.maximum(-alike, 1e-12))
