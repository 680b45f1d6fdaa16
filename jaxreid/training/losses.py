"""Losses that several objectives share: pure functions of scores and labels.

Where rows are divided over devices, a function that sums over all of them names the mesh axis.
"""

import jax
import jax.numpy as jnp


def hardest(logit: jax.Array, same: jax.Array, itself: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least alike of the own identity and the most alike of the others.

    Args:
        logit: [Q, B] float.
        same: [Q, B] bool, the two are of one identity.
        itself: [Q, B] bool, the two are one image.

    Returns:
        [Q] score of the hardest positive, inf where there is none, and [Q] of the hardest negative,
        -inf where there is none.
    """
    positive = jnp.where(same & ~itself, logit, jnp.inf).min(1)
    negative = jnp.where(same, -jnp.inf, logit).max(1)
    return positive, negative


def triplet_loss(positive: jax.Array, negative: jax.Array, margin: float) -> jax.Array:
    """Hinge loss [Q] on the scores of the hardest pairs; 0 where one of the two is missing.

    Scores may be negative distances.

    Source: QAConv 2.1; Hermans et al., 2017, arXiv 1703.07737, for mining in the batch.
    """
    return jax.nn.relu(margin - positive + negative)


def my_share(values: jax.Array, axis_name: str | None) -> jax.Array:
    """The rows [B / devices, ...] of [B, ...] that this device answers for."""
    if axis_name is None:
        return values
    share = len(values) // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(axis_name) * share, share)


def total(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Sum over all devices; of bool values, the number of true ones."""
    values = values.sum()
    return values if axis_name is None else jax.lax.psum(values, axis_name)
