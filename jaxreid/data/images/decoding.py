"""Decoding and resizing inside TensorFlow, equal to Pillow to the last bit.

A ReID model is sensitive to the resize that it was trained with, and TensorFlow's resize differs
from Pillow's by up to 22 grey levels: Pillow multiplies with 22-bit integer weights and rounds to 8
bits between its two passes. Both are reproduced here.
"""

import functools

import numpy as np
import tensorflow as tf

from jaxreid.data.images.pillow import read_image
from jaxreid.data.images.tables import SUPPORT, WEIGHT_BITS

# Output lines per small matrix product: 8 to 32 are equally fast, one big product is half as fast.
_BLOCK = 16


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decode an image file of any format, by the rule of `formats.to_rgb`, with Pillow.

    Args:
        encoded: tf.string [], the bytes of the file.

    Returns:
        uint8 [h, w, 3] in 0..255, of dynamic size.

    Raises:
        ValueError: broken or not an image; in graphs tf.errors.InvalidArgumentError.
    """

    def read(file):
        # An array of one object outside graphs.
        return read_image(file.item() if isinstance(file, np.ndarray) else file)

    image = tf.numpy_function(read, [encoded], tf.uint8, stateful=False)
    image.set_shape([None, None, 3])
    return image


def decode_plain(encoded: tf.Tensor) -> tf.Tensor:
    """Decode a plain JPEG or PNG file (`formats.is_plain`), faster than `decode` and equal to it.

    Args:
        encoded: tf.string [], the bytes of the file.

    Returns:
        uint8 [h, w, 3] in 0..255, of dynamic size.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not a complete image, such as a truncated
            JPEG file.
    """
    # Despite its name, the op detects the format from the first bytes and decodes PNG too. Pillow
    # uses the accurate inverse DCT; TensorFlow's default differs by up to 6 levels.
    image = tf.io.decode_jpeg(
        encoded,
        channels=3,
        dct_method="INTEGER_ACCURATE",
        fancy_upscaling=True,
        try_recover_truncated=False,
        acceptable_fraction=1.0,
    )
    image.set_shape([None, None, 3])
    return image


def agrees(encoded: bytes, pixels: np.ndarray) -> bool:
    """Return whether `decode_plain` decodes a file to these pixels, uint8 [h, w, 3]."""
    try:
        return np.array_equal(decode_plain(tf.constant(encoded)).numpy(), pixels)
    except tf.errors.InvalidArgumentError:
        return False


def resize(image: tf.Tensor, height: int, width: int, method: str = "bicubic") -> tf.Tensor:
    """Resize one image, bit-equal to ``PIL.Image.resize((width, height), ...)`` of Pillow 13.

    The image is uint8 [h, w, 3] of any size from 1 x 1, static or dynamic. Methods are "bicubic"
    (a = -0.5) and "bilinear"; both widen the filter when shrinking.

    Returns:
        uint8 [height, width, 3]; the image itself if it already has this size.

    Raises:
        ValueError: size below 1, or unknown method.

    Source: QAConv training and test transforms, ``Resize(..., bicubic)`` on PIL images.
    Differs: Pillow before version 13 always runs the horizontal pass first. Its values differ (by
        up to 20 levels on noise) if the height shrinks by more than twice as many pixels as the
        width; enlarging is the same in all versions.
    """
    if method not in SUPPORT:
        raise ValueError(f"unknown resize method {method!r}; valid: {', '.join(SUPPORT)}")
    if height < 1 or width < 1:
        raise ValueError(
            f"cannot resize to height {height}, width {width}: both must be at least 1"
        )
    shape = tf.shape(image)
    removed_rows, removed_columns = shape[0] - height, shape[1] - width
    vertical_first = (removed_rows > 0) & (removed_rows > 2 * removed_columns)
    resize_rows = _row_pass(method)

    def turned(x):
        return tf.transpose(x, [1, 0, 2])

    image = tf.cond(vertical_first, lambda: image, lambda: turned(image))
    first, second = tf.unstack(tf.where(vertical_first, [height, width], [width, height]))
    image = resize_rows(turned(resize_rows(image, first)), second)
    image = tf.cond(vertical_first, lambda: turned(image), lambda: image)
    return tf.ensure_shape(image, [height, width, 3])


@functools.cache
def _row_pass(method: str):
    """Return `_resize_rows` as one function for all sizes, which pipelines share.

    Traced in place, it would make up most of the graph of a pipeline, and most of its start.
    """

    def resize_rows(image, height):
        return tf.cond(
            tf.shape(image)[0] == height,
            lambda: image,
            lambda: _resize_rows(image, height, method),
        )

    return tf.function(
        resize_rows,
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int32)],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def _filter_weights(
    size_in: tf.Tensor, size_out: tf.Tensor, method: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the first of k consecutive input lines of each output line, and their weights.

    They are int32 [size_out] and float64 [size_out, k]; the weights are whole numbers. All
    operations are float64 in Pillow's order, so that rounding to integers gives the same result.
    """
    f64 = tf.float64
    scale = tf.cast(size_in, f64) / tf.cast(size_out, f64)
    stretch = tf.maximum(scale, 1.0)
    support = SUPPORT[method] * stretch
    count = 2 * tf.cast(tf.math.ceil(support), tf.int32) + 1
    center = (tf.range(tf.cast(size_out, f64), dtype=f64) + 0.5) * scale
    first = tf.maximum(tf.cast(center - support + 0.5, tf.int32), 0)
    end = tf.minimum(tf.cast(center + support + 0.5, tf.int32), size_in)
    line = first[:, None] + tf.range(count)[None, :]
    x = tf.abs((tf.cast(line, f64) - center[:, None] + 0.5) * (1.0 / stretch))
    if method == "bicubic":
        a = -0.5
        near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
        far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
        weight = tf.where(x < 1.0, near, tf.where(x < 2.0, far, 0.0))
    else:
        weight = tf.maximum(1.0 - x, 0.0)
    weight = tf.where(line < end[:, None], weight, 0.0)
    # cumsum, because a plain sum may add in another order.
    weight /= tf.cumsum(weight, axis=1)[:, -1:]
    weight *= float(1 << WEIGHT_BITS)
    return first, tf.where(weight < 0.0, tf.math.ceil(weight - 0.5), tf.floor(weight + 0.5))


def _resize_rows(image: tf.Tensor, height: tf.Tensor, method: str) -> tf.Tensor:
    """Resize along the first axis: uint8 [h, w, 3] -> uint8 [height, w, 3].

    A block of neighbouring output rows needs few input rows, so the pass is a batch of small dense
    matrix products. They are exact in float64, in any order of addition: products stay below 2**31
    and sums below 2**53.
    """
    shape = tf.shape(image)
    first, weight = _filter_weights(shape[0], height, method)
    count = tf.shape(weight)[1]
    blocks = -(-height // _BLOCK)
    surplus = blocks * _BLOCK - height
    first = tf.concat([first, tf.repeat(first[-1:], surplus)], 0)
    weight = tf.pad(weight, [[0, surplus], [0, 0]])

    first = tf.reshape(first, [blocks, _BLOCK])
    start = first[:, 0]
    span = tf.reduce_max(first[:, -1] - start) + count
    offset = tf.reshape(first - start[:, None], [-1, 1]) + tf.range(count)[None, :]
    index = tf.range(blocks * _BLOCK)[:, None] * span + offset
    # Division by a power of two is exact, and gives the product in pixel units.
    values = tf.reshape(weight * 2.0**-WEIGHT_BITS, [-1])
    matrix = tf.scatter_nd(tf.reshape(index, [-1, 1]), values, [blocks * _BLOCK * span])
    matrix = tf.reshape(matrix, [blocks, _BLOCK, span])

    # Rows beyond the last one have weight 0.
    row = tf.minimum(start[:, None] + tf.range(span)[None, :], shape[0] - 1)
    rows = tf.gather(tf.cast(tf.reshape(image, [shape[0], -1]), tf.float64), row)
    result = tf.clip_by_value(tf.matmul(matrix, rows) + 0.5, 0.0, 255.0)
    result = tf.reshape(tf.cast(result, tf.uint8), [blocks * _BLOCK, shape[1], 3])
    return result[:height]
