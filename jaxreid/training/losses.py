"""Losses shared by several objectives: pure functions of scores and labels.

Functions that reduce over rows divided among devices take the mesh axis.
"""

import jax
import jax.numpy as jnp


def hardest(logit: jax.Array, same: jax.Array, itself: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the scores of the hardest positive and the hardest negative of each query.

    Args:
        logit: [Q, B] float.
        same: [Q, B] bool, both images have the same identity.
        itself: [Q, B] bool, both are the same image.

    Returns:
        [Q] lowest score of a positive, inf if there is none, and [Q] highest score of a negative,
        -inf if there is none.
    """
    positive = jnp.where(same & ~itself, logit, jnp.inf).min(1)
    negative = jnp.where(same, -jnp.inf, logit).max(1)
    return positive, negative


def triplet_loss(positive: jax.Array, negative: jax.Array, margin: float) -> jax.Array:
    """Compute the hinge loss [Q] of the hardest pairs; 0 if one of the two is missing.

    Scores may be negative distances.

    Source: QAConv 2.1; Hermans et al., 2017, arXiv 1703.07737, for mining in the batch.
    """
    return jax.nn.relu(margin - positive + negative)


def my_share(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Return the rows [B / devices, ...] of [B, ...] that this device processes."""
    if axis_name is None:
        return values
    share = len(values) // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(axis_name) * share, share)


def total(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Sum over all elements and devices; for bool values, the number of True."""
    values = values.sum()
    return values if axis_name is None else jax.lax.psum(values, axis_name)
