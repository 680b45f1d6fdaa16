"""Random parameters of augmentation, drawn from the seed of an image.

Numbers are uniform in [0, 1) and depend on nothing but the seed and the name of their stream: not
on the order in which threads work, and not on which other operations are switched on. A box is
(top, left, height, width), int32 [] each, in pixels.
"""

import tensorflow as tf

from jaxreid.data.streams import AUGMENTATION_STREAMS, AUGMENTATION_STRIDE

_ATTEMPTS = 100
BOX_NUMBERS = 2 + 2 * _ATTEMPTS  # so many u does draw_box need,
PATCH_NUMBERS = 5 + BOX_NUMBERS  # and draw_patch


def uniform(seed: tf.Tensor, stream: str, count: int) -> tf.Tensor:
    """Draws float64 [count] in [0, 1) from the operation's own stream, whichever others are on."""
    seed = tf.cast(seed, tf.int64)
    seed = tf.stack([seed[0], seed[1] * AUGMENTATION_STRIDE + AUGMENTATION_STREAMS.index(stream)])
    # A named algorithm, since the default may differ between devices.
    return tf.random.stateless_uniform([count], seed, dtype=tf.float64, alg="philox")


def draw_donor(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Chooses the image that a patch comes from: int32 [] in 0 .. count - 1, any equally often.

    The image that is augmented itself may come up, as it may in torchreid's pool.
    """
    return below(uniform(seed, "donor", 1)[0], count)


def draw_square(u: tf.Tensor, height: int, width: int, smallest: float, largest: float):
    """Chooses the square of RandomOcclusion.

    With S = min(height, width) its side is uniform from max(1, int(S * smallest)) up to but without
    int(S * largest), its corner uniform in 0 .. height - side - 1 and 0 .. width - side - 1 (so it
    never touches the last row or column).

    Args:
        u: float64 [3] in [0, 1).
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
    side = low + below(u[0], high - low)
    left = below(u[1], width - side)
    top = below(u[2], height - side)
    return top, left, side


def draw_box(u: tf.Tensor, height: int, width: int, area, aspect: float):
    """Chooses a box of random area and shape inside an image, at a random place.

    Area and aspect (height / width) are uniform in their ranges; of 100 such pairs the first whose
    box is lower *and* narrower than the image is taken. Its corner is uniform over all places
    where it fits, the last row and column included.

    Args:
        u: float64 [BOX_NUMBERS] in [0, 1).
        height: of the image.
        width: of the image.
        area: (smallest, largest) share of the image, as for check_box.
        aspect: smallest aspect, the largest being 1 / aspect.

    Returns:
        (found bool [], box); where no pair fits, found is false and the box has no meaning.

    Source: torchreid ``RandomErasing``, ``RandomPatch.generate_wh``.
    """
    pairs = tf.reshape(u[2:], [_ATTEMPTS, 2])
    pixels = (area[0] + (area[1] - area[0]) * pairs[:, 0]) * (height * width)
    shape = aspect + (1.0 / aspect - aspect) * pairs[:, 1]
    heights = tf.cast(tf.round(tf.sqrt(pixels * shape)), tf.int32)  # rounds as Python does
    widths = tf.cast(tf.round(tf.sqrt(pixels / shape)), tf.int32)
    fits = (heights < height) & (widths < width)
    first = tf.argmax(fits)
    box_height, box_width = heights[first], widths[first]
    top, left = below(u[0], height - box_height + 1), below(u[1], width - box_width + 1)
    return fits[first], (top, left, box_height, box_width)


def draw_patch(u: tf.Tensor, height: int, width: int, area, aspect: float):
    """Chooses a patch, where it goes, and how it is turned: the arguments of paste.

    Args:
        u: float64 [PATCH_NUMBERS] in [0, 1).
        height: of the image and of the donor.
        width: of both.
        area: as for draw_box.
        aspect: as for draw_box.

    Returns:
        (found bool [], (box, top, left, mirrored, degrees)): any place that holds the whole patch,
        mirrored with a probability of 0.5, turned with a probability of 0.5 by whole degrees from
        -10 to 10.

    Source: torchreid ``RandomPatch``.
    """
    found, box = draw_box(u[5:], height, width, area, aspect)
    top, left = below(u[0], height - box[2] + 1), below(u[1], width - box[3] + 1)
    degrees = tf.where(u[3] < 0.5, below(u[4], 21) - 10, 0)
    return found, (box, top, left, u[2] < 0.5, degrees)


def check_box(name: str, height: int, width: int, area, aspect: float) -> None:
    """Refuses what draw_box cannot work with.

    Args:
        name: of the operation, for the message.
        height: of the image.
        width: of the image.
        area: (smallest, largest) share of the image.
        aspect: smallest aspect.

    Raises:
        ValueError: a value outside its range, or values that leave no box at all.
    """
    if len(area) != 2 or not 0 <= area[0] <= area[1] <= 1:
        raise ValueError(f"{name}_area is {area} and must be a pair 0 <= smallest <= largest <= 1")
    if not 0 < aspect <= 1:
        raise ValueError(f"{name}_aspect is {aspect} and must be in 0..1 without 0")
    # The smallest area is the easiest to place. Sides are rounded, hence the half pixels.
    pixels = max(area[0] * height * width, 1e-9)
    if max(aspect, pixels / (width - 0.5) ** 2) > min(1 / aspect, (height - 0.5) ** 2 / pixels):
        raise ValueError(
            f"{name}: no box of {area[0]} of the area or more, with an aspect of {aspect} to "
            f"{1 / aspect:.3g}, lies within {height} x {width}: lower {name}_area or {name}_aspect"
        )


def below(u: tf.Tensor, end) -> tf.Tensor:
    """Maps u in [0, 1) to a uniform int32 in 0 .. end - 1."""
    return tf.cast(tf.floor(u * tf.cast(end, tf.float64)), tf.int32)
