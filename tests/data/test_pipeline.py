import gc
import io
import os
import pathlib
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from jaxreid.data import pipeline
from jaxreid.data.images import augmentation, decoding

COUNT, HEIGHT, WIDTH = 26, 20, 12
AUGMENT = {"pad": 2, "rotation": 5.0, "saturation": None, "hue": None}


def picture(i):
    random = np.random.default_rng(i)
    return random.integers(0, 256, (*random.integers(8, 40, 2), 3), np.uint8)


def jpeg(i):
    file = io.BytesIO()
    Image.fromarray(picture(i)).save(file, "JPEG")
    return file.getvalue()


FILES = [jpeg(i) for i in range(COUNT)]
NAMES = [f"{i:04d}_c1s1.jpg" for i in range(COUNT)]
LABELS = np.arange(COUNT, dtype=np.int32) * 10
ORDER = np.random.default_rng(0).permutation(COUNT)[:24].reshape(4, 6).astype(np.int32)


@pytest.fixture(scope="module")
def store():
    return pipeline.ImageStore(FILES, NAMES)


def train(store, order=ORDER, **change):
    arguments = {
        "height": HEIGHT,
        "width": WIDTH,
        "augment": AUGMENT,
        "seed": 1,
        "epoch": 2,
        **change,
    }
    return pipeline.train_batches(store, LABELS, order, **arguments)


@pytest.fixture(scope="module")
def whole(store):
    return list(train(store))


def expected_image(i):
    decoded = Image.open(io.BytesIO(FILES[i])).convert("RGB")
    # One axis at a time, in the order that resize() documents.
    rows, columns = decoded.height - HEIGHT, decoded.width - WIDTH
    middle = (decoded.width, HEIGHT) if 0 < rows > 2 * columns else (WIDTH, decoded.height)
    for size in (middle, (WIDTH, HEIGHT)):
        decoded = decoded.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(decoded)


def test_train_batches_without_augmentation_are_pillows(store):
    batches = list(train(store, augment=None))
    assert len(batches) == len(ORDER)
    for batch, index in zip(batches, ORDER, strict=True):
        assert batch["image"].dtype == np.uint8
        assert batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], LABELS[index])
        np.testing.assert_array_equal(batch["image"], [expected_image(i) for i in index])


def test_train_batches_repeat_and_differ_between_epochs_and_seeds(store, whole):
    assert_equal(whole, list(train(store)))
    for change in ({"epoch": 3}, {"seed": 2}):
        other = next(train(store, **change))
        assert (other["image"] != whole[0]["image"]).any()


def assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])


def test_one_image_twice_in_an_epoch_is_augmented_differently(store):
    image = next(train(store, np.zeros((1, 6), np.int32)))["image"]
    assert len({x.tobytes() for x in image}) == 6


@pytest.mark.parametrize("count", [2, 3])
def test_processes_hold_slices_of_the_same_batches(store, whole, count):
    parts = [list(train(store, process_index=i, process_count=count)) for i in range(count)]
    joined = [
        {name: np.concatenate([p[name] for p in pieces]) for name in ("image", "label")}
        for pieces in zip(*parts, strict=True)
    ]
    assert_equal(whole, joined)


def test_start_skips_without_decoding(whole):
    files = list(FILES)
    for i in ORDER[:2].ravel():
        files[i] = b"broken"
    broken = pipeline.ImageStore(files, NAMES)
    assert_equal(whole[2:], list(train(broken, start=2)))
    assert list(train(broken, start=4)) == []


@pytest.mark.parametrize(
    "broken",
    [b"", b"no image", FILES[3][:200], FILES[3][:-60]],
    ids=["empty", "text", "head", "tail"],
)
def test_a_broken_file_names_itself(broken):
    files = list(FILES)
    bad = int(ORDER[1, 4])
    files[bad] = broken
    iterator = train(pipeline.ImageStore(files, NAMES), augment=None)
    next(iterator)
    message = rf"cannot decode image {NAMES[bad]} \({len(broken)} bytes\): \w.*; replace or remove"
    with pytest.raises(ValueError, match=message) as error:
        next(iterator)
    assert not any(word in str(error.value) for word in ("node", "{{", "[Op:", "\n"))


def test_augmentation_is_that_of_augment(store):
    key = np.random.SeedSequence([1, 2, 3]).generate_state(1, np.uint64).view(np.int64)[0]
    image = decoding.resize(decoding.decode_plain(tf.constant(FILES[ORDER[1, 2]])), HEIGHT, WIDTH)
    expected = augmentation.augment(image, tf.constant([key, 8], tf.int64), **AUGMENT)
    batches = train(store, start=1)
    np.testing.assert_array_equal(next(batches)["image"][2], expected.numpy())


def test_iterators_can_be_left_early_and_leak_no_threads(store):
    def threads():
        return len(os.listdir("/proc/self/task"))

    if not pathlib.Path("/proc/self/task").is_dir():
        pytest.skip("counts threads in /proc")
    order = np.tile(ORDER, (40, 1))
    counts = []
    for _ in range(3):
        iterator = train(store, order, augment=None)
        next(iterator)
        iterator.close()
        abandoned = train(store, order, augment=None)
        next(abandoned)
        del abandoned, iterator
        gc.collect(1)  # what is young; all objects of a test process take seconds
        time.sleep(0.05)
        counts.append(threads())
    assert counts[-1] <= counts[1], counts


def test_a_pipeline_that_ends_while_a_function_is_traced_leaves_nothing_in_it(store):
    left = [train(store, np.tile(ORDER, (40, 1)), augment=None)]
    next(left[0])

    @tf.function
    def traced():
        left.clear()
        gc.collect(1)
        return tf.constant(1)

    operations = traced.get_concrete_function().graph.get_operations()
    assert {operation.type for operation in operations} <= {"Const", "Identity"}


def test_epochs_share_a_pipeline_unless_one_is_left_early(store, whole, monkeypatch):
    made, new = [], pipeline._Pipeline
    monkeypatch.setattr(pipeline, "_Pipeline", lambda *a: made.append(a) or new(*a))
    fresh = pipeline.ImageStore(FILES, NAMES)
    list(train(fresh, epoch=1))
    assert_equal(list(train(fresh)), whole)
    assert_equal(list(train(fresh, start=3)), whole[3:])
    assert len(made) == 1
    left = train(fresh, epoch=1)
    next(left)
    assert_equal(list(train(fresh)), whole)  # beside one that is not finished
    left.close()
    assert_equal(list(train(fresh)), whole)
    assert len(made) == 2


def test_tensorflow_sees_no_accelerator():
    assert {device.device_type for device in tf.config.get_visible_devices()} == {"CPU"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": np.zeros((2, 6), np.float32)}, "expected order to be integers"),
        ({"order": np.full((2, 6), COUNT)}, f"refers to images {COUNT} to {COUNT}"),
        ({"start": 5}, "start is 5"),
        ({"process_count": 4}, "batch size 6 cannot be divided among 4 processes"),
        ({"process_index": 1}, "process_index is 1"),
        ({"epoch": -1}, "epoch -1"),
        ({"interpolation": "lanczos"}, "unknown resize method 'lanczos'"),
        ({"augment": {"flip": 2}}, "flip is 2"),
        ({"augment": {"patch": -0.5}}, "patch is -0.5"),
    ],
)
def test_bad_arguments_fail_at_once(store, change, message):
    with pytest.raises(ValueError, match=message):
        train(store, **change)


def test_misspelt_augmentation_fails_at_once(store):
    with pytest.raises(TypeError, match="flop"):
        train(store, augment={"flop": 0.5})


def test_store_checks_its_names():
    with pytest.raises(ValueError, match="26 images but 1 names"):
        pipeline.ImageStore(FILES, ["a.jpg"])
    with pytest.raises(ValueError, match="no images"):
        pipeline.ImageStore([], [])
