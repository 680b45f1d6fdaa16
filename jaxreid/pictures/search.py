"""Probabilities of the candidates of an architecture search, epoch by epoch."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxreid.models.backbones.osnet import BLOCKS, PLACES
from jaxreid.pictures.canvas import LIGHT, Canvas, grid

# Okabe and Ito, 2008: distinct for any kind of colour vision, and by lightness in grey.
COLOURS = ((0, 0, 0), (0, 114, 178), (230, 159, 0), (204, 121, 167))
RULE = (225, 225, 225)
PANEL, GUTTER, MARGIN, COLUMNS = (300, 170), (62, 66), 20, 3
FINENESS = 3
# Percent at the upper edge of all panels.
LIMITS = (40, 60, 80, 100)
# Epochs between two labels; the smallest with at most six intervals is used.
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def architecture_picture(history: Sequence[tuple[int, np.ndarray]]) -> Image.Image:
    """Draw the probabilities of the four candidates over the epochs, one panel per block.

    Args:
        history: (epochs so far, [6, 4] float in 0..1, blocks by `BLOCKS` and candidates by
            `PLACES`), at least one, the newest last.
    """
    step, top = (PANEL[0] + GUTTER[0], PANEL[1] + GUTTER[1]), MARGIN + 54
    size = 2 * MARGIN + COLUMNS * step[0], top + -(-len(BLOCKS) // COLUMNS) * step[1]
    canvas = Canvas(size, fineness=FINENESS)
    title = f"Probability of each candidate, by epoch; epochs so far: {history[-1][0]}"
    canvas.text((MARGIN, MARGIN), title, 15)
    _legend(canvas, (MARGIN, MARGIN + 36))
    largest = max(shares.max() for _, shares in history)
    limit = next((percent for percent in LIMITS if 100 * largest <= percent), LIMITS[-1])
    newest = history[-1][1]
    corners = grid(len(BLOCKS), COLUMNS, step, (MARGIN + GUTTER[0] - 16, top + 24))
    for number, (block, corner) in enumerate(zip(BLOCKS, corners, strict=True)):
        best = newest[number].argmax()
        heading = f"{block}: {PLACES[best]} {newest[number, best]:.0%}"
        canvas.text((corner[0], corner[1] - 10), heading, 15, anchor="ls")
        _panel(canvas, corner, [(epoch, shares[number]) for epoch, shares in history], limit)
    return canvas.picture()


def _legend(canvas: Canvas, place: tuple[int, int]) -> None:
    x, y = place
    canvas.text((x, y), "instance normalisation:", anchor="lm")
    x += 150
    for name, colour in zip(PLACES, COLOURS, strict=True):
        canvas.line([(x, y), (x + 26, y)], colour, 3)
        canvas.text((x + 32, y), name, anchor="lm")
        x += 112


def _panel(
    canvas: Canvas,
    corner: tuple[int, int],
    history: Sequence[tuple[int, np.ndarray]],
    limit: int,
) -> None:
    """Draw axes and lines of one block from its history (epochs so far, [4] float).

    `corner` is the upper left one, `limit` the percent at the upper edge.
    """
    (left, top), (width, height) = corner, PANEL
    last = max(history[-1][0], 1)
    for percent in range(0, limit + 1, limit // 4):
        y = top + height * (1 - percent / limit)
        canvas.line([(left, y), (left + width, y)], RULE if percent else LIGHT.faint, 1)
        canvas.text((left - 6, y), f"{percent}%", anchor="rm")
    every = next((tick for tick in TICKS if last / tick <= 6), last)
    for epoch in range(0, last + 1, every):
        x = left + width * epoch / last
        canvas.line([(x, top + height), (x, top + height + 4)], LIGHT.faint, 1)
        canvas.text((x, top + height + 7), str(epoch), anchor="ma")
    # The chosen candidate is drawn last, on top.
    for candidate in (-history[-1][1]).argsort(kind="stable")[::-1]:
        points = [
            (left + width * epoch / last, top + height * (1 - 100 * shares[candidate] / limit))
            for epoch, shares in history
        ]
        canvas.line(points, COLOURS[candidate], 2)
        canvas.dot(points[-1], 3.5, COLOURS[candidate])
