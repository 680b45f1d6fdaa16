"""Images by Pillow: equal to training's to the bit, batches, sources and messages."""

import io
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from jaxreid.data.images import decoding
from jaxreid.data.images.pillow import image_batches, read_image, resize

COUNT, SIZE = 26, {"height": 20, "width": 12}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(array, kind="JPEG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


FILES = [encoded(noise(8 + i, 40 - i, i)) for i in range(COUNT)]
NAMES = [f"{i:04d}_c1s1.jpg" for i in range(COUNT)]
WHOLE = np.stack([resize(read_image(file), 20, 12) for file in FILES])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_reading_and_resizing_are_those_of_training_to_the_bit(interpolation):
    sizes = [(64, 32), (128, 64), (200, 11), (57, 90), (1, 9), (33, 40), (40, 30)]
    for after in [(64, 32), (30, 25)]:
        signature = [tf.TensorSpec([], tf.string)]
        training = tf.function(
            lambda x, after=after: decoding.resize(decoding.decode_plain(x), *after, interpolation),
            input_signature=signature,
        )
        for size in sizes:
            for kind in ("JPEG", "PNG"):
                file = encoded(noise(*size), kind)
                result = resize(read_image(file), *after, interpolation)
                expected = training(tf.constant(file)).numpy()
                np.testing.assert_array_equal(result, expected, err_msg=f"{kind} {size} {after}")


def test_every_source_of_an_image_gives_the_same_array(tmp_path):
    array = noise(9, 7)
    file = encoded(array, "PNG")
    (tmp_path / "a.png").write_bytes(file)
    path = tmp_path / "a.png"
    for source in (path, str(path), file, Image.open(path), Image.fromarray(array), array):
        result = read_image(source)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1"])
def test_other_modes_become_rgb_as_in_training(mode):
    file = io.BytesIO()
    picture = Image.fromarray(noise(11, 6)).convert(mode)
    picture.save(file, "PNG")
    expected = decoding.decode_plain(tf.constant(file.getvalue())).numpy()
    np.testing.assert_array_equal(read_image(file.getvalue()), expected)
    np.testing.assert_array_equal(read_image(picture), expected)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_batches_hold_all_images_in_order_and_black_ones(count):
    parts = [
        list(
            image_batches(FILES, NAMES, **SIZE, batch_size=8, process_index=i, process_count=count)
        )
        for i in range(count)
    ]
    batches = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
    assert [b.shape for b in batches] == [(8, 20, 12, 3)] * 4
    images = np.concatenate(batches)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[:COUNT], WHOLE)
    assert not images[COUNT:].any()


def test_no_images_give_no_batches_and_sources_can_be_mixed(tmp_path):
    assert list(image_batches([], **SIZE, batch_size=4)) == []
    (tmp_path / "a.jpg").write_bytes(FILES[0])
    opened = Image.open(tmp_path / "a.jpg")
    mixed = [tmp_path / "a.jpg", FILES[1], opened, opened, read_image(FILES[0])]
    (batch,) = image_batches(mixed, **SIZE, batch_size=5)
    np.testing.assert_array_equal(batch, WHOLE[[0, 1, 0, 0, 0]])


@pytest.mark.parametrize(
    "broken",
    [b"", b"not an image", FILES[9][:200], FILES[9][:-60]],
    ids=["empty", "text", "head", "tail"],
)
def test_a_broken_file_names_itself(broken):
    files = [*FILES[:9], broken]
    message = rf"cannot decode image {NAMES[9]} \({len(broken)} bytes\): \w.*; replace or remove"
    with pytest.raises(ValueError, match=message) as error:
        list(image_batches(files, NAMES[:10], **SIZE, batch_size=4))
    assert "BytesIO" not in str(error.value)


def test_broken_images_without_names_are_found_by_path_or_number(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(FILES[0][:80])
    with pytest.raises(ValueError, match=f"cannot decode image {path}"):
        next(image_batches([path], **SIZE, batch_size=1))
    with pytest.raises(ValueError, match="cannot decode image number 1"):
        next(image_batches([FILES[0], b"x"], **SIZE, batch_size=2))
    with pytest.raises(FileNotFoundError, match="nowhere.jpg: No such file.*expected the path"):
        read_image("nowhere.jpg")


def test_a_broken_pil_image_is_a_value_error():
    with pytest.raises(ValueError, match="cannot decode image given as a PIL image"):
        read_image(Image.open(io.BytesIO(FILES[9][:-60])))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((4, 4, 3)), ValueError, r"expected uint8 of shape \[h, w, 3\].*float64"),
        (np.zeros((4, 4), np.uint8), ValueError, r"of shape \[4, 4\]"),
        (7, TypeError, "expected a path, .* got int"),
    ],
)
def test_sources_that_are_not_images_say_what_was_expected(source, error, message):
    with pytest.raises(error, match=message):
        read_image(source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 6, "process_count": 4}, "batch size 6 cannot be divided among 4"),
        ({"batch_size": 0}, "batch size 0"),
        ({"process_index": 1}, "process_index is 1"),
        ({"interpolation": "lanczos"}, "unknown resize method 'lanczos'"),
        ({"height": 0}, "height 0, width 12"),
        ({"names": ["a.jpg"]}, "26 images but 1 names"),
    ],
)
def test_bad_arguments_fail_at_once(change, message):
    with pytest.raises(ValueError, match=message):
        image_batches(FILES, **SIZE | {"names": NAMES, "batch_size": 4} | change)


def test_an_iterator_left_early_leaves_no_threads():
    before = threading.active_count()
    iterator = image_batches(FILES, NAMES, **SIZE, batch_size=4)
    next(iterator)
    assert threading.active_count() > before
    iterator.close()
    assert threading.active_count() == before


def test_batches_need_no_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['fcntl'] = None\n"
        "import numpy as np\n"
        "from jaxreid.data.images.pillow import image_batches\n"
        "image = np.zeros((4, 4, 3), np.uint8)\n"
        "assert next(image_batches([image], height=8, width=4, batch_size=2)).shape == (2, 8, 4, 3)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
