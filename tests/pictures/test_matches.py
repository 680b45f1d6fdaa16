"""Which matches are drawn, and that the picture shows them."""

import dataclasses
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxreid.pictures.canvas import PLAIN, RIGHT, WRONG
from jaxreid.pictures.matches import (
    RAMP,
    Link,
    Pair,
    correspondence_picture,
    links_of,
    strongest_links,
)

QUERY, GALLERY = (40, 60, 120), (180, 220, 250)  # colours of the two images


def plain(colour, size=(16, 32)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def pair(from_query, from_gallery, match_in_gallery, match_in_query, right=None):
    maps = [np.asarray(x) for x in (from_query, from_gallery, match_in_gallery, match_in_query)]
    return Pair(
        plain(QUERY), plain(GALLERY), ("query.png", "gallery.png"), right, *maps, constant=-2.5
    )


def random_pair(seed, rows, columns):
    generator, shape = np.random.default_rng(seed), (rows, columns)
    values = generator.normal(size=(2, *shape))
    matches = generator.integers(0, rows * columns, (2, *shape))
    return pair(*values, *matches)


def test_links_by_hand():
    # Query cell 0 and gallery cell 1 choose each other; query 1 also chooses gallery 1, and gallery
    # 0 chooses query 1.
    links = links_of(pair([[1.0, 0.3]], [[-0.2, 0.5]], [[1, 1]], [[1, 0]]))
    assert links == [Link(0, 1, 1.5, "both"), Link(1, 1, 0.3, "query"), Link(1, 0, -0.2, "gallery")]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(1, 5), columns=st.integers(1, 4))
def test_all_links_and_the_constant_are_the_score(seed, rows, columns):
    p = random_pair(seed, rows, columns)
    links = links_of(p)
    assert sum(link.value for link in links) + p.constant == pytest.approx(p.score)
    assert len({(link.query, link.gallery) for link in links}) == len(links)
    assert [link.value for link in links] == sorted((link.value for link in links), reverse=True)


def test_a_reference_changes_the_parts_and_not_the_score():
    p, average = random_pair(1, 3, 2), np.random.default_rng(2).normal(size=(2, 3, 2))
    above = p.above(*average, "crowd")
    assert above.score == pytest.approx(p.score)
    assert above.constant == pytest.approx(p.constant + average.sum())
    np.testing.assert_allclose(above.from_gallery, p.from_gallery - average[1])
    assert above.reference == "crowd"


def by_loop(p, count, reach):
    chosen, columns = [], p.from_query.shape[1]
    for link in links_of(p):
        beside = False
        for other in chosen:
            steps = []
            for a, b in ((link.query, other.query), (link.gallery, other.gallery)):
                (r, c), (i, j) = divmod(a, columns), divmod(b, columns)
                steps.append(max(abs(r - i), abs(c - j)))
            beside |= max(steps) <= reach
        if link.value > 0 and len(chosen) < count and not beside:
            chosen.append(link)
    return chosen


@pytest.mark.parametrize(("count", "reach"), [(3, 2), (6, 1), (20, 0)])
def test_the_strongest_links_lie_apart(count, reach):
    p = random_pair(3, 10, 8)
    assert strongest_links(p, count) == by_loop(p, count, reach)


def test_nothing_is_drawn_that_lowers_the_score():
    p = pair([[-1.0, 0.0]], [[-1.0, 0.0]], [[0, 1]], [[0, 1]])
    assert strongest_links(p, 5) == []
    assert correspondence_picture("none", [p], size=(40, 80), links=5).width > 80


def coloured(picture, colour, tolerance=2):
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return (np.abs(pixels - colour) <= tolerance).all(-1)


def test_a_line_joins_the_centres_of_its_cells_and_both_are_outlined():
    rows, columns, size = 4, 2, (80, 160)
    values, far = np.full((rows, columns), -1.0), np.zeros((rows, columns), int)
    values[0, 0] = 2.0
    far[0, 0] = 7
    back = np.ones((rows, columns), int)
    picture = correspondence_picture(
        "one", [pair(values, values * 0 - 1, far, back)], size=size, links=5
    )
    left, right = (np.argwhere(coloured(picture, c)).min(0) for c in (QUERY, GALLERY))
    start = left + (size[1] / rows / 2, size[0] / columns / 2)
    end = right + (size[1] * 7 / 8, size[0] * 3 / 4)
    strongest = coloured(picture, RAMP[-1])
    for share in (0.1, 0.5, 0.9):  # away from the dots at the ends
        y, x = np.round(start + share * (end - start)).astype(int)
        assert strongest[y - 1 : y + 2, x - 1 : x + 2].any()
    assert strongest[left[0], left[1] : left[1] + 38].all()  # the outline of cell 0
    assert strongest[right[0] + 160 - 1, right[1] + 42 : right[1] + 79].all()  # and of cell 7
    assert not strongest[left[0] + 42 : left[0] + 160, left[1] : left[1] + 38].any()


@pytest.mark.parametrize(("right", "colour"), [(True, RIGHT), (False, WRONG), (None, PLAIN)])
def test_frames_tell_right_from_wrong(right, colour):
    maps = np.zeros((2, 2)), np.zeros((2, 2)), np.eye(2, dtype=int), np.eye(2, dtype=int)
    picture = correspondence_picture("frames", [pair(*maps, right)] * 4, size=(40, 80), links=3)
    frame = 48 * 88 - 40 * 80
    expected = 4 * frame * (2 if right is None else 1)
    assert abs(coloured(picture, colour, 0).sum() - expected) < 0.02 * expected


def test_long_titles_are_cut():
    short = random_pair(0, 2, 2)
    long = dataclasses.replace(short, titles=("a" * 500, "b" * 500))
    sizes = [
        correspondence_picture(title, [p], size=(40, 80), links=3).size
        for title, p in (("t", short), ("t" * 500, long))
    ]
    assert sizes[0] == sizes[1]
