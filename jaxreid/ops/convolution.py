"""Convolutions and pooling, in the form that is fast on the device.

Accelerator compilers handle `lax.conv_general_dilated` and `lax.reduce_window` well. XLA on CPUs is
slow at depthwise and 1x1 convolutions and at the gradient of max pooling. These are therefore
written as shifted products, as a matrix product, and as shifted maxima. Parameters are the same in
both forms.
"""

import jax
import jax.numpy as jnp

from jaxreid.mesh import platform

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


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
    if not _native(native):
        if size == 1 and per_group == x.shape[-1]:
            x = x[:, ::stride, ::stride]
            # Flatten the pixels: in the gradient, XLA contracts one axis faster than three.
            return (x.reshape(-1, per_group) @ kernel[0, 0]).reshape(*x.shape[:3], -1)
        if size == 3 and per_group == 1 and stride == 1 and kernel.shape[3] == x.shape[3]:
            # Under shard_map the kernel is the same on all devices. Adding a device-varying zero
            # (the sum of an empty slice) makes it device-varying, as the custom VJP assumes. The
            # transpose of the addition sums the gradient over the devices.
            varying_zero = jax.lax.stop_gradient(x[:0].sum())
            return _depthwise(x, kernel + varying_zero)
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
    """Apply 3x3 max pooling with stride 2, padded with -inf; halves the size, rounding up.

    The gradient goes to the largest pixel. For ties, XLA and PyTorch choose the first; the CPU form
    splits the gradient among them.

    Args:
        x: [B, H, W, C] float.
        native: see `convolve`.
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
    """Apply 2x2 average pooling with stride 2 to [B, H, W, C]; halves the size, rounding down."""
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _native(choice: bool | None) -> bool:
    return platform() != "cpu" if choice is None else choice


_OFFSETS = [(i, j) for i in range(3) for j in range(3)]


def _pad(x: jax.Array, value: float = 0.0) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=value)


def _shifts(x: jax.Array) -> list[jax.Array]:
    """Return the nine shifts of `x` by -1, 0 and 1 pixels in each direction, zero-padded."""
    _, h, w, _ = x.shape
    padded = _pad(x)
    return [padded[:, i : i + h, j : j + w] for i, j in _OFFSETS]


@jax.custom_vjp
def _depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve x [B, H, W, C] depthwise with kernel [3, 3, 1, C], as nine shifted products."""
    shifts = zip(_shifts(x), kernel.reshape(9, -1), strict=True)
    return sum(shift * weight for shift, weight in shifts)


def _depthwise_forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _depthwise(x, kernel), (x, kernel)


def _depthwise_backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # Automatic differentiation would write nine padded copies and read nine products. The gradient
    # of `x` is a depthwise convolution again, and one pass over the images computes all nine sums
    # of the kernel's gradient.
    x, kernel = saved
    products = tuple(shift * gradient for shift in _shifts(x))
    zeros = tuple(jnp.zeros((), product.dtype) for product in products)
    add = lambda left, right: tuple(a + b for a, b in zip(left, right, strict=True))  # noqa: E731
    sums = jax.lax.reduce(products, zeros, add, (0,))
    sums = jnp.stack([total.sum((0, 1)) for total in sums])
    return _depthwise(gradient, kernel[::-1, ::-1]), sums.reshape(kernel.shape)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
