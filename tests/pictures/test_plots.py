"""Plots: points where the numbers are, round numbers on the axes, escaped names."""

import re

import numpy as np
import pytest

from jaxreid.pictures.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    plot,
    ticks,
)
from jaxreid.pictures.tables import html_table, latex, markdown


def corners(figure):
    """The points of each line."""
    lines = re.findall(r'class="line c\d" points="([^"]*)"', figure)
    return [np.array([point.split(",") for point in line.split()], float) for line in lines]


def test_points_are_where_the_numbers_are():
    line = Line("a", [0, 5, 10], [1, 3, 2])
    (drawn,) = corners(plot("title", [line], x_label="x"))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    ground = HEIGHT - BOTTOM
    expected = [(LEFT, ground), (LEFT + width / 2, TOP), (LEFT + width, ground - height / 2)]
    np.testing.assert_allclose(drawn, expected, atol=0.051)  # rounded to tenths
    (drawn,) = corners(
        plot("title", [Line("a", [1e-4, 1e-2, 1], [0, 1, 0])], x_label="x", log_x=True)
    )
    assert drawn[1, 0] == pytest.approx(LEFT + width / 2, abs=0.051)


def test_many_points_are_averaged_and_what_is_not_finite_is_left_out():
    y = np.arange(10.0 * POINTS)
    y[3] = np.nan
    (drawn,) = corners(plot("title", [Line("", np.arange(len(y)), y)], x_label="x"))
    assert len(drawn) == POINTS
    assert (np.diff(drawn[:, 0]) > 0).all()
    assert plot("title", [Line("", [1], [np.inf])], x_label="x") == ""
    assert plot("title", [], x_label="x") == ""
    assert "<circle" in plot("title", [Line("", [1], [2])], x_label="x")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.11, 0.26, [-0.1, 0, 0.1, 0.2]),
        (3, 40_000, [10_000, 20_000, 30_000, 40_000]),
    ],
)
def test_numbers_on_an_axis_are_round(low, high, expected):
    assert ticks(low, high) == expected


def test_areas_reach_to_zero():
    figure = plot("title", [Line("", [0, 1], [-1, 3])], x_label="x", filled=True)
    (area,) = re.findall(r'class="area c0" points="([^"]*)"', figure)
    ground = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) / 4
    ends = [float(point.split(",")[1]) for point in area.split()]
    assert ends[0] == ends[-1] == pytest.approx(ground, abs=0.051)


def test_names_are_escaped_in_plots_and_tables():
    name = "<b>&_|\ud800"
    figure = plot(name, [Line(name, [0, 1], [0, 1])], x_label=name)
    page = figure + html_table([name], [[name]])
    assert "<b>" not in page
    page.encode()
    assert markdown(["a"], [["x|y_<b>"]]).endswith("| x\\|y\\_\\<b> |\n")
    assert r"\_50\% $\pm$ \textbackslash{}" in latex(["a"], [["_50% ± \\"]])
