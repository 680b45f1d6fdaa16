"""Training augmentation: which operations are enabled, their order, limits and random parameters.

`plan` checks the settings, `draw` draws the parameters of one image from its seed, and the
operations are deterministic functions of them. They run on the host inside TensorFlow (`augment`;
geometry, covering, colour), bit-equal to torchvision on PIL images, or on batches inside a compiled
training step (`device.augment`), equal to the bit as well.

Source: QAConv training transforms (v1.0: flip and occlusion; v1.2 and later: also crop, rotation
and jitter); torchreid ``transforms.py`` (translation, patch, erasing).
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from jaxreid.data.images.colour import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    hue_steps,
)
from jaxreid.data.images.covering import erase, occlude, paste
from jaxreid.data.images.geometry import (
    flip_horizontal,
    pad_and_crop,
    rotate,
    static_size,
    translate,
    turn,
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
from jaxreid.data.images.tables import enlarged_size

# Limits of the enabled operations by name, in the order in which they are applied.
Plan = Mapping[str, Mapping[str, Any]]
# Parameters of one image, or of a batch, by operation and name.
Parameters = dict[str, dict[str, Any]]


def plan(
    height: int,
    width: int,
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
) -> Plan:
    """Check the settings of an augmentation, and return its enabled operations in their order.

    The order is: pad and crop, flip, translation, rotation, patch, colour jitter (itself in random
    order), occlusion, erasing. The defaults are the QAConv v1.2 training transform. QAConv v1.0 and
    v1.1 use flip and occlusion only: ``pad=0, rotation=0, brightness=None, contrast=None,
    saturation=None, hue=None``. The transforms of torchreid, on bilinearly resized images and all
    without occlusion, are: random_flip ``flip=0.5``, random_crop ``translation=0.5``, random_patch
    ``patch=0.5``, color_jitter ``brightness=(0.8, 1.2), contrast=(0.85, 1.15)``, random_erase
    ``erasing=0.5``.

    Args:
        height: image height in pixels.
        width: image width in pixels.
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

    Raises:
        ValueError: an argument outside its range.

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
    jitter = {}
    for name, limits, neutral, bounds in (
        ("brightness", brightness, 1, (0, math.inf)),
        ("contrast", contrast, 1, (0, math.inf)),
        ("saturation", saturation, 1, (0, math.inf)),
        ("hue", hue, 0, (-0.5, 0.5)),
    ):
        if limits is not None:
            low, high = _pair(name, limits)
            if not bounds[0] <= low <= high <= bounds[1]:
                raise ValueError(
                    f"{name} is {tuple(limits)}; expected {bounds[0]} <= low <= high <= {bounds[1]}"
                )
            if not low == high == neutral:
                jitter[name] = (low, high)
    if patch:
        check_box("patch", height, width, patch_area, patch_aspect)
    if erasing:
        check_box("erasing", height, width, erasing_area, erasing_aspect)
        if len(erasing_fill) != 3 or not all(v == int(v) and 0 <= v <= 255 for v in erasing_fill):
            raise ValueError(
                f"erasing_fill is {erasing_fill}; expected three whole numbers in 0..255"
            )

    enabled: dict[str, Mapping[str, Any]] = {}
    if pad:
        enabled["crop"] = {"pad": pad}
    if flip:
        enabled["flip"] = {"probability": flip}
    if translation:
        enabled["translation"] = {"probability": translation}
    if rotation:
        enabled["rotation"] = {"degrees": rotation}
    if patch:
        enabled["patch"] = {"probability": patch, "area": patch_area, "aspect": patch_aspect}
    if jitter:
        enabled["jitter"] = jitter
    if occlusion is not None and _pair("occlusion", occlusion)[1] != 0:
        enabled["occlusion"] = {"smallest": occlusion[0], "largest": occlusion[1]}
    if erasing:
        limits = {"area": erasing_area, "aspect": erasing_aspect, "fill": tuple(erasing_fill)}
        enabled["erasing"] = {"probability": erasing, **limits}
    return enabled


def draw(seed: tf.Tensor, height: int, width: int, plan: Plan) -> Parameters:
    """Draw the parameters of one image.

    Args:
        seed: int32 or int64 [2]; equal seeds give equal parameters.
        height: image height in pixels.
        width: image width in pixels.
        plan: the enabled operations.

    Returns:
        The parameters of each operation, of types that every device has:
        crop: top, left int32 [] in the padded image;
        flip: mirrored bool [];
        translation: moved bool [], top, left int32 [] in the enlarged image;
        rotation: turn int32 [6] (`geometry.turn`);
        patch: pasted bool [], box int32 [4] in the donor, top, left int32 [], mirrored bool [], and
            turn int32 [6];
        jitter: order int32 [n] of its n operations, and of each the factor float32 [], but of hue
            its steps int32 [];
        occlusion: top, left, size int32 [];
        erasing: erased bool [], box int32 [4].

    Raises:
        ValueError: no square is possible for occlusion.
    """
    functions = {
        "crop": _draw_crop,
        "flip": _draw_flip,
        "translation": _draw_translation,
        "rotation": _draw_rotation,
        "patch": _draw_patch,
        "jitter": _draw_jitter,
        "occlusion": _draw_occlusion,
        "erasing": _draw_erasing,
    }
    size = (height, width)
    return {name: functions[name](seed, size, **limits) for name, limits in plan.items()}


def augment(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    donor: Callable[[], tf.Tensor] | None = None,
    **settings: Any,
) -> tf.Tensor:
    """Augment one image inside TensorFlow.

    Args:
        image: uint8 [H, W, 3] in 0..255, of static shape.
        seed: int32 or int64 [2]; equal seeds give equal images.
        donor: returns the training image that draw_donor chose, uint8 [H, W, 3], not augmented.
            Required for patch; called only if a patch is pasted.
        **settings: keywords of `plan`.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: an argument outside its range, a patch without a donor, or an image of dynamic
            shape.
    """
    height, width = static_size(image)
    enabled = plan(height, width, **settings)
    if "patch" in enabled and donor is None:
        chance = enabled["patch"]["probability"]
        raise ValueError(f"patch is {chance}, but donor is None: give one, or set patch=0")
    parameters = draw(seed, height, width, enabled)
    for name, limits in enabled.items():
        drawn = parameters[name]
        if name == "crop":
            image = pad_and_crop(image, limits["pad"], **drawn)
        elif name == "flip":
            image = _where(drawn.pop("mirrored"), flip_horizontal, image)
        elif name == "translation":
            move = functools.partial(translate, height=height, width=width)
            image = _where(drawn.pop("moved"), move, image, **drawn)
        elif name == "rotation":
            image = rotate(image, **drawn)
        elif name == "patch":
            image = _where(drawn.pop("pasted"), functools.partial(_paste, donor), image, **drawn)
        elif name == "jitter":
            image = _jitter(image, **drawn)
        elif name == "occlusion":
            image = occlude(image, **drawn)
        elif name == "erasing":
            fill = functools.partial(erase, fill=limits["fill"])
            image = _where(drawn.pop("erased"), fill, image, **drawn)
    return image


def _draw_crop(seed, size, pad) -> dict[str, Any]:
    u = uniform(seed, "crop", 2)
    return {"top": below(u[0], 2 * pad + 1), "left": below(u[1], 2 * pad + 1)}


def _draw_flip(seed, size, probability) -> dict[str, Any]:
    return {"mirrored": uniform(seed, "flip", 1)[0] < probability}


def _draw_translation(seed, size, probability) -> dict[str, Any]:
    """Choose a window; the first and last offset are half as likely, as in torchreid."""
    u = uniform(seed, "translation", 3)
    places = [
        tf.cast(tf.round(share * (larger - side)), tf.int32)
        for share, larger, side in zip(tf.unstack(u[1:]), enlarged_size(*size), size, strict=True)
    ]
    return {"moved": u[0] < probability, "top": places[0], "left": places[1]}


def _draw_rotation(seed, size, degrees) -> dict[str, Any]:
    return {"turn": turn(*size, (uniform(seed, "rotation", 1)[0] * 2.0 - 1.0) * degrees)}


def _draw_patch(seed, size, probability, area, aspect) -> dict[str, Any]:
    u = uniform(seed, "patch", 1 + PATCH_NUMBERS)
    found, (box, top, left, mirrored, degrees) = draw_patch(u[1:], *size, area, aspect)
    return {
        "pasted": (u[0] < probability) & found,
        "box": tf.stack(box),
        "top": top,
        "left": left,
        "mirrored": mirrored,
        "turn": turn(*box[2:], degrees),
    }


def _draw_jitter(seed, size, **operations) -> dict[str, Any]:
    drawn = {}
    for name, (low, high) in operations.items():
        factor = low + (high - low) * uniform(seed, name, 1)[0]
        drawn[name] = hue_steps(factor) if name == "hue" else tf.cast(factor, tf.float32)
    orders = np.array(list(itertools.permutations(range(len(operations)))), np.int32)
    order = orders[0]
    if len(operations) > 1:
        order = tf.gather(orders, below(uniform(seed, "order", 1)[0], len(orders)))
    return {"order": order, **drawn}


def _draw_occlusion(seed, size, smallest, largest) -> dict[str, Any]:
    square = draw_square(uniform(seed, "occlusion", 3), *size, smallest, largest)
    return dict(zip(("top", "left", "size"), square, strict=True))


def _draw_erasing(seed, size, probability, area, aspect, fill) -> dict[str, Any]:
    u = uniform(seed, "erasing", 1 + BOX_NUMBERS)
    found, box = draw_box(u[1:], *size, area, aspect)
    return {"erased": (u[0] < probability) & found, "box": tf.stack(box)}


def _where(condition, call, image, **arguments) -> tf.Tensor:
    """Change the image if the condition holds, and compute the change only then."""
    return tf.cond(condition, lambda: call(image, **arguments), lambda: image)


def _paste(donor, image, **drawn) -> tf.Tensor:
    return paste(image, tf.ensure_shape(donor(), image.shape), **drawn)


def _jitter(image, order, **factors) -> tf.Tensor:
    """Apply all colour operations in random order."""
    adjust = {
        "brightness": adjust_brightness,
        "contrast": adjust_contrast,
        "saturation": adjust_saturation,
        "hue": adjust_hue,
    }
    if len(factors) == 1:
        ((name, factor),) = factors.items()
        return adjust[name](image, factor)

    # A loop instead of a switch for each place, which would hold every operation once per place.
    def apply(place, image):
        calls = [functools.partial(adjust[name], image, x) for name, x in factors.items()]
        return place + 1, tf.ensure_shape(tf.switch_case(order[place], calls), image.shape)

    _, image = tf.while_loop(lambda place, _: place < len(factors), apply, (0, image))
    return image


def _pair(name, limits) -> tuple[float, float]:
    if len(limits) != 2:
        raise ValueError(f"{name} is {limits!r}; expected a pair (low, high) or None")
    return float(limits[0]), float(limits[1])
