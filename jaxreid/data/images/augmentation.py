"""Training augmentation of one image inside TensorFlow, bit-equal to torchvision on PIL images.

This module decides which operations are enabled, their order, and the limits of their random
parameters. The operations (geometry, covering, colour) are deterministic; their parameters are
drawn from a seed.

Source: QAConv training transforms (v1.0: flip and occlusion; v1.2 and later: also crop, rotation
and jitter); torchreid ``transforms.py`` (translation, patch, erasing).
"""

import functools
import itertools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from jaxreid.data.images.colour import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)
from jaxreid.data.images.covering import erase, occlude, paste
from jaxreid.data.images.geometry import (
    enlarged_size,
    flip_horizontal,
    pad_and_crop,
    rotate,
    static_size,
    translate,
)
from jaxreid.data.images.parameters import (
    BOX_NUMBERS,
    PATCH_NUMBERS,
    below,
    check_box,
    draw_box,
    draw_patch,
    draw_square,
    uniform,
)


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
    translation: float = 0.0,
    patch: float = 0.0,
    patch_area: tuple[float, float] = (0.01, 0.5),
    patch_aspect: float = 0.1,
    erasing: float = 0.0,
    erasing_area: tuple[float, float] = (0.02, 0.4),
    erasing_aspect: float = 0.3,
    erasing_fill: tuple[int, int, int] = (152, 142, 127),
    donor: Callable[[], tf.Tensor] | None = None,
) -> tf.Tensor:
    """Apply the enabled operations to one image, in a fixed order.

    The order is: pad and crop, flip, translation, rotation, patch, colour jitter (itself in random
    order), occlusion, erasing. The defaults are the QAConv v1.2 training transform. QAConv v1.0 and
    v1.1 use flip and occlusion only: ``pad=0, rotation=0, brightness=None, contrast=None,
    saturation=None, hue=None``. The transforms of torchreid, on bilinearly resized images and all
    without occlusion, are: random_flip ``flip=0.5``, random_crop ``translation=0.5``, random_patch
    ``patch=0.5``, color_jitter ``brightness=(0.8, 1.2), contrast=(0.85, 1.15)``, random_erase
    ``erasing=0.5``.

    Args:
        image: uint8 [H, W, 3] in 0..255, of static shape.
        seed: int32 or int64 [2]; equal seeds give equal images.
        flip: probability of mirroring, 0..1.
        pad: black pixels on each side before cropping; 0 disables the crop.
        rotation: largest angle in degrees, both ways; 0 disables it.
        brightness: range of the factor; None or (1, 1) disables it.
        contrast: see brightness.
        saturation: see brightness.
        hue: range of the shift within -0.5..0.5; None or (0, 0) disables it.
        occlusion: smallest and largest side of the white square as a share of the shorter image
            side; None or a largest side of 0 disables it.
        translation: probability of enlarging by 1.125 and cropping, 0..1.
        patch: probability of pasting a patch of the donor, 0..1. The patch is mirrored, and rotated
            by -10 to 10 whole degrees, with probability 0.5 each.
        patch_area: smallest and largest area of the patch as a share of the image, 0..1.
        patch_aspect: smallest height / width of the patch, 0..1; the largest is 1 / patch_aspect.
        erasing: probability of filling a box with one colour, 0..1.
        erasing_area: see patch_area.
        erasing_aspect: see patch_aspect.
        erasing_fill: red, green, blue, whole numbers in 0..255. torchreid writes the ImageNet mean
            (0.485, 0.456, 0.406) into pixels that are already normalised; the default is the colour
            that normalises to this value: 255 * (mean + std * mean), rounded.
        donor: returns the training image that draw_donor chose, uint8 [H, W, 3], not augmented.
            Required for patch; called only if a patch is pasted.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: an argument outside its range, a patch without a donor, or an image of dynamic
            shape.

    Source: QAConv v1.2 training transform; torchreid ``build_transforms``.
    Differs: torchreid pastes from a pool of up to 50,000 patches of images that one worker process
        saw earlier in the epoch, once the pool holds 100. The pool is state and depends on the
        number of workers. Here the patch is cut from any image of the data set when needed, as a
        function of the seed alone, which a resumed run repeats. Box, position, flip and angle are
        chosen as in torchreid; the donor is not translated first, and patches are pasted from the
        first image on. Erasing rounds its colour to whole grey levels.
    """
    for name, probability in (
        ("flip", flip),
        ("translation", translation),
        ("patch", patch),
        ("erasing", erasing),
    ):
        if not 0 <= probability <= 1:
            raise ValueError(f"{name} is {probability}; expected a probability in 0..1")
    if pad < 0 or pad != int(pad):
        raise ValueError(f"pad is {pad}; expected a whole number of pixels >= 0")
    if not 0 <= rotation <= 180:
        raise ValueError(f"rotation is {rotation}; expected 0..180 degrees")
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
                    f"{name} is {tuple(limits)}; expected {bounds[0]} <= low <= high <= {bounds[1]}"
                )
            if not low == high == neutral:
                jitter.append((name, low, high, adjust))
    height, width = static_size(image)
    if patch:
        check_box("patch", height, width, patch_area, patch_aspect)
        if donor is None:
            raise ValueError(f"patch is {patch}, but donor is None: give one, or set patch=0")
    if erasing:
        check_box("erasing", height, width, erasing_area, erasing_aspect)
        if len(erasing_fill) != 3 or not all(v == int(v) and 0 <= v <= 255 for v in erasing_fill):
            raise ValueError(
                f"erasing_fill is {erasing_fill}; expected three whole numbers in 0..255"
            )

    if pad:
        u = uniform(seed, "crop", 2)
        image = pad_and_crop(image, pad, below(u[0], 2 * pad + 1), below(u[1], 2 * pad + 1))
    if flip:
        mirrored = uniform(seed, "flip", 1)[0] < flip
        image = tf.cond(mirrored, lambda: flip_horizontal(image), lambda: image)
    if translation:
        image = _translate(image, seed, translation)
    if rotation:
        image = rotate(image, (uniform(seed, "rotation", 1)[0] * 2.0 - 1.0) * rotation)
    if patch:
        image = _patch(image, seed, patch, patch_area, patch_aspect, donor)
    if jitter:
        image = _jitter(image, seed, jitter)
    if occlusion is not None and _pair("occlusion", occlusion)[1] != 0:
        image = occlude(
            image, *draw_square(uniform(seed, "occlusion", 3), height, width, *occlusion)
        )
    if erasing:
        image = _erase(image, seed, erasing, erasing_area, erasing_aspect, erasing_fill)
    return image


def _translate(image, seed, probability):
    """Crop a random window; the first and last offset are half as likely, as in torchreid."""
    height, width = static_size(image)
    larger = enlarged_size(height, width)
    u = uniform(seed, "translation", 3)
    top = tf.cast(tf.round(u[1] * (larger[0] - height)), tf.int32)
    left = tf.cast(tf.round(u[2] * (larger[1] - width)), tf.int32)
    return tf.cond(
        u[0] < probability, lambda: translate(image, height, width, top, left), lambda: image
    )


def _patch(image, seed, probability, area, aspect, donor):
    """Paste a random patch of the donor."""
    u = uniform(seed, "patch", 1 + PATCH_NUMBERS)
    found, patch = draw_patch(u[1:], *static_size(image), area, aspect)

    def pasted():
        return paste(image, tf.ensure_shape(donor(), image.shape), *patch)

    return tf.cond((u[0] < probability) & found, pasted, lambda: image)


def _erase(image, seed, probability, area, aspect, fill):
    """Fill a random box."""
    u = uniform(seed, "erasing", 1 + BOX_NUMBERS)
    found, box = draw_box(u[1:], *static_size(image), area, aspect)
    return tf.cond((u[0] < probability) & found, lambda: erase(image, box, fill), lambda: image)


def _jitter(image, seed, operations):
    """Apply all colour operations in random order, each with a random factor from its range."""
    branches = []
    for name, low, high, adjust in operations:
        factor = low + (high - low) * uniform(seed, name, 1)[0]
        branches.append(functools.partial(adjust, factor=factor))
    if len(branches) == 1:
        return branches[0](image)
    orders = np.array(list(itertools.permutations(range(len(branches)))), np.int32)
    order = tf.gather(orders, below(uniform(seed, "order", 1)[0], len(orders)))

    # A loop instead of a switch for each place, which would hold every operation once per place.
    def apply(place, image):
        calls = [functools.partial(branch, image) for branch in branches]
        return place + 1, tf.ensure_shape(tf.switch_case(order[place], calls), image.shape)

    _, image = tf.while_loop(lambda place, _: place < len(branches), apply, (0, image))
    return image


def _pair(name, limits) -> tuple[float, float]:
    if len(limits) != 2:
        raise ValueError(f"{name} is {limits!r}; expected a pair (low, high) or None")
    return float(limits[0]), float(limits[1])
