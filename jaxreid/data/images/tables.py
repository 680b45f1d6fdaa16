"""Tables of Pillow's arithmetic, shared by TensorFlow and JAX."""

import functools
import math

import numpy as np

# Binary digits after the point of the tables for integers: 255 times one fits into 32 bits.
RAMP_BITS = 22
# Pillow's resize: 32 bits of an accumulator, less 8 of a pixel, less 2 for the overshoot of a cubic
# filter.
WEIGHT_BITS = 32 - 8 - 2
# Radius of the filter in input pixels when enlarging.
SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}


def enlarged_size(height: int, width: int) -> tuple[int, int]:
    """Return the enlarged (height, width) that a translation crops from."""
    return round(height * 1.125), round(width * 1.125)


def vertical_first(size_in: tuple[int, int], size_out: tuple[int, int]) -> bool:
    """Return whether a resize from (height, width) to another begins with the vertical pass."""
    removed_rows, removed_columns = size_in[0] - size_out[0], size_in[1] - size_out[1]
    return removed_rows > 0 and removed_rows > 2 * removed_columns


@functools.cache
def filter_weights(size_in: int, size_out: int, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the filter of one pass of a resize.

    `decoding` computes the same for sizes that are not known in advance.

    Args:
        size_in: input lines.
        size_out: output lines.
        method: a key of `SUPPORT`.

    Returns:
        The first of k consecutive input lines of each output line, int32 [size_out]; and their
        weights in units of 2**-WEIGHT_BITS, int32 [size_out, k]. All operations are float64 in
        Pillow's order, so that rounding to integers gives the same result.
    """
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    support = SUPPORT[method] * stretch
    center = (np.arange(size_out) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int32), 0)
    end = np.minimum((center + support + 0.5).astype(np.int32), size_in)
    line = first[:, None] + np.arange(2 * math.ceil(support) + 1)[None, :]
    x = np.abs((line - center[:, None] + 0.5) * (1.0 / stretch))
    if method == "bicubic":
        a = -0.5
        near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
        far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
        weight = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    else:
        weight = np.maximum(1.0 - x, 0.0)
    weight = np.where(line < end[:, None], weight, 0.0)
    # cumsum, because a plain sum may add in another order.
    weight /= np.cumsum(weight, axis=1)[:, -1:]
    weight *= float(1 << WEIGHT_BITS)
    whole = np.where(weight < 0.0, np.ceil(weight - 0.5), np.floor(weight + 0.5))
    return first, whole.astype(np.int32)


@functools.cache
def hue_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tabulate Pillow's conversions between RGB and 8-bit HSV, which mix float32 and float64.

    Returns:
        hue: int32 [6 * 256 * 256], indexed by sector (largest and smallest channel), largest -
            middle, largest - smallest;
        low: int32 [256 * 256], indexed by largest and largest - smallest: smallest channel of the
            result + 256 * saturation;
        ramp: float64 [256 * 256], indexed by saturation and hue: middle channel of the result /
            largest.
    """
    f32, f64 = np.float32, np.float64
    number = np.arange(256)
    distance = (number[:, None].astype(f32) / np.maximum(number, 1).astype(f32)).astype(f32)
    one = f32(1)
    hue = [
        one - distance,
        distance - one,
        2.0 + distance.astype(f64) - 1.0,
        2.0 + 1.0 - distance.astype(f64),
        4.0 + distance.astype(f64) - 1.0,
        4.0 + 1.0 - distance.astype(f64),
    ]
    hue = np.stack([h.astype(f32) for h in hue]).astype(f64)
    hue = np.fmod(hue / 6.0 + 1.0, 1.0).astype(f32)
    hue = np.clip(np.trunc(hue.astype(f64) * 255.0), 0, 255).astype(np.int32)
    # Pillow gives grey pixels the hue 0.
    hue[:, :, 0] = 0

    largest = np.maximum(number, 1).astype(f32)[:, None]
    saturation = (number.astype(f32)[None, :] / largest).astype(f64)
    saturation = np.clip(np.trunc(saturation * 255.0), 0, 255).astype(np.int32)
    share = (number.astype(f64) / 255.0).astype(f32)
    low = np.floor(number[:, None] * (1.0 - share[saturation].astype(f64)) + 0.5).astype(np.int32)

    position = number * 6.0 / 255.0
    sextant = np.floor(position.astype(f32)).astype(np.int32)
    fraction = (position - sextant).astype(f32)
    falling = 1.0 - (share[:, None] * fraction[None, :]).astype(f64)
    rising = 1.0 - share[:, None].astype(f64) * (1.0 - fraction[None, :].astype(f64))
    ramp = np.where(sextant % 2 == 0, rising, falling)
    return hue.reshape(-1), (low + 256 * saturation).reshape(-1), ramp.reshape(-1)


@functools.cache
def whole_ramp_table() -> np.ndarray:
    """Return the ramp of `hue_tables` in whole numbers, for devices without float64.

    Returns:
        int32 [256 * 256], for which (largest * ramp + 2**(RAMP_BITS - 1)) >> RAMP_BITS is
        largest * ramp + 0.5, rounded down in float64, for all colours.
    """
    _, low, ramp = hue_tables()
    saturation = (low >> 8).reshape(256, 256)
    ramp = ramp.reshape(256, 256)
    least = np.zeros((256, 256), np.int64)
    for largest in range(1, 256):
        # Only these saturations occur with this largest channel.
        occur = np.unique(saturation[largest, : largest + 1])
        middle = (largest * ramp[occur] + 0.5).astype(np.int64)
        needed = -((1 - 2 * middle) * (1 << RAMP_BITS) // (2 * largest))
        least[occur] = np.maximum(least[occur], needed)
    return least.astype(np.int32).reshape(-1)
