"""Training augmentation of one image inside TensorFlow, bit-equal to torchvision on PIL images.

The first half of this file are deterministic functions with explicit parameters, the second half
draws these parameters from a seed. The numbers depend on nothing but the seed: not on the order in
which threads work, and not on which other operations are switched on.

Source: QAConv training transforms (v1.0: flip and occlusion; v1.2 and later: all of them).
"""

import functools
import itertools
import math

import numpy as np
import tensorflow as tf

from jaxreid.data.colour import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    static_size,
)


def flip_horizontal(image: tf.Tensor) -> tf.Tensor:
    """Mirror left and right: uint8 [H, W, 3] -> uint8 [H, W, 3]."""
    return tf.reverse(image, [1])


def pad_and_crop(image: tf.Tensor, pad: int, top, left) -> tf.Tensor:
    """Shift an image: pad it with black on all sides, cut out a window of its own size.

    Args:
        image: uint8 [H, W, 3].
        pad: pixels on each side, >= 0.
        top: int32 [], row of the window in the padded image, 0..2*pad.
        left: int32 [], column of the window, 0..2*pad.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = static_size(image)
    padded = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]])
    return tf.ensure_shape(tf.slice(padded, [top, left, 0], [height, width, 3]), image.shape)


def rotate(image: tf.Tensor, degrees) -> tf.Tensor:
    """Rotate about the centre, nearest neighbour, black outside, same size.

    Args:
        image: uint8 [H, W, 3], below 32768 pixels a side.
        degrees: float [], counter-clockwise.

    Returns:
        uint8 [H, W, 3], equal to ``PIL.Image.rotate(degrees)``.
    """
    height, width = static_size(image)
    radians = -tf.cast(degrees, tf.float64) * (math.pi / 180.0)
    # Pillow rounds to 15 decimals, which makes right angles exact, and then walks over the input in
    # 1/65536 pixels.
    cos = tf.round(tf.cos(radians) * 1e15) / 1e15
    sin = tf.round(tf.sin(radians) * 1e15) / 1e15
    middle_x, middle_y = width / 2.0, height / 2.0
    start_x = cos * -middle_x + sin * -middle_y + middle_x
    start_y = -sin * -middle_x + cos * -middle_y + middle_y

    def fixed(value):
        return tf.cast(tf.floor(value * 65536.0 + 0.5), tf.int32)

    rows = np.arange(height, dtype=np.int32)[:, None]
    columns = np.arange(width, dtype=np.int32)[None, :]
    x = (fixed(start_x + cos * 0.5 + sin * 0.5) + fixed(sin) * rows) + fixed(cos) * columns
    y = (fixed(start_y - sin * 0.5 + cos * 0.5) + fixed(cos) * rows) + fixed(-sin) * columns
    x = tf.bitwise.right_shift(x, 16)
    y = tf.bitwise.right_shift(y, 16)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = tf.where(inside, y * width + x, height * width)  # the pixel behind the last is black
    pixels = tf.pad(tf.reshape(image, [-1, 3]), [[0, 1], [0, 0]])
    return tf.gather(pixels, index)


def occlude(image: tf.Tensor, top, left, size) -> tf.Tensor:
    """Paste a white square.

    Args:
        image: uint8 [H, W, 3].
        top: int32 [], first row of the square.
        left: int32 [], first column.
        size: int32 [], side in pixels.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = static_size(image)
    # One column per channel: broadcasting over a last axis of three is slow.
    rows, columns = np.arange(height), np.repeat(np.arange(width), 3)
    in_rows = (rows >= top) & (rows < top + size)
    in_columns = (columns >= left) & (columns < left + size)
    white = tf.cast(in_rows, tf.uint8)[:, None] * (tf.cast(in_columns, tf.uint8) * 255)
    image = tf.bitwise.bitwise_or(tf.reshape(image, [height, width * 3]), white)
    return tf.reshape(image, [height, width, 3])


def draw_occlusion(seed: tf.Tensor, height: int, width: int, smallest: float, largest: float):
    """Draw the square of RandomOcclusion.

    With S = min(height, width) its side is uniform from max(1, int(S * smallest)) up to but without
    int(S * largest), its corner uniform in 0 .. height - side - 1 and 0 .. width - side - 1 (so it
    never touches the last row or column).

    Args:
        seed: int32 or int64 [2].
        height: of the image.
        width: of the image.
        smallest: share of the shorter side, 0..1.
        largest: share of the shorter side, 0..1.

    Returns:
        (top, left, side), int32 [] each.

    Raises:
        ValueError: no side is possible.

    Source: QAConv ``RandomOcclusion``.
    """
    shorter = min(height, width)
    low, high = max(1, int(shorter * smallest)), int(shorter * largest)
    if not (0 <= smallest <= largest <= 1 and low < high):
        raise ValueError(
            f"occlusion ({smallest}, {largest}) on {height} x {width} leaves sides from {low} to "
            f"{high - 1}: needs 0 <= smallest <= largest <= 1 and room for at least one side"
        )
    u = _uniform(seed, "occlusion", 3)
    side = low + _below(u[0], high - low)
    left = _below(u[1], width - side)
    top = _below(u[2], height - side)
    return top, left, side


def augment(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    flip: float = 0.5,
    pad: int = 10,
    rotation: float = 5.0,
    brightness: tuple[float, float] | None = (0.5, 2.0),
    contrast: tuple[float, float] | None = (0.5, 2.0),
    saturation: tuple[float, float] | None = (0.5, 2.0),
    hue: tuple[float, float] | None = (-0.1, 0.1),
    occlusion: tuple[float, float] | None = (0.0, 0.8),
) -> tf.Tensor:
    """Augment one image: pad and crop, flip, rotation, colour jitter in random order, occlusion.

    The defaults are the QAConv v1.2 training transform. That of v1.0 and v1.1 is flip and occlusion
    alone: ``pad=0, rotation=0, brightness=None, contrast=None, saturation=None, hue=None``.

    Args:
        image: uint8 [H, W, 3] in 0..255, of static shape.
        seed: int32 or int64 [2]; equal seeds give equal images.
        flip: probability of mirroring, 0..1.
        pad: black pixels on each side before cropping; 0 switches the crop off.
        rotation: largest angle in degrees, both ways; 0 switches it off.
        brightness: range of the factor; None or (1, 1) switches it off.
        contrast: as brightness.
        saturation: as brightness.
        hue: range of the shift within -0.5..0.5; None or (0, 0) switches it off.
        occlusion: smallest and largest side of the white square as a share of the shorter side of
            the image, or None. A largest side of 0 switches it off too.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: an argument outside its range, or an image of dynamic shape.

    Source: QAConv v1.2 training transform.
    """
    if not 0 <= flip <= 1:
        raise ValueError(f"flip is {flip} and must be a probability in 0..1")
    if pad < 0 or pad != int(pad):
        raise ValueError(f"pad is {pad} and must be a whole number of pixels >= 0")
    if not 0 <= rotation <= 180:
        raise ValueError(f"rotation is {rotation} and must be in 0..180 degrees")
    jitter = []
    for name, limits, neutral, bounds, adjust in (
        ("brightness", brightness, 1, (0, math.inf), adjust_brightness),
        ("contrast", contrast, 1, (0, math.inf), adjust_contrast),
        ("saturation", saturation, 1, (0, math.inf), adjust_saturation),
        ("hue", hue, 0, (-0.5, 0.5), adjust_hue),
    ):
        if limits is not None:
            low, high = _pair(name, limits)
            if not bounds[0] <= low <= high <= bounds[1]:
                raise ValueError(
                    f"{name} is {tuple(limits)} and needs {bounds[0]} <= low <= high <= {bounds[1]}"
                )
            if not low == high == neutral:
                jitter.append((name, low, high, adjust))
    height, width = static_size(image)

    if pad:
        u = _uniform(seed, "crop", 2)
        image = pad_and_crop(image, pad, _below(u[0], 2 * pad + 1), _below(u[1], 2 * pad + 1))
    if flip:
        mirrored = _uniform(seed, "flip", 1)[0] < flip
        image = tf.cond(mirrored, lambda: flip_horizontal(image), lambda: image)
    if rotation:
        image = rotate(image, (_uniform(seed, "rotation", 1)[0] * 2.0 - 1.0) * rotation)
    if jitter:
        image = _jitter(image, seed, jitter)
    if occlusion is not None and _pair("occlusion", occlusion)[1] != 0:
        image = occlude(image, *draw_occlusion(seed, height, width, *occlusion))
    return image


def _jitter(image, seed, operations):
    """Apply all operations, in one of their orders, each with a factor from its range."""
    branches = []
    for name, low, high, adjust in operations:
        factor = low + (high - low) * _uniform(seed, name, 1)[0]
        branches.append(functools.partial(adjust, factor=factor))
    orders = np.array(list(itertools.permutations(range(len(branches)))), np.int32)
    order = tf.gather(orders, _below(_uniform(seed, "order", 1)[0], len(orders)))
    for place in range(len(branches)):
        calls = [functools.partial(branch, image) for branch in branches]
        image = tf.switch_case(order[place], calls) if len(calls) > 1 else calls[0]()
    return image


_STREAMS = (
    "crop",
    "flip",
    "rotation",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "order",
    "occlusion",
)


def _uniform(seed, stream: str, count: int) -> tf.Tensor:
    """Draw float64 [count] in [0, 1) from the operation's own stream, whichever others are on."""
    seed = tf.cast(seed, tf.int64)
    seed = tf.stack([seed[0], seed[1] * 16 + _STREAMS.index(stream)])
    # A named algorithm, since the default may differ between devices.
    return tf.random.stateless_uniform([count], seed, dtype=tf.float64, alg="philox")


def _below(u: tf.Tensor, end) -> tf.Tensor:
    """Map u in [0, 1) to a uniform int32 in 0 .. end - 1."""
    return tf.cast(tf.floor(u * tf.cast(end, tf.float64)), tf.int32)


def _pair(name, limits) -> tuple[float, float]:
    if len(limits) != 2:
        raise ValueError(f"{name} is {limits!r} and must be a pair (low, high) or None")
    return float(limits[0]), float(limits[1])
