"""Convolutions and pooling, each in the form that the device is fast at.

Compilers for accelerators do well with `lax.conv_general_dilated` and `lax.reduce_window`. XLA for
CPUs does not, where a convolution has one weight per channel (depthwise) or one per pixel (1x1), or
where the gradient of a maximum is wanted: there the same sums are written as shifted products, as a
matrix product, and as shifted maxima. Parameters are the same in both forms.
"""

import jax
import jax.numpy as jnp

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, native: bool | None = None
) -> jax.Array:
    """A convolution with PyTorch's symmetric padding of `kernel size // 2`, without bias.

    "SAME" would pad a stride of 2 on one side only, and converted weights would be read one pixel
    off.

    Args:
        x: [B, H, W, I] float.
        kernel: [k, k, I / groups, O] float, k odd; groups is I divided by the kernel's third axis.
        stride: in both directions.
        native: True uses XLA's convolution, False the form for CPUs where there is one; None
            chooses by device.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), O], of the type of `x`.
    """
    size, per_group = kernel.shape[0], kernel.shape[2]
    if not _native(native):
        if size == 1 and per_group == x.shape[-1]:
            x = x[:, ::stride, ::stride]
            # As rows: XLA contracts one axis of pixels faster than three, in the gradient.
            return (x.reshape(-1, per_group) @ kernel[0, 0]).reshape(*x.shape[:3], -1)
        if size == 3 and per_group == 1 and stride == 1 and kernel.shape[3] == x.shape[3]:
            # Under shard_map the kernel is one for all devices. The sum of no images at all is a
            # zero of this device, and makes the kernel its own: the gradient rule below speaks of
            # one device, and the sum over devices is the gradient of this addition.
            own = jax.lax.stop_gradient(x[:0].sum())
            return _depthwise(x, kernel + own)
    pad = size // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad), (pad, pad)],
        dimension_numbers=DIMENSIONS,
        feature_group_count=x.shape[-1] // per_group,
    )


def max_pool(x: jax.Array, *, native: bool | None = None) -> jax.Array:
    """3x3 maximum, stride 2, padded with minus infinity: [B, H, W, C] -> half the size, rounded up.

    The gradient goes to the largest pixel. Where several are equal, XLA and PyTorch choose the
    first; the form for CPUs divides it among them.

    Args:
        x: [B, H, W, C] float.
        native: as for `convolve`.
    """
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    if _native(native):
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)
    _, h, w, _ = x.shape
    padded = _pad(x, -jnp.inf)
    rows, columns = (h + 1) // 2, (w + 1) // 2
    y = padded[:, 0 : 2 * rows : 2, 0 : 2 * columns : 2]
    for i, j in _OFFSETS[1:]:
        y = jnp.maximum(y, padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2])
    return y


def average_pool(x: jax.Array) -> jax.Array:
    """2x2 mean, stride 2: [B, H, W, C] -> half the size, rounded down."""
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _native(choice: bool | None) -> bool:
    return jax.default_backend() != "cpu" if choice is None else choice


_OFFSETS = [(i, j) for i in range(3) for j in range(3)]


def _pad(x: jax.Array, value: float = 0.0) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=value)


def _shifts(x: jax.Array) -> list[jax.Array]:
    """`x` moved by one pixel in each direction, zeros coming in: nine arrays of its shape."""
    _, h, w, _ = x.shape
    padded = _pad(x)
    return [padded[:, i : i + h, j : j + w] for i, j in _OFFSETS]


@jax.custom_vjp
def _depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Nine shifted products: x [B, H, W, C], kernel [3, 3, 1, C]."""
    shifts = zip(_shifts(x), kernel.reshape(9, -1), strict=True)
    return sum(shift * weight for shift, weight in shifts)


def _depthwise_forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _depthwise(x, kernel), (x, kernel)


def _depthwise_backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # Automatic differentiation would write nine padded copies and read nine products. Here the
    # gradient of `x` is a depthwise convolution again, and one pass over the images makes all nine
    # sums of the kernel's gradient.
    x, kernel = saved
    products = tuple(shift * gradient for shift in _shifts(x))
    zeros = tuple(jnp.zeros((), product.dtype) for product in products)
    add = lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True))  # noqa: E731
    sums = jax.lax.reduce(products, zeros, add, (0,))
    sums = jnp.stack([total.sum((0, 1)) for total in sums])
    return _depthwise(gradient, kernel[::-1, ::-1]), sums.reshape(kernel.shape)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
