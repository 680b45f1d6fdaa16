"""Random parameters of augmentation, drawn from the seed of an image.

Numbers are uniform in [0, 1) and depend only on the seed and the name of their stream, not on
thread order or on the other enabled operations. A box is (top, left, height, width), int32 []
each, in pixels.
"""

import tensorflow as tf

from jaxreid.data.streams import AUGMENTATION_STREAMS, AUGMENTATION_STRIDE

_ATTEMPTS = 100
_PHILOX = 1
# Number of uniform values that draw_box and draw_patch need.
BOX_NUMBERS = 2 + 2 * _ATTEMPTS
PATCH_NUMBERS = 5 + BOX_NUMBERS


def uniform(seed: tf.Tensor, stream: str, count: int) -> tf.Tensor:
    """Draw float64 [count] in [0, 1) from a named stream, independent of all other streams."""
    seed = tf.cast(seed, tf.int64)
    seed = tf.stack([seed[0], seed[1] * AUGMENTATION_STRIDE + AUGMENTATION_STREAMS.index(stream)])
    # Equal to tf.random.stateless_uniform(..., alg="philox"), with a third of its operations.
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    return tf.raw_ops.StatelessRandomUniformV2(
        shape=[count], key=key, counter=counter, alg=_PHILOX, dtype=tf.float64
    )


def draw_donor(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Choose the image that a patch comes from: int32 [], uniform in 0 .. count - 1.

    It can be the augmented image itself, as in torchreid's pool.
    """
    return below(uniform(seed, "donor", 1)[0], count)


def draw_square(u: tf.Tensor, height: int, width: int, smallest: float, largest: float):
    """Choose the square of RandomOcclusion.

    With S = min(height, width), the side is uniform from max(1, int(S * smallest)) to
    int(S * largest), exclusive. The corner is uniform in 0 .. height - side - 1 and
    0 .. width - side - 1, so the square never touches the last row or column. u is float64 [3] in
    [0, 1).

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
            f"{high - 1}: expected 0 <= smallest <= largest <= 1 and at least one possible side"
        )
    side = low + below(u[0], high - low)
    left = below(u[1], width - side)
    top = below(u[2], height - side)
    return top, left, side


def draw_box(u: tf.Tensor, height: int, width: int, area, aspect: float):
    """Choose a box of random area, shape and position inside an image.

    Area and aspect (height / width) are uniform in their ranges. The box is the first of 100 such
    pairs that is lower *and* narrower than the image. Its corner is uniform over all positions
    where it fits, including the last row and column.

    u is float64 [BOX_NUMBERS] in [0, 1), area the (smallest, largest) share of the image, aspect
    the smallest aspect; the largest is 1 / aspect. `check_box` gives their limits.

    Returns:
        (found bool [], box); if no pair fits, found is false and the box is meaningless.

    Source: torchreid ``RandomErasing``, ``RandomPatch.generate_wh``.
    """
    pairs = tf.reshape(u[2:], [_ATTEMPTS, 2])
    pixels = (area[0] + (area[1] - area[0]) * pairs[:, 0]) * (height * width)
    shape = aspect + (1.0 / aspect - aspect) * pairs[:, 1]
    # tf.round rounds half to even, as Python does.
    heights = tf.cast(tf.round(tf.sqrt(pixels * shape)), tf.int32)
    widths = tf.cast(tf.round(tf.sqrt(pixels / shape)), tf.int32)
    fits = (heights < height) & (widths < width)
    first = tf.argmax(fits)
    box_height, box_width = heights[first], widths[first]
    top, left = below(u[0], height - box_height + 1), below(u[1], width - box_width + 1)
    return fits[first], (top, left, box_height, box_width)


def draw_patch(u: tf.Tensor, height: int, width: int, area, aspect: float):
    """Choose a patch, its position, flip and angle: the arguments of paste.

    u is float64 [PATCH_NUMBERS] in [0, 1), area and aspect are as in draw_box. Image and donor have
    the same size.

    Returns:
        (found bool [], (box, top, left, mirrored, degrees)): any position that holds the whole
        patch, mirrored with probability 0.5, rotated with probability 0.5 by whole degrees from -10
        to 10.

    Source: torchreid ``RandomPatch``.
    """
    found, box = draw_box(u[5:], height, width, area, aspect)
    top, left = below(u[0], height - box[2] + 1), below(u[1], width - box[3] + 1)
    degrees = tf.where(u[3] < 0.5, below(u[4], 21) - 10, 0)
    return found, (box, top, left, u[2] < 0.5, degrees)


def check_box(name: str, height: int, width: int, area, aspect: float) -> None:
    """Check the arguments of draw_box, for the operation `name`.

    Raises:
        ValueError: a value is outside its range, or no box is possible.
    """
    if len(area) != 2 or not 0 <= area[0] <= area[1] <= 1:
        raise ValueError(f"{name}_area is {area}; expected a pair 0 <= smallest <= largest <= 1")
    if not 0 < aspect <= 1:
        raise ValueError(f"{name}_aspect is {aspect}; expected 0 < {name}_aspect <= 1")
    # The smallest area is the easiest to place. The half pixels account for the rounding of sides.
    pixels = max(area[0] * height * width, 1e-9)
    if max(aspect, pixels / (width - 0.5) ** 2) > min(1 / aspect, (height - 0.5) ** 2 / pixels):
        raise ValueError(
            f"{name}: no box with at least {area[0]} of the area and an aspect of {aspect} to "
            f"{1 / aspect:.3g} fits into {height} x {width}: lower {name}_area or {name}_aspect"
        )


def below(u: tf.Tensor, end) -> tf.Tensor:
    """Map u in [0, 1) to a uniform int32 in 0 .. end - 1."""
    return tf.cast(tf.floor(u * tf.cast(end, tf.float64)), tf.int32)
