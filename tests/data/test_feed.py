"""The feed of a training: the sampler's order, augmented from the right epoch on."""

import io

import numpy as np
import pytest
from people import draw

from jaxreid.data.feed import Feed
from jaxreid.data.prepared import Split

AUGMENT = {"brightness": (0.2, 0.3), "occlusion": (0.0, 0.0)}  # much darker


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


def make(images, after, sampler="random"):
    return Feed(
        images,
        sampler={"name": sampler, "instances": 2},
        augment=AUGMENT | {"after_accuracy": after},
        batch_size=4,
        height=64,
        width=32,
        seed=0,
    )


def brightness(feed, epoch, accuracy, start=0):
    batches = feed.batches(epoch, start=start, accuracy=accuracy, nearest=None)
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
    asked = []

    def nearest(anchors, count):
        asked.append((anchors, count))
        return (np.arange(4)[:, None] + 1) % 4

    feed = make(images, 0.0, "graph")
    assert feed.steps_per_epoch == 4
    batches = feed.batches(0, start=0, accuracy=[0.0], nearest=nearest)
    labels = [batch["label"] for batch in batches]
    assert sorted(label[2] for label in labels) == [0, 1, 2, 3]
    again = make(images, 0.0, "graph")
    again.restore(feed.state())
    batches = again.batches(0, start=1, accuracy=[0.0], nearest=None)
    np.testing.assert_array_equal([batch["label"] for batch in batches], labels[1:])
    assert len(asked) == 1
