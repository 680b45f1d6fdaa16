"""The class graph: blocks of rows give what the whole matrix gives, and it can be looked at."""

import io

import numpy as np
import pytest
from people import draw
from PIL import Image

from jaxreid.data.split import Split
from jaxreid.training import class_graph as graph

CLASSES = 11


class Cosine:
    """Scores given vectors, in the place of a `Scorer`."""

    def __init__(self, vectors):
        self.vectors = vectors

    def encode(self, images, names, bar):
        bar.update(len(images))
        return self.vectors

    def nearest(self, query, gallery, count, bar):
        scores = (query @ gallery.T).astype(np.float32)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return best, np.take_along_axis(scores, best, axis=1)


def encoded(pid):
    file = io.BytesIO()
    draw(pid, 0, 0).save(file, "PNG")
    return file.getvalue()


def anchors():
    numbers = np.arange(CLASSES, dtype=np.int32)
    return Split(
        image=[encoded(n) for n in numbers],
        name=[f"{n:04}.png" for n in numbers],
        pid=numbers + 5,
        camid=numbers % 3,
        time=np.zeros(CLASSES),
    )


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((CLASSES, 6)).astype(np.float32)


def make(vectors, count):
    return graph.build_class_graph(Cosine(vectors), anchors(), count)


@pytest.mark.parametrize("length", [1.0, 0.1])  # a short vector is not most like itself
def test_neighbours_are_the_most_alike_of_the_others(vectors, length):
    vectors = vectors * np.where(np.arange(CLASSES) == 4, length, 1)[:, None]
    found = make(vectors, 3)
    scores = vectors @ vectors.T
    for c in range(CLASSES):
        others = [n for n in np.argsort(-scores[c], kind="stable") if n != c]
        np.testing.assert_array_equal(found.neighbours[c], others[:3])
        np.testing.assert_allclose(found.scores[c], scores[c, others[:3]], rtol=1e-6)


def test_a_graph_is_kept_as_numbers_and_as_a_picture(vectors, tmp_path):
    found = make(vectors, 4)
    graph.save_graph(tmp_path / "graphs" / "epoch_1", found, anchors())
    with np.load(tmp_path / "graphs" / "epoch_1.npz") as held:
        np.testing.assert_array_equal(held["neighbours"], found.neighbours)
        np.testing.assert_array_equal(held["pid"], np.arange(CLASSES) + 5)
        assert held["anchor"][3] == "0003.png"
    with Image.open(tmp_path / "graphs" / "epoch_1.png") as drawn:
        assert drawn.height > CLASSES * 128  # a row for each class
