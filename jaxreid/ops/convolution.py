"""Convolutions and pooling, in the form that is fast on the device.

Accelerator compilers handle `lax.conv_general_dilated` and `lax.reduce_window` well. XLA on CPUs is
slow at depthwise and 1x1 convolutions, at the gradient of others with respect to the kernel, and at
the gradient of max pooling. These are therefore written as shifted products, as a matrix product,
as convolutions over rows alone, and as maxima of neighbours. Parameters are the same in both forms.
"""

import functools

import jax
import jax.numpy as jnp

from jaxreid.mesh import kept_whole, platform
from jaxreid.ops.device_varying import vary_alike, zeros_like

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Values of a row up to which images are taken together in the gradient of a kernel, measured.
RUN = 256
# Products added at once in the gradient of a depthwise kernel, and images that they are of at most,
# measured.
PRODUCTS, TOGETHER = 16, 4


def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, native: bool | None = None
) -> jax.Array:
    """Convolve with PyTorch's symmetric padding of `kernel size // 2`, without bias.

    "SAME" would pad a stride of 2 on one side only, which shifts converted weights by one pixel.

    Args:
        x: [B, H, W, I] float.
        kernel: [k, k, I / groups, O] float, k odd; groups is I divided by the kernel's third axis.
        stride: stride in both directions.
        native: True uses XLA's convolution, False the CPU form if there is one; None selects by
            device.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), O], dtype of `x`.
    """
    size, per_group = kernel.shape[0], kernel.shape[2]
    dense = per_group == x.shape[-1]
    if not _native(native):
        if dense and size == 1:
            x = x[:, ::stride, ::stride]
            # Flatten the pixels: in the gradient, XLA contracts one axis faster than three.
            return (x.reshape(-1, per_group) @ kernel[0, 0]).reshape(*x.shape[:3], -1)
        # The custom gradients are of one device.
        if dense:
            return _dense(*vary_alike(x, kernel), stride)
        if size == 3 and per_group == 1 and stride == 1 and kernel.shape[3] == x.shape[3]:
            return _depthwise(*vary_alike(x, kernel))
    return _convolve(x, kernel, stride)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad), (pad, pad)],
        dimension_numbers=DIMENSIONS,
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def max_pool(x: jax.Array, *, padding: int = 1, native: bool | None = None) -> jax.Array:
    """Apply 3x3 max pooling with stride 2, padded with -inf.

    With a padding of 1, halves the size, rounding up. Without, the first window begins at the first
    pixel and the last may reach one pixel over the end, as with PyTorch's `ceil_mode`.

    The gradient goes to the largest pixel. For ties, XLA and PyTorch choose the first; the CPU form
    splits the gradient among them, those of a row first.

    Args:
        x: [B, H, W, C] float.
        padding: pixels before the first row and column, 0 or 1.
        native: see `convolve`; without padding, always.
    """
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    if padding == 0 or _native(native):
        # Pixels that the last window lacks.
        ends = [1 if padding else (size + 1) % 2 for size in x.shape[1:3]]
        around = ((0, 0), *((padding, end) for end in ends), (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, around)
    return _max_pool_along(_max_pool_along(x, 1), 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool_along(x: jax.Array, axis: int) -> jax.Array:
    """Return the maxima of 2 n - 1, 2 n and 2 n + 1 along an axis, for every even place 2 n."""
    return functools.reduce(jnp.maximum, _windows(x, axis))


def _max_pool_forward(x: jax.Array, axis: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _max_pool_along(x, axis)
    return y, (x, y)


def _max_pool_backward(
    axis: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    # Automatic differentiation would scatter into strided places of copies of the whole map.
    x, y = saved
    equal = [place == y for place in _windows(x, axis)]
    share = gradient / jnp.maximum(sum(e.astype(y.dtype) for e in equal), 1)
    of_even, of_odd, of_before = (jnp.where(e, share, 0) for e in equal)
    end = [(0, int(a == axis)) for a in range(x.ndim)]
    of_odd += jnp.pad(jax.lax.slice_in_dim(of_before, 1, None, axis=axis), end)
    both = jnp.stack([of_even, of_odd], axis + 1)
    both = both.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    return (jax.lax.slice_in_dim(both, 0, x.shape[axis], axis=axis),)


_max_pool_along.defvjp(_max_pool_forward, _max_pool_backward)


def _windows(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the places 2 n, 2 n + 1 and 2 n - 1 along an axis, -inf beyond its ends."""

    def padded(x: jax.Array, before: int, after: int) -> jax.Array:
        pads = [(before, after) if a == axis else (0, 0) for a in range(x.ndim)]
        return jnp.pad(x, pads, constant_values=-jnp.inf)

    pairs = padded(x, 0, x.shape[axis] % 2)
    pairs = pairs.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = pairs.take(0, axis + 1), pairs.take(1, axis + 1)
    return even, odd, padded(jax.lax.slice_in_dim(odd, 0, -1, axis=axis), 1, 0)


def average_pool(x: jax.Array) -> jax.Array:
    """Apply 2x2 average pooling with stride 2 to [B, H, W, C]; halves the size, rounding down."""
    return kept_whole(average_2x2)(x)


def average_2x2(x: jax.Array) -> jax.Array:
    """Compute `average_pool`."""
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _native(choice: bool | None) -> bool:
    return platform() != "cpu" if choice is None else choice


_OFFSETS = [(i, j) for i in range(3) for j in range(3)]


def _pad(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dense(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve densely; only the gradient with respect to the kernel has a form of its own."""
    return _convolve(x, kernel, stride)


def _dense_forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, stride), (x, kernel)


def _dense_backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    (of_x,) = jax.linear_transpose(lambda x: _convolve(x, kernel, stride), x)(gradient)
    return of_x, _kernel_gradient(x, gradient, kernel, stride)


_dense.defvjp(_dense_forward, _dense_backward)


def _kernel_gradient(
    x: jax.Array, gradient: jax.Array, kernel: jax.Array, stride: int
) -> jax.Array:
    """Return the gradient of a dense convolution with respect to its kernel.

    Args:
        x: [B, H, W, I], what was convolved.
        gradient: [B, h, w, O], gradient of the result.
        kernel: [k, k, I, O]; only its shape counts.
        stride: stride of the convolution.
    """
    size, part = kernel.shape[0], _part(len(x), RUN // gradient.shape[2])
    if part == len(x):
        return _kernel_gradient_over_rows(x, gradient, size, stride)

    def add(total: jax.Array, images: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + _kernel_gradient_over_rows(*images, size, stride), None

    parts = tuple(array.reshape(-1, part, *array.shape[1:]) for array in (x, gradient))
    return jax.lax.scan(add, zeros_like(kernel), parts)[0]


def _part(count: int, most: int) -> int:
    """Return the largest divisor of `count` that is at most `most`, or 1."""
    return max(n for n in range(1, max(1, most) + 1) if count % n == 0)


def _kernel_gradient_over_rows(
    x: jax.Array, gradient: jax.Array, size: int, stride: int
) -> jax.Array:
    """Return [size, size, I, O] as `_kernel_gradient`, of all images at once.

    It is a convolution of the images with the gradient of the result as the kernel, input
    channels as the batch and images as channels. XLA copies windows of it, whose continuous parts
    are as long as the batch. Over rows alone, with columns and images as channels, they are as long
    as a row of all images, and the products are fast where a row has a few hundred values.
    """
    (_, height, width, channels), (_, h, w, _) = x.shape, gradient.shape
    before = size // 2
    ends = [stride * (n - 1) + size for n in (h, w)]
    pads = [
        (before, max(0, end - n - before)) for end, n in zip(ends, (height, width), strict=True)
    ]
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0))).transpose(3, 1, 2, 0)
    columns = [padded[:, :, j : j + stride * (w - 1) + 1 : stride] for j in range(size)]
    columns = jnp.concatenate(columns).reshape(size * channels, padded.shape[1], -1)
    kernel = gradient.transpose(1, 2, 0, 3).reshape(h, -1, gradient.shape[3])
    rows: list[jax.Array] = [x] * size
    for first in range(stride):
        # Rows of the kernel that meet the same rows of the images: first, first + stride, ...
        places = range(first, size, stride)
        part = columns[:, first::stride][:, : h + len(places) - 1]
        numbers = ("NHC", "HIO", "NHC")
        sums = jax.lax.conv_general_dilated(part, kernel, (1,), "VALID", dimension_numbers=numbers)
        for n, i in enumerate(places):
            rows[i] = sums[:, n].reshape(size, channels, -1)
    return jnp.stack(rows)


@jax.custom_vjp
def _depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve x [B, H, W, C] depthwise with kernel [3, 3, 1, C], as nine shifted products."""
    return _shifted_products(_pad(x), kernel)


def _shifted_products(padded: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return `_depthwise` of x from `_pad(x)`."""
    height, width = (size - 2 for size in padded.shape[1:3])
    weights = kernel.reshape(len(_OFFSETS), -1)
    return sum(
        padded[:, i : i + height, j : j + width] * weight
        for (i, j), weight in zip(_OFFSETS, weights, strict=True)
    )


def _depthwise_forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The padded copy is what both passes read.
    padded = _pad(x)
    return _shifted_products(padded, kernel), (padded, kernel)


def _depthwise_backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # Automatic differentiation would write nine padded copies and read nine products. The gradient
    # of `x` is a depthwise convolution again.
    padded, kernel = saved
    of_x = _depthwise(gradient, kernel[::-1, ::-1])
    return of_x, _depthwise_kernel_gradient(padded, gradient).reshape(kernel.shape)


def _depthwise_kernel_gradient(padded: jax.Array, gradient: jax.Array) -> jax.Array:
    """Return the gradient of a depthwise convolution with respect to its kernel, [9, C].

    A few images at a time: XLA does not compute the gradient of the result, which is input to a
    loop, nine times. Their products are added up band by band of rows: many at once, in registers,
    and the nine totals, each of one band, fit into the cache.
    """
    count, height, width, _ = gradient.shape
    images = _part(count, TOGETHER)
    bands = _part(height, PRODUCTS // images)
    rows = height // bands
    parts = tuple(a.reshape(-1, images, *a.shape[1:]) for a in (padded, gradient))

    def add(
        totals: list[jax.Array], part: tuple[jax.Array, jax.Array]
    ) -> tuple[list[jax.Array], None]:
        padded, gradients = part
        pieces = [(n, rows * band) for n in range(images) for band in range(bands)]
        for place, (i, j) in enumerate(_OFFSETS):
            totals[place] += sum(
                padded[n, first + i : first + i + rows, j : j + width]
                * gradients[n, first : first + rows]
                for n, first in pieces
            )
        return totals, None

    start = [zeros_like(gradient[0, :rows])] * len(_OFFSETS)
    totals, _ = jax.lax.scan(add, start, parts)
    return jnp.stack([total.sum((0, 1)) for total in totals])


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
