"""Normalisation with PyTorch's semantics, on one device or over a mesh."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxreid.ops.device_varying import vary_alike, varying

# PyTorch's convention: the weight of the new batch in the running statistics.
MOMENTUM = 0.1
EPSILON = 1e-5


def l2_normalize(
    x: jax.Array, *, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-12
) -> jax.Array:
    """Scale `x` to unit norm along `axis`; a zero vector stays zero, with a finite gradient.

    A vector shorter than `epsilon` stays shorter than 1, as in PyTorch. One whose squares overflow
    becomes NaN instead of zero, so that it is noticed.
    """
    squares = _finite(jnp.sum(jnp.square(x), axis, keepdims=True))
    return x / jnp.sqrt(jnp.maximum(squares, epsilon**2))


def moments(
    x: jax.Array,
    *,
    axes: Sequence[int],
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute masked mean, biased variance and count over array axes and devices.

    Sums and counts are summed over the devices instead of averaging, because devices may hold
    different numbers of unmasked elements.

    Args:
        x: float array.
        axes: axes to reduce.
        mask: bool, broadcasts to `x`; elements that are False are excluded.
        axis_name: mesh axis to reduce over, in addition.

    Returns:
        mean, variance, count: float arrays of the remaining axes; all 0 for an empty mask. A
        variance that overflows is NaN, because infinity would turn everything into zeros.
    """
    weight = jnp.ones((), x.dtype) if mask is None else mask.astype(x.dtype)
    weight = jnp.broadcast_to(weight, x.shape)

    total = functools.partial(_total, axes=axes, axis_name=axis_name)
    count = total(weight)
    divisor = jnp.maximum(count, 1)
    mean = total(x * weight) / divisor
    # Two passes: E[x^2] - E[x]^2 cancels for best-match scores, which lie close together.
    deviation = x - jnp.expand_dims(mean, axes)
    return mean, _finite(total(jnp.square(deviation) * weight) / divisor), count


def instance_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Normalise each channel of each image of [B, h, w, C] by its own statistics.

    Args:
        x: [B, h, w, C] float.
        scale: [C] or scalar.
        bias: [C] or scalar.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean, variance, _ = moments(wide, axes=(1, 2))
    mean, variance = mean[:, None, None], variance[:, None, None]
    return ((wide - mean) * jax.lax.rsqrt(variance + EPSILON) * scale + bias).astype(x.dtype)


def _total(values: jax.Array, *, axes: Sequence[int], axis_name: str | None) -> jax.Array:
    """Sum over array axes and, if there is a mesh axis, over its devices."""
    values = values.sum(axes)
    return values if axis_name is None else jax.lax.psum(values, axis_name)


def _finite(x: jax.Array) -> jax.Array:
    """Replace infinity by NaN."""
    return jnp.where(jnp.isinf(x), jnp.nan, x)


def running_update(
    running: tuple[jax.Array, jax.Array], mean: jax.Array, variance: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Update the running mean and variance with one batch.

    Args:
        running: running mean and variance.
        mean: batch mean.
        variance: biased batch variance.
        count: elements in the batch.

    Returns:
        The new running mean and variance; the variance is unbiased, as in PyTorch (Flax keeps the
        biased one).
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
    """Apply `running_update` for a sequence of batches, in closed form.

    Args:
        running: running mean and variance, scalars.
        mean: [K], means of K batches in order.
        variance: [K], biased variances.
        count: [K], elements per batch; empty batches are skipped.
        axis_name: mesh axis over which the batches are sharded, in order.

    Returns:
        The new running mean and variance, the same on every device.
    """
    nonempty = count > 0
    total = nonempty.sum()
    # Number of later batches; each of their updates decays the contribution of this one.
    later = total - jnp.cumsum(nonempty)
    if axis_name is not None:
        totals = jax.lax.all_gather(total, axis_name)
        behind = jnp.arange(totals.size) > jax.lax.axis_index(axis_name)
        later += jnp.sum(totals, where=behind)
        total = jax.lax.psum(total, axis_name)

    def update(old: jax.Array, new: jax.Array) -> jax.Array:
        keep = jnp.array(1 - MOMENTUM, old.dtype)
        part = jnp.sum(MOMENTUM * keep**later * new.astype(old.dtype), where=nonempty)
        return keep**total * old + (part if axis_name is None else jax.lax.psum(part, axis_name))

    return update(running[0], mean), update(running[1], _unbiased(variance, count))


def _unbiased(variance: jax.Array, count: jax.Array) -> jax.Array:
    return variance * count / jnp.maximum(count - 1, 1)


def affine(
    scale: jax.Array, bias: jax.Array, mean: jax.Array, variance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return gain and shift such that x * gain + shift is the normalised x."""
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
    """Apply batch normalisation as in PyTorch.

    Args:
        x: float array; statistics are computed in float32 or wider.
        scale: float array with the axes that are not in `axes`.
        bias: float array of the same shape.
        running: running mean and variance, of the same shape.
        axes: axes over which statistics are computed.
        train: True normalises with batch statistics and updates the running ones; False normalises
            with the running ones and leaves them unchanged.
        mask: bool, broadcasts to `x`; elements that are False are excluded from the statistics.
        axis_name: mesh axis over which the batch is sharded.

    Returns:
        The normalised array, dtype of `x`, and the new running statistics.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if not train:
        y = _normalize(wide, scale, bias, *running, axes)
        return y.astype(x.dtype), running
    if mask is None:
        shape = running[0].shape
        parts = [jnp.broadcast_to(jnp.asarray(a, wide.dtype), shape) for a in (scale, bias)]
        arrays = [wide, *parts]
        # The gradient sums over `axis_name` alone.
        if axis_name is None:
            arrays = vary_alike(*arrays)
        y, *statistics = _normalized(*arrays, tuple(axes), axis_name)
    else:
        statistics = moments(wide, axes=axes, mask=mask, axis_name=axis_name)
        y = _normalize(wide, scale, bias, *statistics[:2], axes)
    return y.astype(x.dtype), running_update(running, *map(jax.lax.stop_gradient, statistics))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalized(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axes: tuple[int, ...], axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Normalise with the batch's own statistics; return these, too, as `moments` does.

    The gradient is written by hand: it reads input and gradient twice and stores nothing else.
    Automatic differentiation would store the deviation from the mean. The statistics are returned
    for the running ones and have no gradient.
    """
    return _normalized_forward(x, scale, bias, axes, axis_name)[0]


def _normalized_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axes: tuple[int, ...], axis_name: str | None
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    # Not by `_normalized`: what is saved has a gradient, for gradients of gradients.
    mean, variance, count = moments(x, axes=axes, axis_name=axis_name)
    y = _normalize(x, scale, bias, mean, variance, axes)
    return (y, mean, variance, count), (x, scale, mean, variance, count)


def _normalized_backward(
    axes: tuple[int, ...],
    axis_name: str | None,
    saved: tuple[jax.Array, ...],
    gradients: tuple[jax.Array, ...],
) -> tuple[jax.Array, ...]:
    x, scale, mean, variance, count = saved
    gradient = gradients[0]
    wide = functools.partial(jnp.expand_dims, axis=axes)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    # Products with the deviation instead of `x` would be stored by XLA on CPUs.
    of_bias = gradient.sum(axes)
    sums = [of_bias, ((gradient * x).sum(axes) - mean * of_bias) * inverse]
    if axis_name is None:
        totals, weighted = sums, [scale * value for value in sums]
    elif axis_name in varying(scale):
        totals, weighted = sums, jax.lax.psum([scale * value for value in sums], axis_name)
    else:
        everywhere = jax.lax.psum(sums, axis_name)
        # Parameters that devices share have the gradient of all, unless all have the same images.
        totals = everywhere if axis_name in varying(gradient) else sums
        weighted = [scale * value for value in everywhere]
    first, second = (value * inverse / jnp.maximum(count, 1) for value in weighted)
    of_x = gradient * wide(scale * inverse) - wide(first)
    of_x -= (x - wide(mean)) * wide(second * inverse)
    of_bias, of_scale = totals
    return of_x, of_scale, of_bias


_normalized.defvjp(_normalized_forward, _normalized_backward)


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
    """Apply training-mode `batch_norm` over all axes, separately for each chunk of rows.

    Args:
        x: float array.
        scale: scalar.
        bias: scalar.
        running: running mean and variance, scalars.
        axis: row axis, non-negative.
        chunk: rows that are normalised together; the last chunk may have fewer.
        mask: [rows] bool; rows that are False are excluded from the statistics.
        axis_name: mesh axis over which the rows are sharded, in order.

    Returns:
        See `batch_norm`. Every chunk with an unmasked row updates the running statistics.

    Raises:
        ValueError: if `chunk` is less than 1, or a chunk would span two devices.
    """
    rows = x.shape[axis]
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    if chunk < 1 or devices > 1 and rows % chunk:
        raise ValueError(
            f"statistics over chunks of {chunk} rows, but each of {devices} devices holds {rows}; "
            f"expected a chunk that divides {rows}, or 0 for all rows at once."
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
