"""Geometric operations on one image inside TensorFlow, bit-equal to torchvision on PIL images."""

import math

import numpy as np
import tensorflow as tf

from jaxreid.data.images.decoding import resize
from jaxreid.data.images.tables import enlarged_size


def flip_horizontal(image: tf.Tensor) -> tf.Tensor:
    """Mirror left and right: uint8 [H, W, 3] -> uint8 [H, W, 3]."""
    return tf.reverse(image, [1])


def pad_and_crop(image: tf.Tensor, pad: int, top, left) -> tf.Tensor:
    """Pad an image with black on all sides, and crop a window of its original size.

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


def translate(image: tf.Tensor, height: int, width: int, top, left) -> tf.Tensor:
    """Resize an image bilinearly to 1.125 times the target size, and crop a window.

    Args:
        image: uint8 [h, w, 3], of any size.
        height: height of the result.
        width: width of the result.
        top: int32 [], row of the window, 0..round(1.125 * height) - height.
        left: int32 [], column of the window, 0..round(1.125 * width) - width.

    Returns:
        uint8 [height, width, 3].

    Source: torchreid ``Random2DTranslation``.
    """
    larger = resize(image, *enlarged_size(height, width), "bilinear")
    return tf.ensure_shape(tf.slice(larger, [top, left, 0], [height, width, 3]), [height, width, 3])


def rotate(image: tf.Tensor, turn) -> tf.Tensor:
    """Rotate about the centre: uint8 [H, W, 3] -> uint8 [H, W, 3].

    With the `turn` of some degrees, equal to ``PIL.Image.rotate(degrees)``: nearest neighbour,
    black outside.
    """
    height, width = static_size(image)
    rows = np.arange(height, dtype=np.int32)[:, None]
    columns = np.arange(width, dtype=np.int32)[None, :]
    y, x = turn_back(rows, columns, turn)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    # The padded pixel behind the last one is black.
    index = tf.where(inside, y * width + x, height * width)
    pixels = tf.pad(tf.reshape(image, [-1, 3]), [[0, 1], [0, 0]])
    return tf.gather(pixels, index)


def turn(height, width, degrees) -> tf.Tensor:
    """Return the rotation of an image about its centre, in whole numbers, for `turn_back`.

    Args:
        height: image height, int or int32 [], below 32768.
        width: image width, int or int32 [], below 32768.
        degrees: float [], counter-clockwise.

    Returns:
        int32 [6] in units of 1/65536 pixel, as in Pillow's ``rotate(degrees)``: the row that the
        first pixel comes from, its steps per row and per column; and the same of the column.
    """
    radians = -tf.cast(degrees, tf.float64) * (math.pi / 180.0)
    # Pillow rounds to 15 decimals, which makes right angles exact, and then steps over the input in
    # units of 1/65536 pixel.
    cos = tf.round(tf.cos(radians) * 1e15) / 1e15
    sin = tf.round(tf.sin(radians) * 1e15) / 1e15
    middle_x = tf.cast(width, tf.float64) / 2.0
    middle_y = tf.cast(height, tf.float64) / 2.0
    start_x = cos * -middle_x + sin * -middle_y + middle_x
    start_y = -sin * -middle_x + cos * -middle_y + middle_y
    x, y = start_x + cos * 0.5 + sin * 0.5, start_y - sin * 0.5 + cos * 0.5
    return tf.cast(tf.floor(tf.stack([y, cos, -sin, x, sin, cos]) * 65536.0 + 0.5), tf.int32)


def turn_back(rows, columns, turn) -> tuple[tf.Tensor, tf.Tensor]:
    """Map pixels of a rotated image back to those of the original image.

    Args:
        rows: int32, broadcasts with columns; rows in the rotated image.
        columns: int32, columns in the rotated image.
        turn: the rotation.

    Returns:
        (row, column) in the original image, int32 of the broadcast shape; outside the image where
        the rotated image is empty.
    """
    y, x = ((n[0] + n[1] * rows) + n[2] * columns for n in (turn[:3], turn[3:]))
    return tf.bitwise.right_shift(y, 16), tf.bitwise.right_shift(x, 16)


def static_size(image: tf.Tensor) -> tuple[int, int]:
    """Return height and width of an image [H, W, 3]; raise ValueError if they are not static."""
    shape = image.shape
    if shape.rank != 3 or shape[2] != 3 or None in shape.as_list():
        raise ValueError(
            f"expected an image of static shape [H, W, 3], got {shape}: resize it first"
        )
    return shape[0], shape[1]
