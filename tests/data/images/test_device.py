"""Augmentation on the device: the host's images, to the bit."""

import functools

import jax
import numpy as np
import pytest
import tensorflow as tf

from jaxreid.data.images import augmentation, colour, decoding, device
from jaxreid.data.images.tables import WEIGHT_BITS, filter_weights

OFF = {"flip": 0.0, "pad": 0, "rotation": 0.0, "occlusion": None}
OFF |= dict.fromkeys(("brightness", "contrast", "saturation", "hue"))
HEIGHT, WIDTH, COUNT = 37, 23, 24


def compare(settings, height=HEIGHT, width=WIDTH, count=COUNT, augmented=None):
    """Augment noise on the host and on the device; return both, uint8 [count, H, W, 3]."""
    noise = np.random.default_rng(0)
    image, donor = noise.integers(0, 256, (2, count, height, width, 3), np.uint8)
    image[: count // 2] = np.sort(image[: count // 2], axis=2)  # half of them smooth
    image[0], image[1] = 0, 255
    plan = augmentation.plan(height, width, **settings)

    @tf.autograph.experimental.do_not_convert
    def both(i, image, donor):
        seed = tf.stack([5, i])
        expected = augmentation.augment(image, seed, donor=lambda: donor, **settings)
        return expected, augmentation.draw(seed, height, width, plan)

    data = tf.data.Dataset.from_tensor_slices((np.arange(count, dtype=np.int64), image, donor))
    expected, drawn = next(data.map(both).batch(count).as_numpy_iterator())
    if "patch" in plan:
        drawn["patch"]["donor"] = donor
    drawn["augmented"] = np.ones(count, bool) if augmented is None else augmented
    form = {"plan": plan, "height": height, "width": width}
    result = jax.jit(functools.partial(device.augment, **form))(image, drawn)
    assert result.dtype == np.uint8
    return image, expected, np.asarray(result)


@pytest.mark.parametrize(
    "settings",
    [
        {"pad": 5, "flip": 0.5},
        {"translation": 0.7, "rotation": 180.0},
        {"contrast": (0.0, 3.0)},
        {"brightness": (0.0, 3.0), "saturation": (0.0, 3.0)},
        {"hue": (-0.5, 0.5)},
        {"patch": 0.7, "occlusion": (0.0, 0.8), "erasing": 0.7},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_operations_are_the_hosts_to_the_bit(settings):
    image, expected, result = compare(OFF | settings)
    np.testing.assert_array_equal(result, expected)
    assert (result != image).any((1, 2, 3)).mean() > 0.4


# That of torchreid's recipes, as they are fed: tests/training/test_augmentation.py.
def test_augmentation_of_qaconv_is_the_hosts_to_the_bit():
    image, expected, result = compare({}, 33, 16, 72)  # three times as many as orders of the jitter
    np.testing.assert_array_equal(result, expected)
    assert (result != image).any((1, 2, 3)).all()


def test_images_that_are_not_augmented_stay_as_they_are():
    augmented = np.arange(COUNT) % 2 == 0
    image, expected, result = compare(OFF | {"hue": (-0.1, 0.1)}, augmented=augmented)
    np.testing.assert_array_equal(result[augmented], expected[augmented])
    np.testing.assert_array_equal(result[~augmented], image[~augmented])


def test_hue_of_all_colours_near_grey_and_near_full_is_the_hosts():
    # Every red with the greens and blues where rounding and ties are hardest.
    edge = np.concatenate([np.arange(12), np.arange(120, 136), np.arange(244, 256)])
    grid = np.meshgrid(np.arange(256), edge, edge, indexing="ij")
    image = np.stack(grid, -1).reshape(256, -1, 3).astype(np.uint8)
    steps = np.array([-25, 0, 13], np.int32)
    result = jax.jit(device.adjust_hue)(np.stack([image] * 3), steps)
    for one, step in zip(result, steps, strict=True):
        np.testing.assert_array_equal(one, colour.adjust_hue(tf.constant(image), step))


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 9), (64, 128), (128, 384), (23, 26), (97, 24)])
def test_weights_of_the_resize_are_the_hosts(sizes, method):
    first, weights = filter_weights(*sizes, method)
    expected = decoding._filter_weights(*sizes, method)
    np.testing.assert_array_equal(first, expected[0])
    np.testing.assert_array_equal(weights, expected[1])
    most = 255 * np.abs(weights).astype(np.int64).sum(1).max() + (1 << (WEIGHT_BITS - 1))
    assert most < 2**31


@pytest.mark.parametrize(
    ("before", "after", "method"),
    [
        ((16, 8), (37, 23), "bicubic"),
        ((16, 8), (16, 23), "bilinear"),
        ((40, 9), (17, 23), "bicubic"),  # vertical first
        ((29, 31), (17, 11), "bilinear"),
    ],
)
def test_the_resize_is_the_hosts_to_the_bit(before, after, method):
    image = np.random.default_rng(0).integers(0, 256, (3, *before, 3), np.uint8)
    result = jax.jit(device.resize, static_argnums=(1, 2, 3))(image, *after, method)
    expected = [decoding.resize(tf.constant(one), *after, method) for one in image]
    np.testing.assert_array_equal(result, expected)
