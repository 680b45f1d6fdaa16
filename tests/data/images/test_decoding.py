import io

import numpy as np
import PIL
import pytest
import tensorflow as tf
from PIL import Image
from selection import deep

from jaxreid.data.images import decoding

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
NEW_PILLOW = int(PIL.__version__.split(".")[0]) >= 13
SIZES = [  # height, width before and after
    ((128, 64), (384, 128)),
    ((128, 64), (128, 64)),
    ((300, 141), (256, 128)),
    ((141, 300), (128, 256)),
    ((57, 33), (97, 21)),
    ((57, 33), (20, 70)),
    ((57, 33), (57, 70)),
    ((57, 33), (9, 33)),
    ((200, 11), (16, 3)),
    ((1, 1), (5, 7)),
    ((1, 9), (17, 1)),
    ((40, 30), (1, 1)),
    ((40, 30), (30, 25)),  # the height loses exactly twice as much as the width
]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (height, width, 3), np.uint8) * 255


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + c) * np.cos(y / 13 - c) for c in range(3)]
    return np.uint8(127.5 + 127.5 * np.stack(waves, -1))


def pillow_resize(image, height, width, method):
    """Pillow 13's order of passes, spelt out where an older Pillow is installed."""
    picture, rule = Image.fromarray(image), FILTERS[method]
    if not NEW_PILLOW:
        rows, columns = image.shape[0] - height, image.shape[1] - width
        if rows > 0 and rows > 2 * columns:
            picture = picture.resize((image.shape[1], height), rule)
        else:
            picture = picture.resize((width, image.shape[0]), rule)
    return np.asarray(picture.resize((width, height), rule))


@pytest.mark.parametrize(
    ("before", "after", "method"),
    deep(
        *((*sizes, "bicubic") for sizes in SIZES),
        *((*sizes, "bilinear") for sizes in SIZES[2:6]),
        but=[
            *(
                (*sizes, "bicubic")
                for sizes in (SIZES[0], SIZES[3], SIZES[5], SIZES[8], *SIZES[10:])
            ),
            (*SIZES[4], "bilinear"),
        ],
    ),
)
def test_resize_is_pillows_to_the_bit(before, after, method):
    # A dynamic shape inside a graph, as in the pipeline: graph optimizers must not change a bit.
    signature = [tf.TensorSpec([None, None, 3], tf.uint8)]
    graph = tf.function(lambda x: decoding.resize(x, *after, method), input_signature=signature)
    for image in (noise(*before), smooth(*before)):
        result = graph(tf.constant(image))
        assert result.dtype == tf.uint8
        np.testing.assert_array_equal(result.numpy(), pillow_resize(image, *after, method))


def test_resize_of_many_sizes_in_one_pipeline():
    random = np.random.default_rng(1)
    images = [noise(*size, seed=i) for i, size in enumerate(random.integers(1, 120, (60, 2)))]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(images), output_signature=tf.TensorSpec([None, None, 3], tf.uint8)
    ).map(lambda x: decoding.resize(x, 48, 37), num_parallel_calls=2)
    for image, result in zip(images, dataset.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(result, pillow_resize(image, 48, 37, "bicubic"))


def test_resize_to_the_same_size_changes_nothing():
    image = noise(31, 17)
    np.testing.assert_array_equal(decoding.resize(tf.constant(image), 31, 17).numpy(), image)


@pytest.mark.golden
def test_resize_equals_golden(golden_dir):
    arrays = np.load(golden_dir / "transforms.npz")
    seen = 0
    for key in arrays.files:
        name, _, how = key.partition("/")
        method = how.partition("_")[0]
        if name.startswith("image") and method in FILTERS:
            expected = arrays[key]
            result = decoding.resize(tf.constant(arrays[name]), *expected.shape[:2], method)
            np.testing.assert_array_equal(result.numpy(), expected, err_msg=key)
            seen += 1
    assert seen


@pytest.mark.golden
def test_test_transform_equals_golden(golden_dir):
    arrays = np.load(golden_dir / "transforms.npz")
    expected = arrays["image0/test_transform"]
    result = decoding.resize(tf.constant(arrays["image0"]), *expected.shape[1:])
    result = np.float32(result.numpy()).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 8, "nearest"), "unknown resize method 'nearest'; valid: bicubic, bilinear"),
        ((0, 8), "height 0, width 8"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        decoding.resize(tf.zeros([4, 4, 3], tf.uint8), *arguments)


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


PICTURES = {
    "rgb": Image.fromarray(smooth(75, 41)),
    "grey": Image.fromarray(smooth(75, 41)).convert("L"),
    "noise": Image.fromarray(noise(30, 23)),
    "pixel": Image.fromarray(noise(1, 1)),
}


@pytest.mark.parametrize(
    "options", [{}, {"quality": 30}, {"subsampling": 0}, {"progressive": True}]
)
@pytest.mark.parametrize("picture", PICTURES)
def test_decode_jpeg_is_pillows_to_the_bit(picture, options):
    data = encoded(PICTURES[picture], "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoding.decode_plain(tf.constant(data)).numpy(), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1"])
def test_decode_png_is_pillows_to_the_bit(mode):
    data = encoded(PICTURES["rgb"].convert(mode), "PNG")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoding.decode_plain(tf.constant(data)).numpy(), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_decode_refuses_truncated_files(kind, share):
    data = encoded(PICTURES["rgb"], kind)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoding.decode_plain(tf.constant(data[: int(len(data) * share)]))


def test_decode_refuses_other_files():
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoding.decode_plain(tf.constant(b"Thumbs.db is not an image"))
