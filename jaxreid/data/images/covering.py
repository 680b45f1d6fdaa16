"""Covering parts of one image inside TensorFlow: a white square, an erased box, a patch of another.

A box is (top, left, height, width) in pixels: int32 [4], or four of int32 [].
"""

import numpy as np
import tensorflow as tf

from jaxreid.data.images.geometry import static_size, turn_back


def occlude(image: tf.Tensor, top, left, size) -> tf.Tensor:
    """Paste a white square with sides of `size` pixels: uint8 [H, W, 3] -> uint8 [H, W, 3]."""
    height, width = static_size(image)
    in_rows, in_columns = _sides((top, left, size, size), height, width)
    white = tf.cast(in_rows, tf.uint8)[:, None] * (tf.cast(in_columns, tf.uint8) * 255)
    image = tf.bitwise.bitwise_or(tf.reshape(image, [height, width * 3]), white)
    return tf.reshape(image, [height, width, 3])


def erase(image: tf.Tensor, box, fill) -> tf.Tensor:
    """Fill a box with one colour, `fill` in 0..255: uint8 [H, W, 3] -> uint8 [H, W, 3]."""
    height, width = static_size(image)
    in_rows, in_columns = _sides(box, height, width)
    colour = np.tile(np.array(fill, np.uint8), width)
    rows = tf.reshape(image, [height, width * 3])
    erased = tf.where(in_rows[:, None] & in_columns, colour, rows)
    return tf.reshape(erased, [height, width, 3])


def paste(image: tf.Tensor, donor: tf.Tensor, box, top, left, mirrored, turn) -> tf.Tensor:
    """Cut a patch out of another image, mirror and rotate it, and paste it.

    Args:
        image: uint8 [H, W, 3].
        donor: uint8 [H, W, 3].
        box: (top, left, height, width) of the patch within the donor.
        top: int32 [], first row of the patch in the image.
        left: int32 [], first column of the patch in the image.
        mirrored: bool [].
        turn: the rotation of the patch about its centre and within its box (`geometry.turn`). The
            corners that it leaves empty are black and also cover the image.

    Returns:
        uint8 [H, W, 3], equal to Pillow's crop, transpose, rotate and paste.
    """
    height, width = static_size(image)
    box_top, box_left, box_height, box_width = (box[i] for i in range(4))
    # Coordinates within the patch.
    rows = np.arange(height, dtype=np.int32)[:, None] - top
    columns = np.arange(width, dtype=np.int32)[None, :] - left
    covered = _within(rows, box_height) & _within(columns, box_width)
    y, x = turn_back(rows, columns, turn)
    visible = _within(y, box_height) & _within(x, box_width)
    x = tf.where(mirrored, box_width - 1 - x, x)

    # A single gather over the pixels of the image, those of the donor, and a black one.
    count = height * width
    own = np.arange(count, dtype=np.int32).reshape(height, width)
    other = tf.where(visible, count + (box_top + y) * width + box_left + x, 2 * count)
    pixels = [tf.reshape(image, [count, 3]), tf.reshape(donor, [count, 3])]
    pixels = tf.concat([*pixels, tf.zeros([1, 3], tf.uint8)], 0)
    return tf.gather(pixels, tf.where(covered, other, own))


def _sides(box, height, width) -> tuple[tf.Tensor, tf.Tensor]:
    """Return masks of the rows, bool [H], and of the columns, bool [W * 3], that a box covers."""
    top, left, box_height, box_width = (box[i] for i in range(4))
    # One column per channel, because broadcasting over a last axis of three is slow.
    rows = np.arange(height, dtype=np.int32)
    columns = np.repeat(np.arange(width, dtype=np.int32), 3)
    return _within(rows - top, box_height), _within(columns - left, box_width)


def _within(place, end):
    return (place >= 0) & (place < end)
