"""Normalisation with PyTorch's semantics, on one device or over the mesh."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

MOMENTUM = 0.1  # PyTorch's: the weight of the new batch in the running statistics
EPSILON = 1e-5


def l2_normalize(
    x: jax.Array, *, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-12
) -> jax.Array:
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
        mean, variance, count: float arrays of the remaining axes; all are 0 where nothing counts.
    """
    weight = jnp.ones((), x.dtype) if mask is None else mask.astype(x.dtype)
    weight = jnp.broadcast_to(weight, x.shape)

    def total(values: jax.Array) -> jax.Array:
        values = values.sum(axes)
        return values if axis_name is None else jax.lax.psum(values, axis_name)

    count = total(weight)
    some = jnp.maximum(count, 1)
    mean = total(x * weight) / some
    # Two passes: E[x^2] - E[x]^2 loses the digits of maxima that lie close together.
    deviation = x - jnp.expand_dims(mean, axes)
    return mean, total(jnp.square(deviation) * weight) / some, count


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
    old_mean, old_variance = running
    return (
        (1 - MOMENTUM) * old_mean + MOMENTUM * mean.astype(old_mean.dtype),
        (1 - MOMENTUM) * old_variance
        + MOMENTUM * _unbiased(variance, count).astype(old_variance.dtype),
    )


def running_updates(
    running: tuple[jax.Array, jax.Array],
    mean: jax.Array,
    variance: jax.Array,
    count: jax.Array,
    *,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`running_update` by one batch after the other, in closed form.

    Args:
        running: mean and variance so far, scalars.
        mean: [K] of K batches in order.
        variance: [K], biased.
        count: [K] elements in each; a batch of none changes nothing.
        axis_name: mesh axis over which the batches are divided, in order.

    Returns:
        The new running mean and variance, the same on every device.
    """
    some = count > 0
    total = some.sum()
    later = total - jnp.cumsum(some)  # batches behind each one, whose updates make it fade
    if axis_name is not None:
        totals = jax.lax.all_gather(total, axis_name)
        behind = jnp.arange(totals.size) > jax.lax.axis_index(axis_name)
        later += jnp.sum(totals, where=behind)
        total = jax.lax.psum(total, axis_name)

    def update(old: jax.Array, new: jax.Array) -> jax.Array:
        keep = jnp.array(1 - MOMENTUM, old.dtype)
        part = jnp.sum(MOMENTUM * keep**later * new.astype(old.dtype), where=some)
        return keep**total * old + (part if axis_name is None else jax.lax.psum(part, axis_name))

    return update(running[0], mean), update(running[1], _unbiased(variance, count))


def _unbiased(variance: jax.Array, count: jax.Array) -> jax.Array:
    return variance * count / jnp.maximum(count - 1, 1)


def affine(
    scale: jax.Array, bias: jax.Array, mean: jax.Array, variance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gain and shift with which x * gain + shift is the normalised x."""
    gain = scale * jax.lax.rsqrt(variance + EPSILON)
    return gain, bias - mean * gain


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
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if train:
        mean, variance, count = moments(wide, axes=axes, mask=mask, axis_name=axis_name)
        running = running_update(running, mean, variance, count)
    else:
        mean, variance = running
    y = _normalize(wide, scale, bias, mean, variance, axes)
    return y.astype(x.dtype), running


def chunked_batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    running: tuple[jax.Array, jax.Array],
    *,
    axis: int,
    chunk: int,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """`batch_norm` in training over all axes, of one chunk of rows after the other.

    Args:
        x: float array.
        scale: scalar.
        bias: scalar.
        running: running mean and variance, scalars.
        axis: of the rows; from 0.
        chunk: rows that are normalised together; the last chunk may have fewer.
        mask: [rows] bool; rows that are False do not enter the statistics.
        axis_name: mesh axis over which the rows are divided, in order.

    Returns:
        As `batch_norm`. Every chunk that holds a row which counts updates the running statistics.

    Raises:
        ValueError: a chunk of no rows, or one that would lie on two devices.
    """
    rows = x.shape[axis]
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    if chunk < 1 or devices > 1 and rows % chunk:
        raise ValueError(
            f"statistics of chunks of {chunk} rows, where each of {devices} devices holds {rows}; "
            f"needed is a chunk that divides {rows}, or 0 to take all rows at once."
        )
    count = -(-rows // chunk)
    missing = count * chunk - rows
    if mask is None:
        mask = jnp.ones(rows, bool)
    mask = jnp.pad(mask, (0, missing)).reshape(count, chunk, *[1] * (x.ndim - axis - 1))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    wide = jnp.pad(wide, [(0, missing * (i == axis)) for i in range(x.ndim)])
    wide = wide.reshape(*x.shape[:axis], count, chunk, *x.shape[axis + 1 :])
    axes = tuple(i for i in range(wide.ndim) if i != axis)
    mean, variance, elements = moments(wide, axes=axes, mask=mask)
    y = _normalize(wide, scale, bias, mean, variance, axes)
    y = y.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    y = jax.lax.slice_in_dim(y, 0, rows, axis=axis).astype(x.dtype)
    return y, running_updates(running, mean, variance, elements, axis_name=axis_name)


def _normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    axes: Sequence[int],
) -> jax.Array:
    gain, shift = affine(scale, bias, mean, variance)
    return x * jnp.expand_dims(gain, axes) + jnp.expand_dims(shift, axes)
