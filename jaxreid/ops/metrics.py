"""Similarities and distances of embeddings under a fixed metric."""

import jax
import jax.numpy as jnp

from jaxreid.ops.normalize import l2_normalize

METRICS = ("cosine", "euclidean")


def similarity(query: jax.Array, gallery: jax.Array, metric: str) -> jax.Array:
    """Score all pairs of [Q, d] and [G, d] as [Q, G], in float32 or wider.

    Larger is more similar. `metric` is "cosine", or "euclidean": the negative squared distance,
    which ranks like the distance.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    query, gallery = query.astype(wide), gallery.astype(wide)
    # Full precision: for nearby embeddings, the squares and the product nearly cancel.
    products = lambda a, b: jnp.matmul(a, b.T, precision="highest")  # noqa: E731
    if metric == "cosine":
        return products(l2_normalize(query), l2_normalize(gallery))
    squares = jnp.sum(query**2, -1)[:, None] + jnp.sum(gallery**2, -1)[None, :]
    return 2 * products(query, gallery) - squares


def distances(query: jax.Array, gallery: jax.Array, metric: str) -> jax.Array:
    """Compute distances [Q, G] of all pairs of [Q, d] and [G, d], for losses.

    `metric` is "euclidean", clipped to at least 1e-6, which keeps the gradient finite for equal
    embeddings; or "cosine": 1 - cosine.
    """
    score = similarity(query, gallery, metric)
    return 1 - score if metric == "cosine" else jnp.sqrt(jnp.maximum(-score, 1e-12))
