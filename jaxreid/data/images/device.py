"""Training augmentation of a batch inside a compiled JAX program, equal to `augmentation.augment`.

The host decodes the images, resizes them unless they all have one size, and draws their parameters
(`augmentation.draw`). The rest is done here, on uint8 [B, H, W, 3], by integers and float32, and
equals the host's images to the bit. Parameters have the batch as their first axis.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid.data.images.tables import (
    RAMP_BITS,
    WEIGHT_BITS,
    enlarged_size,
    filter_weights,
    hue_tables,
    vertical_first,
    whole_ramp_table,
)


def augment(
    image: jax.Array,
    parameters: Mapping[str, Any],
    *,
    plan: Mapping[str, Mapping[str, Any]],
    height: int,
    width: int,
    interpolation: str = "bicubic",
) -> jax.Array:
    """Resize and augment a batch.

    Args:
        image: uint8 [B, h, w, 3] in 0..255.
        parameters: those of `augmentation.draw` for each image, with the donors of patches, uint8
            [B, h, w, 3]; and "augmented", bool [B], false for images that are only resized.
        plan: the enabled operations in their order, as from `augmentation.plan`.
        height: image height in pixels.
        width: image width in pixels.
        interpolation: of the resize, "bicubic" or "bilinear".

    Returns:
        uint8 [B, height, width, 3].
    """
    result = image = resize(image, height, width, interpolation)
    for name, limits in plan.items():
        drawn = parameters[name]
        if name == "crop":
            result = pad_and_crop(result, limits["pad"], **drawn)
        elif name == "flip":
            result = flip_horizontal(result, **drawn)
        elif name == "translation":
            result = translate(result, **drawn)
        elif name == "rotation":
            result = rotate(result, **drawn)
        elif name == "patch":
            donor = resize(drawn["donor"], height, width, interpolation)
            result = paste(result, **{**drawn, "donor": donor})
        elif name == "jitter":
            factors = {name: drawn[name] for name in limits}
            result = jitter(result, drawn["order"], factors)
        elif name == "occlusion":
            result = occlude(result, **drawn)
        elif name == "erasing":
            result = erase(result, fill=limits["fill"], **drawn)
    return _where(parameters["augmented"], result, image)


def resize(image: jax.Array, height: int, width: int, method: str) -> jax.Array:
    """Resize as `decoding.resize`: uint8 [B, h, w, 3] -> uint8 [B, height, width, 3]."""
    size = image.shape[1:3]
    axes = (1, 2) if vertical_first(size, (height, width)) else (2, 1)
    for axis in axes:
        count = image.shape[axis]
        if count == (height, width)[axis - 1]:
            continue
        first, weights = filter_weights(count, (height, width)[axis - 1], method)
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        # Pillow's sums, which fit into 32 bits, and its rounding to 8 bits between the passes.
        total = jnp.int32(1 << (WEIGHT_BITS - 1))
        for i, weight in enumerate(weights.T):
            lines = jnp.take(image, np.minimum(first + i, count - 1), axis)
            total += lines.astype(jnp.int32) * weight.reshape(shape)
        image = jnp.clip(total >> WEIGHT_BITS, 0, 255).astype(jnp.uint8)
    return image


def pad_and_crop(image: jax.Array, pad: int, top: jax.Array, left: jax.Array) -> jax.Array:
    """Pad with black on all sides, and crop the window at `top`, `left` (int32 [B])."""
    padded = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return _windows(padded, image.shape[1:3], top, left)


def flip_horizontal(image: jax.Array, mirrored: jax.Array) -> jax.Array:
    """Mirror the images where `mirrored` (bool [B])."""
    return _where(mirrored, image[:, :, ::-1], image)


def translate(image: jax.Array, moved: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
    """Enlarge by 1.125 and crop a window where `moved` (bool [B]); top and left are int32 [B]."""
    size = image.shape[1:3]
    larger = resize(image, *enlarged_size(*size), "bilinear")
    return _where(moved, _windows(larger, size, top, left), image)


def rotate(image: jax.Array, turn: jax.Array) -> jax.Array:
    """Rotate about the centre, black outside; turn is int32 [B, 6] of `geometry.turn`."""
    height, width = image.shape[1:3]
    y, x = _turn_back(*_grid(height, width), turn)
    inside = _within(y, height) & _within(x, width)
    return jnp.where(inside[..., None], _pixels(image, y, x), jnp.uint8(0))


def paste(
    image: jax.Array,
    donor: jax.Array,
    pasted: jax.Array,
    box: jax.Array,
    top: jax.Array,
    left: jax.Array,
    mirrored: jax.Array,
    turn: jax.Array,
) -> jax.Array:
    """Paste a patch of the donors where `pasted` (bool [B]).

    Args:
        image: uint8 [B, H, W, 3].
        donor: uint8 [B, H, W, 3].
        pasted: bool [B].
        box: int32 [B, 4], (top, left, height, width) of the patch in the donor.
        top: int32 [B], first row of the patch in the image.
        left: int32 [B], first column of the patch in the image.
        mirrored: bool [B].
        turn: int32 [B, 6], rotation of the patch.
    """
    height, width = image.shape[1:3]
    box_top, box_left, box_height, box_width = (_per_image(box[:, i]) for i in range(4))
    rows, columns = _grid(height, width)
    rows, columns = rows - _per_image(top), columns - _per_image(left)
    covered = _within(rows, box_height) & _within(columns, box_width) & _per_image(pasted)
    y, x = _turn_back(rows, columns, turn)
    visible = _within(y, box_height) & _within(x, box_width)
    x = jnp.where(_per_image(mirrored), box_width - 1 - x, x)
    patch = _pixels(donor, box_top + y, box_left + x)
    patch = jnp.where(visible[..., None], patch, jnp.uint8(0))
    return jnp.where(covered[..., None], patch, image)


def jitter(image: jax.Array, order: jax.Array, factors: Mapping[str, jax.Array]) -> jax.Array:
    """Apply colour operations in an order of its own to every image.

    Every place of the order computes all operations and chooses one per image; but hue, which costs
    more than the others together, is computed once, between the places before and after it.

    Args:
        image: uint8 [B, H, W, 3].
        order: int32 [B, n], operations as indices into `factors`.
        factors: n operations by name, each float32 [B], or int32 [B] for the steps of hue.
    """
    names = list(factors)
    others = [name for name in names if name != "hue"]
    at = jnp.full(len(order), len(names))
    if "hue" in factors:
        at = jnp.argmax(order == names.index("hue"), axis=1)

    # Loops, because compilers would compute a place anew for each of its uses in the next one.
    def places(first: int, end: int, image: jax.Array, *, before: bool) -> jax.Array:
        def apply(place: jax.Array, image: jax.Array) -> jax.Array:
            active = (place < at) == before
            operation = jax.lax.dynamic_index_in_dim(order, place, 1, keepdims=False)
            result = image
            for name in others:
                chosen = active & (operation == names.index(name))
                result = _where(chosen, ADJUST[name](image, factors[name]), result)
            return result

        return jax.lax.fori_loop(first, end, apply, image)

    image = places(0, len(others), image, before=True)
    if "hue" not in factors:
        return image
    image = adjust_hue(image, factors["hue"])
    return places(1, len(names), image, before=False)


def adjust_brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with black; factor is float32 [B], 1 for no change."""
    return _blend(0.0, image, factor)


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with the image's mean grey level; factor is float32 [B]."""
    count = image.shape[1] * image.shape[2]
    # Sums of images of up to 4096 x 4096 pixels fit into 32 bits.
    total = jnp.sum(_grey(image).astype(jnp.uint32), (1, 2), dtype=jnp.uint32)
    mean, rest = total // count, total % count
    mean += (2 * rest >= count).astype(jnp.uint32)
    return _blend(mean.astype(jnp.float32)[:, None, None, None], image, factor)


def adjust_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with the grey image; factor is float32 [B]."""
    return _blend(_grey(image).astype(jnp.float32)[..., None], image, factor)


ADJUST = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
}


def adjust_hue(image: jax.Array, steps: jax.Array) -> jax.Array:
    """Rotate the hue in Pillow's 8-bit HSV; steps is int32 [B] of `colour.hue_steps`."""
    hue_table, low_table, _ = hue_tables()
    red, green, blue = _channels(image)
    largest = jnp.maximum(red, jnp.maximum(green, blue))
    smallest = jnp.minimum(red, jnp.minimum(green, blue))
    spread = largest - smallest
    to_middle = 2 * largest + smallest - red - green - blue
    sector = jnp.where(
        red == largest,
        jnp.where(blue == smallest, 0, 1),
        jnp.where(
            green == largest,
            jnp.where(blue == smallest, 2, 3),
            jnp.where(red == smallest, 4, 5),
        ),
    )
    hue = _look_up(hue_table.astype(np.uint8), sector * 65536 + to_middle * 256 + spread)
    hue = (hue + _per_image(steps)) & 255
    packed = _look_up(low_table, largest * 256 + spread)
    low, saturation = packed & 255, packed >> 8
    ramp = _look_up(whole_ramp_table(), saturation * 256 + hue)
    middle = (largest * ramp + (1 << (RAMP_BITS - 1))) >> RAMP_BITS
    # Sextants begin at multiples of 42.5, and 255 is in the first one again. The shifted product is
    # hue * 2 // 85 without a slow division.
    sextant = jnp.where(hue == 255, 0, (hue * (2 * 772)) >> 16)

    # sextants: where a channel receives the largest, the middle and the lowest value.
    def channel(of_largest: tuple[int, int], of_middle: tuple[int, int]) -> jax.Array:
        is_largest = (sextant == of_largest[0]) | (sextant == of_largest[1])
        is_middle = (sextant == of_middle[0]) | (sextant == of_middle[1])
        return jnp.where(is_largest, largest, jnp.where(is_middle, middle, low))

    red, green, blue = channel((0, 5), (1, 4)), channel((1, 2), (0, 3)), channel((3, 4), (2, 5))
    # The barrier keeps compilers from looking up everything once per channel. The bytes of a number
    # begin with the lowest one.
    packed = jax.lax.optimization_barrier(red + green * 256 + blue * 65536)
    return jax.lax.bitcast_convert_type(packed, jnp.uint8)[..., :3]


def occlude(image: jax.Array, top: jax.Array, left: jax.Array, size: jax.Array) -> jax.Array:
    """Paste a white square at `top`, `left` with sides of `size` pixels, int32 [B] each."""
    box = jnp.stack([top, left, size, size], 1)
    return jnp.where(_covered(image, box), jnp.uint8(255), image)


def erase(
    image: jax.Array, erased: jax.Array, box: jax.Array, fill: tuple[int, int, int]
) -> jax.Array:
    """Fill a box (int32 [B, 4]) with one colour where `erased` (bool [B])."""
    covered = _covered(image, box) & _per_image(erased)[..., None]
    return jnp.where(covered, jnp.array(fill, jnp.uint8), image)


def _per_image(values: jax.Array) -> jax.Array:
    """Reshape [B] to [B, 1, 1]."""
    return values[:, None, None]


def _where(condition: jax.Array, image: jax.Array, other: jax.Array) -> jax.Array:
    """Choose between whole images; condition is bool [B]."""
    return jnp.where(_per_image(condition)[..., None], image, other)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows, int32 [1, H, 1], and the columns, int32 [1, 1, W], of all pixels."""
    rows, columns = np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32)
    return rows[None, :, None], columns[None, None, :]


def _windows(image: jax.Array, size: tuple[int, int], top: jax.Array, left: jax.Array) -> jax.Array:
    def crop(one: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(one, (top, left, 0), (*size, 3))

    return jax.vmap(crop)(image, top, left)


def _turn_back(rows: jax.Array, columns: jax.Array, turn: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Map pixels of rotated images to (row, column) before, int32 [B, H, W] each."""
    n = [_per_image(turn[:, i]) for i in range(6)]
    y = n[0] + n[1] * rows + n[2] * columns
    x = n[3] + n[4] * rows + n[5] * columns
    return y >> 16, x >> 16


def _pixels(image: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Return the pixels [B, H, W, 3] at rows y and columns x, int32 [B, H, W]."""
    height, width = image.shape[1:3]
    index = jnp.clip(y * width + x, 0, height * width - 1)
    flat = image.reshape(len(image), height * width, 3)
    return jax.vmap(lambda one, at: one.at[at].get(mode="promise_in_bounds"))(flat, index)


def _within(place: jax.Array, end: jax.Array | int) -> jax.Array:
    return (place >= 0) & (place < end)


def _covered(image: jax.Array, box: jax.Array) -> jax.Array:
    """Return the mask of a box, bool [B, H, W, 1]; box is int32 [B, 4]."""
    rows, columns = _grid(*image.shape[1:3])
    top, left, height, width = (_per_image(box[:, i]) for i in range(4))
    return (_within(rows - top, height) & _within(columns - left, width))[..., None]


def _channels(image: jax.Array) -> list[jax.Array]:
    return [image[..., i].astype(jnp.int32) for i in range(3)]


def _grey(image: jax.Array) -> jax.Array:
    """Return Pillow's luma, int32 [B, H, W] in 0..255."""
    red, green, blue = _channels(image)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _look_up(table: np.ndarray, index: jax.Array) -> jax.Array:
    return jnp.asarray(table).at[index].get(mode="promise_in_bounds").astype(jnp.int32)


def _blend(base: jax.Array | float, image: jax.Array, factor: jax.Array) -> jax.Array:
    """Return base + factor * (image - base) in float32, clipped and truncated as in Pillow."""
    product = _per_image(factor)[..., None] * (image.astype(jnp.float32) - base)
    # Changes nothing, but keeps compilers from a fused multiply-add, which would not round the
    # product.
    product = jnp.clip(product, -1e30, 1e30)
    return jnp.clip(base + product, 0.0, 255.0).astype(jnp.uint8)
