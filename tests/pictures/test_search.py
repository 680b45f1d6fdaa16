"""The picture of an architecture search."""

import numpy as np
import pytest

from jaxreid.models.backbones.osnet import BLOCKS, PLACES
from jaxreid.pictures.canvas import Canvas
from jaxreid.pictures.search import COLOURS, architecture_picture


@pytest.fixture
def texts(monkeypatch):
    """Collects texts instead of drawing them: they are nearly as black as a line."""
    written = []
    monkeypatch.setattr(
        Canvas, "text", lambda canvas, place, text, *_, **options: written.append(text)
    )
    return written


def colours(picture, box):
    pixels = np.asarray(picture.crop(box)).reshape(-1, 3)
    return {tuple(int(value) for value in pixel) for pixel in np.unique(pixels, axis=0)}


@pytest.mark.usefixtures("texts")
def test_every_block_has_a_panel_with_all_candidates():
    shares = np.array([np.roll([0.1, 0.2, 0.3, 0.4], block) for block in range(len(BLOCKS))])
    history = [(epoch, 0.25 + (shares - 0.25) * epoch / 5) for epoch in range(6)]
    picture = architecture_picture(history)
    halves = [picture.height * part // 20 for part in (3, 11, 20)]
    for row in range(2):
        for column in range(3):
            edges = [picture.width * (column + end) // 3 for end in (0, 1)]
            drawn = colours(picture, (edges[0], halves[row], edges[1], halves[row + 1]))
            assert drawn >= set(COLOURS), (row, column)


@pytest.mark.usefixtures("texts")
def test_the_chosen_one_of_equal_candidates_is_on_top():
    equal = [(epoch, np.full((len(BLOCKS), len(PLACES)), 0.25)) for epoch in (0, 1)]
    picture = architecture_picture(equal)
    below_legend = 0, picture.height * 3 // 20, *picture.size
    assert colours(picture, below_legend).intersection(COLOURS) == {COLOURS[0]}


@pytest.mark.parametrize(("largest", "limit"), [(0.3, 40), (0.41, 60), (0.8, 80), (1.0, 100)])
def test_the_largest_probability_is_within_the_panel(largest, limit, texts):
    rest = (1 - largest) / 3
    architecture_picture([(1200, np.tile([rest, largest, rest, rest], (6, 1)))])
    assert texts.count(f"{limit}%") == len(BLOCKS)
    assert f"conv4_1: residual {largest:.0%}" in texts
    assert texts.count("1000") == len(BLOCKS)
