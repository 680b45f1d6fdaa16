"""Patches in the pipeline: which image they come from, and which files are then read."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from jaxreid.data import pipeline
from jaxreid.data.images import augmentation
from jaxreid.data.images.parameters import PATCH_NUMBERS, draw_donor, uniform

COUNT, HEIGHT, WIDTH = 26, 20, 12
SEED, EPOCH = 1, 2
OFF = {"flip": 0.0, "pad": 0, "rotation": 0.0, "occlusion": None, "hue": None}
OFF |= {"brightness": None, "contrast": None, "saturation": None}
PATCH = OFF | {"patch": 0.5}
FULL = PATCH | {"flip": 0.5, "translation": 0.5, "brightness": (0.8, 1.2), "erasing": 0.5}
# Images 6 to 25 come into these batches as donors only.
ORDER = np.random.default_rng(0).integers(0, 6, (4, 6)).astype(np.int32)


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PIXELS = np.random.default_rng(1).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)
FILES = [encoded(pixels) for pixels in PIXELS]
NAMES = [f"{i:04d}.png" for i in range(COUNT)]


@pytest.fixture(scope="module")
def store():
    return pipeline.ImageStore(FILES, NAMES)


def batches(store, augment=PATCH, **change):
    size = {"height": HEIGHT, "width": WIDTH}
    run = {"seed": SEED, "epoch": EPOCH, **change}
    return pipeline.train_batches(
        store, np.arange(COUNT, dtype=np.int32), ORDER, augment=augment, **size, **run
    )


def images(*args, **change):
    return np.array([batch["image"] for batch in batches(*args, **change)])


def own_seed(place):
    key = np.random.SeedSequence([SEED, EPOCH, 3]).generate_state(1, np.uint64).view(np.int64)
    return tf.constant([key[0], place], tf.int64)


DONOR = np.array([int(draw_donor(own_seed(at), COUNT)) for at in range(ORDER.size)])
DONOR = DONOR.reshape(ORDER.shape)
CHANCE = [uniform(own_seed(at), "patch", 1 + PATCH_NUMBERS)[0] for at in range(24)]
PASTED = np.reshape(CHANCE, ORDER.shape) < 0.5


@pytest.fixture(scope="module")
def whole(store):
    return images(store, FULL)


def test_batches_are_those_of_a_plain_loop(store, whole):
    for place, (i, donor) in enumerate(zip(ORDER.ravel(), DONOR.ravel(), strict=True)):
        expected = augmentation.augment(
            tf.constant(PIXELS[i]),
            own_seed(place),
            donor=lambda donor=donor: tf.constant(PIXELS[donor]),
            **FULL,
        )
        np.testing.assert_array_equal(whole.reshape(-1, HEIGHT, WIDTH, 3)[place], expected)


def test_patches_are_pasted_where_chance_says_so_and_from_the_donor(store):
    changed = (images(store) != PIXELS[ORDER]).any(-1)
    np.testing.assert_array_equal(changed.any((2, 3)), PASTED)
    assert 0.2 < PASTED.mean() < 0.8
    # With donors of one grey, every pixel of a patch tells which one it is from.
    grey = PIXELS.copy()
    grey[6:] = np.arange(6, COUNT, dtype=np.uint8)[:, None, None, None]
    grey[:6] = 200
    found = images(pipeline.ImageStore([encoded(pixels) for pixels in grey], NAMES))
    for place in zip(*np.nonzero(PASTED & (DONOR >= 6)), strict=True):
        assert set(np.unique(found[place])) - {0, 200} == {DONOR[place]}


@pytest.mark.parametrize("count", [2, 3])
def test_processes_hold_slices_of_the_same_batches(store, whole, count):
    parts = [images(store, FULL, process_index=i, process_count=count) for i in range(count)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_a_run_goes_on_with_the_same_patches(store, whole):
    np.testing.assert_array_equal(images(store, FULL, start=3), whole[3:])
    assert (images(store, FULL, epoch=3) != whole).any()


def broken_store(broken):
    files = [b"broken" if i in broken else file for i, file in enumerate(FILES)]
    return pipeline.ImageStore(files, NAMES)


def test_files_are_decoded_only_where_a_patch_of_them_is_pasted(store):
    unused = set(range(COUNT)) - set(ORDER.ravel()) - set(DONOR[PASTED])
    assert unused & set(DONOR.ravel())  # some were drawn, but chance was against a patch
    np.testing.assert_array_equal(images(broken_store(unused)), images(store))


@pytest.mark.parametrize("count", [1, 2])
def test_a_broken_donor_names_itself(count):
    part = slice(3, 6) if count == 2 else slice(0, 6)  # of the last process
    pasted = np.where(PASTED & (DONOR >= 6), DONOR, -1)[:, part]
    new = [set(row) - {-1} - set(pasted[:step].ravel()) for step, row in enumerate(pasted)]
    step = max(step for step, donors in enumerate(new) if donors)
    assert step > 0
    bad = int(new[step].pop())
    iterator = batches(broken_store({bad}), process_index=count - 1, process_count=count)
    for _ in range(step):
        next(iterator)
    with pytest.raises(ValueError, match=rf"cannot decode image {NAMES[bad]} \(6 bytes\)"):
        next(iterator)


def test_without_patches_no_donor_is_drawn(store, monkeypatch):
    def refuse(*args):
        raise AssertionError("drawn although switched off")

    monkeypatch.setattr(pipeline, "draw_donor", refuse)
    for augment in (OFF, OFF | {"patch": 0.0}, None):
        np.testing.assert_array_equal(images(store, augment), PIXELS[ORDER])
        form = pipeline._Form(True, HEIGHT, WIDTH, "bicubic", pipeline._frozen(augment))
        load = pipeline._loader(form)
        assert len(load.inputs) == 2
    with pytest.raises(AssertionError, match="switched off"):
        images(pipeline.ImageStore(FILES, NAMES), PATCH)
