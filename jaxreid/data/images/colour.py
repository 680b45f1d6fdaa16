"""Colour operations on one image inside TensorFlow, bit-equal to Pillow and torchvision on PIL."""

import tensorflow as tf

from jaxreid.data.images.geometry import static_size
from jaxreid.data.images.tables import hue_tables


def adjust_brightness(image: tf.Tensor, factor) -> tf.Tensor:
    """Blend with black: uint8 [H, W, 3], float [] >= 0 (1: unchanged) -> uint8 [H, W, 3]."""
    return _blend(0.0, image, factor)


def adjust_contrast(image: tf.Tensor, factor) -> tf.Tensor:
    """Blend with the image's mean grey level; arguments and result as in adjust_brightness."""
    height, width = static_size(image)
    # In two steps, because the sum over a large image does not fit into 32 bits.
    total = tf.reduce_sum(tf.cast(tf.reduce_sum(_grey(image), 1), tf.int64))
    mean = tf.floor(tf.cast(total, tf.float64) / (height * width) + 0.5)
    return _blend(tf.cast(mean, tf.float32), image, factor)


def adjust_saturation(image: tf.Tensor, factor) -> tf.Tensor:
    """Blend with the grey image; arguments and result as in adjust_brightness."""
    grey = tf.cast(_grey(image), tf.float32)
    red, green, blue = (tf.cast(_blend(grey, c, factor), tf.int32) for c in _channels(image))
    return _unpack(red + green * 256 + blue * 65536)


def hue_steps(factor) -> tf.Tensor:
    """Convert a share of the colour circle, -0.5..0.5, to steps of Pillow's 8-bit hue: int32 []."""
    # The cast truncates towards zero, as torchvision does.
    return tf.cast(tf.cast(factor, tf.float64) * 255.0, tf.int32)


def adjust_hue(image: tf.Tensor, steps) -> tf.Tensor:
    """Rotate the hue, in Pillow's 8-bit HSV.

    Args:
        image: uint8 [H, W, 3].
        steps: int32 [], of 255 in the colour circle, -127..127 (`hue_steps`). Even 0 changes
            colours, by the rounding of 8-bit HSV.

    Returns:
        uint8 [H, W, 3], equal to torchvision's ``adjust_hue`` on a PIL image.
    """
    hue_table, low_table, ramp_table = hue_tables()
    red, green, blue = _channels(image)
    largest = tf.maximum(red, tf.maximum(green, blue))
    smallest = tf.minimum(red, tf.minimum(green, blue))
    spread = largest - smallest
    to_middle = 2 * largest + smallest - red - green - blue

    # Arithmetic on conditions is several times as fast as tf.where.
    def is_true(condition):
        return tf.cast(condition, tf.int32)

    red_largest, green_largest = is_true(red == largest), is_true(green == largest)
    red_smallest, blue_smallest = is_true(red == smallest), is_true(blue == smallest)
    sector = red_largest * (1 - blue_smallest) + (1 - red_largest) * (
        green_largest * (3 - blue_smallest) + (1 - green_largest) * (5 - red_smallest)
    )
    hue = tf.gather(hue_table, sector * 65536 + to_middle * 256 + spread)
    hue = tf.bitwise.bitwise_and(hue + steps, 255)

    packed = tf.gather(low_table, largest * 256 + spread)
    low = tf.bitwise.bitwise_and(packed, 255)
    saturation = tf.bitwise.right_shift(packed, 8)
    ramp = tf.gather(ramp_table, saturation * 256 + hue)
    middle = tf.cast(tf.cast(largest, tf.float64) * ramp + 0.5, tf.int32)

    # Hue sextants begin at multiples of 42.5, and 255 is in the first one again. The shifted
    # product is hue * 2 // 85 without TensorFlow's slow integer division.
    sextant = tf.bitwise.right_shift((hue - 255 * is_true(hue == 255)) * (2 * 772), 16)

    # channels: the channel that receives the value in each sextant.
    def place(value, channels):
        shifts = sum(8 * channel << 5 * i for i, channel in enumerate(channels))
        shift = tf.bitwise.bitwise_and(tf.bitwise.right_shift(shifts, sextant * 5), 31)
        return tf.bitwise.left_shift(value, shift)

    largest = place(largest, (0, 1, 1, 2, 2, 0))
    middle = place(middle, (1, 0, 2, 1, 0, 2))
    return _unpack(largest + middle + place(low, (2, 2, 0, 0, 1, 1)))


def _channels(image) -> list[tf.Tensor]:
    """Return red, green and blue, int32 [H, W] each."""
    return [tf.cast(channel, tf.int32) for channel in tf.unstack(image, axis=-1)]


def _unpack(pixels) -> tf.Tensor:
    """Convert int32 [H, W] of red + 256 * green + 65536 * blue to uint8 [H, W, 3].

    Faster than stacking three channels. The bytes have this order on little-endian machines, which
    all hosts of GPUs and TPUs are.
    """
    return tf.bitcast(pixels, tf.uint8)[..., :3]


def _grey(image) -> tf.Tensor:
    """Return Pillow's luma, int32 [H, W] in 0..255."""
    red, green, blue = _channels(image)
    return tf.bitwise.right_shift(red * 19595 + green * 38470 + blue * 7471 + 0x8000, 16)


def _blend(base, image, factor) -> tf.Tensor:
    """Return base + factor * (image - base) in float32, clipped and truncated as in Pillow."""
    image = tf.cast(image, tf.float32)
    result = base + tf.cast(factor, tf.float32) * (image - base)
    return tf.cast(tf.clip_by_value(result, 0.0, 255.0), tf.uint8)
