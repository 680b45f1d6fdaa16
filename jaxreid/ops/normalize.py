"""Normalisation with PyTorch's semantics, on one device or over the mesh."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

MOMENTUM = 0.1  # PyTorch's: the weight of the new batch in the running statistics
EPSILON = 1e-5


def l2_normalize(x: jax.Array, *, axis: int = -1, epsilon: float = 1e-12) -> jax.Array:
    """`x` scaled to unit norm along `axis`; a zero vector stays zero and has a finite gradient."""
    squares = jnp.sum(jnp.square(x), axis, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squares, epsilon**2))


def moments(
    x: jax.Array,
    *,
    axes: Sequence[int],
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, biased variance and number of elements, over array axes and over devices.

    Sums and counts are added up over the devices, not averaged: devices may hold different
    numbers of elements that count.

    Args:
        x: float array.
        axes: the axes to reduce.
        mask: bool, broadcasts to `x`; elements that are False do not count.
        axis_name: mesh axis to reduce over as well.

    Returns:
        mean, variance, count: float arrays of the remaining axes (count is a scalar or has them).
    """
    weight = jnp.ones((), x.dtype) if mask is None else mask.astype(x.dtype)
    weight = jnp.broadcast_to(weight, x.shape)

    def total(values: jax.Array) -> jax.Array:
        values = values.sum(axes)
        return values if axis_name is None else jax.lax.psum(values, axis_name)

    count = total(weight)
    mean = total(x * weight) / count
    # Two passes: E[x^2] - E[x]^2 loses the digits of maxima that lie close together.
    deviation = x - jnp.expand_dims(mean, axes)
    return mean, total(jnp.square(deviation) * weight) / count, count


def running_update(
    running: tuple[jax.Array, jax.Array], mean: jax.Array, variance: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Running mean and variance after one more batch.

    Args:
        running: mean and variance so far.
        mean: of the batch.
        variance: of the batch, biased.
        count: elements in the batch.

    Returns:
        The new running mean and variance. The variance that is kept is the unbiased one, as in
        PyTorch (Flax keeps the biased one).
    """
    unbiased = variance * count / jnp.maximum(count - 1, 1)
    old_mean, old_variance = running
    return (
        (1 - MOMENTUM) * old_mean + MOMENTUM * mean.astype(old_mean.dtype),
        (1 - MOMENTUM) * old_variance + MOMENTUM * unbiased.astype(old_variance.dtype),
    )


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    running: tuple[jax.Array, jax.Array],
    *,
    axes: Sequence[int],
    train: bool,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Batch normalisation as PyTorch computes it.

    Args:
        x: float array; statistics are computed in float32 or wider.
        scale: float array of the axes that `axes` leaves out.
        bias: as `scale`.
        running: running mean and variance, as `scale`.
        axes: the axes that statistics are taken over.
        train: True normalises with the statistics of this batch and updates the running ones;
            False normalises with the running ones, which stay as they are.
        mask: bool, broadcasts to `x`; elements that are False do not enter the statistics.
        axis_name: mesh axis over which the batch is spread.

    Returns:
        The normalised array, of the type of `x`, and the new running statistics.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    wide = x.astype(dtype)
    if train:
        mean, variance, count = moments(wide, axes=axes, mask=mask, axis_name=axis_name)
        running = running_update(running, mean, variance, count)
    else:
        mean, variance = running
    gain = scale * jax.lax.rsqrt(variance + EPSILON)
    shift = bias - mean * gain
    y = wide * jnp.expand_dims(gain, axes) + jnp.expand_dims(shift, axes)
    return y.astype(x.dtype), running
