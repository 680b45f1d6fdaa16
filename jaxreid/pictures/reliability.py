"""Reliability diagrams: share of pairs of the same person against the predicted probability."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxreid.pictures.canvas import LIGHT, Canvas, fitted, grid

# Okabe and Ito, 2008: distinct for any kind of colour vision.
COLOURS = ((0, 114, 178), (213, 94, 0))
RULE = (225, 225, 225)
SIDE, GUTTER, MARGIN, COLUMNS = 250, (60, 112), 20, 4
HEADING = 52
# Radius in pixels of a dot for the lightest and the heaviest bin.
RADII = 2.5, 9.0


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Probabilities of one calibration on one set.

    Attributes:
        title: short title.
        predicted: [B] float, mean probability of each bin; NaN for an empty one.
        observed: [B] float, share of pairs of the same person.
        weight: [B] float, share of the pairs.
    """

    title: str
    predicted: np.ndarray
    observed: np.ndarray
    weight: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """One test set, with up to two curves."""

    title: str
    curves: Sequence[Curve]


def reliability_picture(panels: Sequence[Panel]) -> Image.Image:
    """Draw a panel for each test set; calibrated probabilities lie on the diagonal."""
    columns = min(COLUMNS, max(1, len(panels)))
    step = SIDE + GUTTER[0], SIDE + GUTTER[1]
    rows = -(-len(panels) // columns)
    size = MARGIN + columns * step[0] + MARGIN, MARGIN + HEADING + rows * step[1]
    canvas = Canvas(size, fineness=3)
    canvas.text((MARGIN, MARGIN), "Calibration of the probabilities", 17)
    note = "across: predicted probability; up: share that shows the same person; at even odds"
    canvas.text((MARGIN, MARGIN + 24), note, colour=LIGHT.faint, width=size[0] - 2 * MARGIN)
    corners = grid(len(panels), columns, step, (MARGIN + 36, MARGIN + HEADING + 20))
    for panel, corner in zip(panels, corners, strict=True):
        _panel(canvas, panel, corner)
    return canvas.picture()


def _panel(canvas: Canvas, panel: Panel, corner: tuple[int, int]) -> None:
    left, top = corner
    canvas.text((left, top - 8), fitted(panel.title, SIDE, 14), 14, anchor="ls")
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = left + SIDE * share, top + SIDE * (1 - share)
        canvas.line([(left, y), (left + SIDE, y)], RULE, 1)
        canvas.line([(x, top), (x, top + SIDE)], RULE, 1)
        canvas.text((left - 6, y), f"{share:.0%}", 11, anchor="rm", colour=LIGHT.faint)
        canvas.text((x, top + SIDE + 5), f"{share:.0%}", 11, anchor="ma", colour=LIGHT.faint)
    canvas.line([(left, top + SIDE), (left + SIDE, top)], LIGHT.faint, 1)
    for number, (curve, colour) in enumerate(zip(panel.curves, COLOURS, strict=False)):
        points = [
            (left + SIDE * x, top + SIDE * (1 - y), weight)
            for x, y, weight in zip(curve.predicted, curve.observed, curve.weight, strict=True)
            if np.isfinite(x)
        ]
        if len(points) > 1:
            canvas.line([(x, y) for x, y, _ in points], colour, 2)
        for x, y, weight in points:
            radius = RADII[0] + (RADII[1] - RADII[0]) * float(np.sqrt(weight))
            canvas.dot((x, y), radius, colour, outline=LIGHT.paper)
        y = top + SIDE + 28 + 18 * number
        canvas.dot((left + 6, y + 7), 5, colour)
        canvas.text((left + 18, y), curve.title, width=SIDE + 20)
    if not panel.curves:
        canvas.text((left, top + SIDE + 28), "too few people to judge", colour=LIGHT.faint)
