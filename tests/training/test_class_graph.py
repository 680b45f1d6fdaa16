"""The class graph: blocks of rows give what the whole matrix gives, and it can be looked at."""

import io

import numpy as np
import pytest
from people import MODEL, draw
from PIL import Image

from jaxreid.data.split import Split
from jaxreid.models.model import make_model
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


class BestMatches(Cosine):
    """Scores given maps by the mean over cells of a query of their best match."""

    def coarser(self, window):
        self.window = window
        return self

    def nearest(self, query, gallery, count, bar):
        query, gallery = (x.reshape(len(x), -1, x.shape[-1]) for x in (query, gallery))
        scores = np.einsum("qid,gjd->qgij", query, gallery).max(3).mean(2)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return best, np.take_along_axis(scores, best, axis=1)


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


def test_a_window_pools_the_maps_of_the_graph():
    maps = np.random.default_rng(1).standard_normal((CLASSES, 4, 6, 5)).astype(np.float32)
    pooled = np.empty((CLASSES, 2, 2, 5))
    for c in range(CLASSES):
        for i in range(2):
            for j in range(2):
                cell = maps[c, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3].mean((0, 1))
                pooled[c, i, j] = cell / np.linalg.norm(cell)
    expected = graph.build_class_graph(BestMatches(pooled), anchors(), 3)
    scorer = BestMatches(maps)
    found = graph.build_class_graph(scorer, anchors(), 3, window=(2, 3))
    assert scorer.window == (2, 3)  # the weights are pooled as well
    np.testing.assert_array_equal(found.neighbours, expected.neighbours)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("parts", "window", "message"),
    [
        ({}, (3, 4), r"maps of 8x4 cannot be pooled by sampler.graph_window=\(3, 4\)"),
        ({"matcher": {"name": "qaconv", "patch": 3}}, (2, 2), r"set sampler.graph_window=\(1, 1\)"),
        (
            {"neck": {"name": "pooled"}, "matcher": {"name": "embedding"}},
            (2, 2),
            "another matcher: set sampler.graph_window",
        ),
    ],
)
def test_a_graph_that_cannot_be_pooled_is_refused_at_the_start(parts, window, message):
    model = make_model(**MODEL | parts)
    graph.check_graph_window(model, (1, 1))
    with pytest.raises(ValueError, match=message):
        graph.check_graph_window(model, window)
