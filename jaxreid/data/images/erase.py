"""Covering parts of an image: a white square, an erased box, a patch of another image.

Everything here is deterministic: what is left to chance comes as numbers u, uniform in [0, 1),
which augment.py draws. A box is (top, left, height, width), int32 [] each, in pixels.
"""

import math

import numpy as np
import tensorflow as tf

from jaxreid.data.images.colour import static_size

_ATTEMPTS = 100
BOX_NUMBERS = 2 + 2 * _ATTEMPTS  # so many u does draw_box need,
PATCH_NUMBERS = 5 + BOX_NUMBERS  # and draw_patch


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
    in_rows, in_columns = _sides((top, left, size, size), height, width)
    white = tf.cast(in_rows, tf.uint8)[:, None] * (tf.cast(in_columns, tf.uint8) * 255)
    image = tf.bitwise.bitwise_or(tf.reshape(image, [height, width * 3]), white)
    return tf.reshape(image, [height, width, 3])


def erase(image: tf.Tensor, box, fill) -> tf.Tensor:
    """Fill a box with one colour.

    Args:
        image: uint8 [H, W, 3].
        box: (top, left, height, width) within the image.
        fill: three whole numbers in 0..255.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = static_size(image)
    in_rows, in_columns = _sides(box, height, width)
    colour = np.tile(np.array(fill, np.uint8), width)
    rows = tf.reshape(image, [height, width * 3])
    erased = tf.where(in_rows[:, None] & in_columns, colour, rows)
    return tf.reshape(erased, [height, width, 3])


def paste(image: tf.Tensor, donor: tf.Tensor, box, top, left, mirrored, degrees) -> tf.Tensor:
    """Cut a patch out of another image, mirror and rotate it, and paste it.

    Args:
        image: uint8 [H, W, 3].
        donor: uint8 [H, W, 3].
        box: (top, left, height, width) of the patch within the donor.
        top: int32 [], row of the image where the patch begins.
        left: int32 [], column of the image where the patch begins.
        mirrored: bool [].
        degrees: float [], counter-clockwise, about the patch's centre and within its box; the
            corners that this leaves empty are black, and cover the image too.

    Returns:
        uint8 [H, W, 3], equal to Pillow's crop, transpose, rotate and paste.
    """
    height, width = static_size(image)
    box_top, box_left, box_height, box_width = box
    rows = np.arange(height, dtype=np.int32)[:, None] - top  # from here on in the patch
    columns = np.arange(width, dtype=np.int32)[None, :] - left
    covered = _within(rows, box_height) & _within(columns, box_width)
    y, x = turn_back(rows, columns, box_height, box_width, degrees)
    visible = _within(y, box_height) & _within(x, box_width)
    x = tf.where(mirrored, box_width - 1 - x, x)

    # One gather over the pixels of the image, then those of the donor, then a black one.
    count = height * width
    own = np.arange(count, dtype=np.int32).reshape(height, width)
    other = tf.where(visible, count + (box_top + y) * width + box_left + x, 2 * count)
    pixels = [tf.reshape(image, [count, 3]), tf.reshape(donor, [count, 3])]
    pixels = tf.concat([*pixels, tf.zeros([1, 3], tf.uint8)], 0)
    return tf.gather(pixels, tf.where(covered, other, own))


def turn_back(rows, columns, height, width, degrees) -> tuple[tf.Tensor, tf.Tensor]:
    """Find which pixels of an image come to given places when it is rotated about its centre.

    Args:
        rows: int32, broadcasts with columns; places in the rotated image.
        columns: int32.
        height: of the image, int or int32 [], below 32768.
        width: of the image, int or int32 [], below 32768.
        degrees: float [], counter-clockwise.

    Returns:
        (row, column), int32 of the broadcast shape, outside the image where nothing comes: those
        that Pillow's ``rotate(degrees)`` takes.
    """
    radians = -tf.cast(degrees, tf.float64) * (math.pi / 180.0)
    # Pillow rounds to 15 decimals, which makes right angles exact, and then walks over the input in
    # 1/65536 pixels.
    cos = tf.round(tf.cos(radians) * 1e15) / 1e15
    sin = tf.round(tf.sin(radians) * 1e15) / 1e15
    middle_x = tf.cast(width, tf.float64) / 2.0
    middle_y = tf.cast(height, tf.float64) / 2.0
    start_x = cos * -middle_x + sin * -middle_y + middle_x
    start_y = -sin * -middle_x + cos * -middle_y + middle_y

    def fixed(value):
        return tf.cast(tf.floor(value * 65536.0 + 0.5), tf.int32)

    x = (fixed(start_x + cos * 0.5 + sin * 0.5) + fixed(sin) * rows) + fixed(cos) * columns
    y = (fixed(start_y - sin * 0.5 + cos * 0.5) + fixed(cos) * rows) + fixed(-sin) * columns
    return tf.bitwise.right_shift(y, 16), tf.bitwise.right_shift(x, 16)


def draw_square(u: tf.Tensor, height: int, width: int, smallest: float, largest: float):
    """Choose the square of RandomOcclusion.

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
    """Choose a box of random area and shape inside an image, at a random place.

    Area and aspect (height / width) are uniform in their ranges; of 100 such pairs the first whose
    box is lower *and* narrower than the image is taken. Its corner is uniform over all places
    where it fits, the last row and column included.

    Args:
        u: float64 [BOX_NUMBERS] in [0, 1).
        height: of the image.
        width: of the image.
        area: (smallest, largest) share of the image, as check_box takes them.
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
    """Choose a patch, where it goes, and how it is turned: the arguments of paste.

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
    """Refuse what draw_box cannot work with.

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
    """Map u in [0, 1) to a uniform int32 in 0 .. end - 1."""
    return tf.cast(tf.floor(u * tf.cast(end, tf.float64)), tf.int32)


def _sides(box, height, width) -> tuple[tf.Tensor, tf.Tensor]:
    """Tell which rows, bool [H], and which columns, bool [W * 3], a box covers."""
    top, left, box_height, box_width = box
    # One column per channel: broadcasting over a last axis of three is slow.
    rows = np.arange(height, dtype=np.int32)
    columns = np.repeat(np.arange(width, dtype=np.int32), 3)
    return _within(rows - top, box_height), _within(columns - left, box_width)


def _within(place, end):
    return (place >= 0) & (place < end)
