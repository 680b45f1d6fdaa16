"""The feed of a training: the sampler's order, augmented from the right epoch on."""

import io

import numpy as np
import pytest
from people import draw
from selection import deep

from jaxreid.data import pipeline
from jaxreid.data.feed import Feed
from jaxreid.data.split import Split, join

# Without what takes TensorFlow seconds to trace.
PLAIN = {"flip": 0.0, "pad": 0, "rotation": 0.0, "occlusion": None}
PLAIN |= {"brightness": None, "contrast": None, "saturation": None, "hue": None}
AUGMENT = PLAIN | {"brightness": (0.2, 0.3)}  # much darker


@pytest.fixture(scope="module")
def images():
    def encoded(pid, shot):
        file = io.BytesIO()
        draw(pid, 0, shot).save(file, "PNG")
        return file.getvalue()

    pid = np.repeat(np.arange(4, dtype=np.int32), 3)
    return Split(
        image=[encoded(p, i) for i, p in enumerate(pid)],
        name=[f"{i}.png" for i in range(12)],
        pid=pid,
        camid=np.zeros(12, np.int32),
        time=np.zeros(12),
    )


def make(images, after, sampler="random", quota=(), augment=AUGMENT, on="host", **change):
    return Feed(
        images,
        sampler={"name": sampler, "instances": 2, "quota": quota},
        augment=augment | {"after_accuracy": after, "on": on},
        batch_size=4,
        seed=0,
        **{"height": 64, "width": 32} | change,
    )


def brightness(feed, epoch, accuracy, start=0):
    batches = feed.batches(epoch, start=start, accuracy=accuracy)
    return np.mean([batch["image"].mean() for batch in batches])


def test_augmentation_waits_for_an_accuracy(images):
    feed = make(images, 0.6)
    dark = 0.5 * brightness(feed, 0, [0.0] * 5)
    assert brightness(make(images, 0.0), 0, []) < dark  # without a threshold nothing is waited for
    assert brightness(feed, 1, [0.6, 0, 0, 0, 0]) > dark  # it must be higher
    assert brightness(feed, 2, [0.2, 0.61, 0, 0, 0]) < dark
    assert brightness(feed, 3, [0.2, 0.61, 0.1, 0, 0], start=2) < dark  # and it stays
    assert brightness(feed, 1, [0.1, 0.9, 0, 0, 0]) > dark  # of epochs that are over


def test_a_graph_sampler_is_asked_and_remembered(images):
    feed = make(images, 0.0, "graph")
    assert feed.steps_per_epoch == 4
    assert images.labels[feed.anchors(0)].tolist() == [0, 1, 2, 3]
    assert feed.neighbour_count == 1
    neighbours = (np.arange(4)[:, None] + 1) % 4
    batches = feed.batches(0, start=0, accuracy=[0.0], neighbours=neighbours)
    labels = [batch["label"] for batch in batches]
    assert sorted(label[2] for label in labels) == [0, 1, 2, 3]
    again = make(images, 0.0, "graph")
    again.restore(feed.state())
    assert again.anchors(0) is None
    batches = again.batches(0, start=1, accuracy=[0.0])
    np.testing.assert_array_equal([batch["label"] for batch in batches], labels[1:])


OSNET = {
    "flip": 0.5,
    "pad": 0,
    "rotation": 0.0,
    "brightness": (0.8, 1.2),
    "contrast": (0.85, 1.15),
    "saturation": (1, 1),
    "hue": (0, 0),
    "occlusion": (0, 0),
    "translation": 0.5,
    "patch": 0.5,
    "erasing": 0.5,
}


def epoch(feed, number=0):
    batches = feed.batches(number, start=0, accuracy=[])
    return [np.stack(x) for x in zip(*((b["image"], b["label"]) for b in batches), strict=True)]


def test_augmentation_as_a_configuration_gives_it_is_traced_once(images):
    lists = {k: list(v) if isinstance(v, tuple) else v for k, v in OSNET.items()}
    pipeline._loader.cache_clear()
    first, second = make(images, 0, augment=OSNET), make(images, 0, augment=lists)
    np.testing.assert_array_equal(epoch(first)[0], epoch(second)[0])
    epoch(first, 1)
    assert pipeline._loader.cache_info().misses == 1
    off = make(images, 0, augment=OSNET | {"translation": 0.0, "patch": 0.0, "erasing": 0.0})
    assert (epoch(off)[0] != epoch(first)[0]).any()


@pytest.mark.parametrize("interpolation", deep("bicubic", "bilinear", but=["bilinear"]))
def test_interpolation_reaches_the_resize(images, interpolation):
    feed = make(images, 0, augment=PLAIN, interpolation=interpolation, height=40, width=24)
    order = feed._sampler.order(0)
    expected = pipeline.train_batches(
        pipeline.ImageStore(images.image, images.name),
        images.labels,
        order,
        height=40,
        width=24,
        augment=PLAIN,
        seed=0,
        epoch=0,
        interpolation=interpolation,
    )
    np.testing.assert_array_equal(epoch(feed)[0], [batch["image"] for batch in expected])


def test_an_unknown_interpolation_is_found_at_once(images):
    with pytest.raises(ValueError, match="'bicubik'; valid: bicubic, bilinear"):
        make(images, 0, interpolation="bicubik")


def test_a_quota_of_two_data_sets(images):
    both = join({"a": images.select(images.pid < 3), "b": images.select(images.pid > 0)})
    labels = epoch(make(both, 0, quota=(3, 1)))[1]
    assert labels.shape == (9, 4)  # nine images of the second, one in each batch
    np.testing.assert_array_equal(labels >= 3, np.tile([False, False, False, True], (9, 1)))
    assert epoch(make(both, 0))[1].shape == (4, 4)
