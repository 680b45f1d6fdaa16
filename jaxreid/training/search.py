"""The record of an architecture search: which candidate each block is about to choose."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxreid.mesh import to_host
from jaxreid.models.backbones.osnet import BLOCKS, PLACES
from jaxreid.models.backbones.osnet_search import TINY
from jaxreid.pictures.ranking import INK, save
from jaxreid.runs.log import Writer, table, write_json

FORMAT = "jaxreid architecture 1"
# Okabe and Ito, 2008: told apart with any kind of colour vision, and by their lightness in grey.
COLOURS = ((0, 0, 0), (0, 114, 178), (230, 159, 0), (204, 121, 167))
GRID, AXES = (225, 225, 225), (120, 120, 120)
PANEL, GUTTER, MARGIN, COLUMNS = (300, 170), (62, 66), 20, 3
SCALE = 3  # lines are drawn so much larger, to be smooth
LIMITS = (40, 60, 80, 100)  # percent at the upper edge of all panels
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # epochs between two labels, at most six


def probabilities(params: Mapping[str, Any]) -> np.ndarray:
    """The share of each candidate in its block's architecture weights.

    Args:
        params: of a `SuperNet`.

    Returns:
        [6, 4] float64, blocks by `BLOCKS` and candidates by `PLACES`; rows add up to 1.
    """
    weights = to_host([params[block]["weights"] for block in BLOCKS])
    positive = np.maximum(np.asarray(weights, np.float64), 0) + TINY
    return positive / positive.sum(1, keepdims=True)


def is_search(params: Mapping[str, Any]) -> bool:
    """True if these are the parameters of a `SuperNet`, or the shapes of them."""
    return all("weights" in params.get(block, ()) for block in BLOCKS)


def chosen(shares: np.ndarray) -> list[str]:
    """For each block the most probable of `PLACES`; of equal ones the first.

    Args:
        shares: [6, 4], as `probabilities` gives them.
    """
    return [PLACES[index] for index in shares.argmax(1)]


def record(
    workdir: pathlib.Path,
    writer: Writer,
    params: Mapping[str, Any],
    *,
    step: int,
    steps_per_epoch: int,
    tell: bool = False,
) -> None:
    """Keeps what the search has come to; of a super-network, and at the end of an epoch.

    Left are an event of kind "search" (once for each step), and in the work directory
    `architecture.json`, whose "stem" and "blocks" are options of `make_backbone`, and
    `architecture.png`.

    Args:
        workdir: the work directory.
        writer: of the run.
        params: of a `Model`.
        step: updates so far.
        steps_per_epoch: updates of an epoch; within one, nothing is done.
        tell: say it as a table, too.
    """
    epoch, rest = divmod(step, steps_per_epoch)
    if rest or not is_search(params["backbone"]):
        return
    shares = probabilities(params["backbone"]).round(6)
    if not any(e["kind"] == "search" and e["step"] == step for e in writer.events):
        rows = dict(zip(BLOCKS, shares, strict=True))
        values = {
            f"{block}/{place}": float(share)
            for block, row in rows.items()
            for place, share in zip(PLACES, row, strict=True)
        }
        writer.write("search", step, {"epoch": epoch} | values)
    if tell:
        writer.say(f"candidates of each block, in percent, after epoch {epoch}; * is taken:")
        writer.say(architecture_table(shares))
        writer.say(
            "configs/osnet.py trains this architecture: end its argument with "
            f",architecture={workdir / 'architecture.json'}"
        )
    if jax.process_index() == 0:
        best = {"stem": "instance", "blocks": chosen(shares)}
        content = {"format": FORMAT} | best | {"probabilities": shares.tolist(), "epoch": epoch}
        write_json(workdir / "architecture.json", content)
        save(architecture_picture(history_of(writer.events)), workdir / "architecture.png")


def history_of(events: Sequence[Mapping[str, Any]]) -> list[tuple[int, np.ndarray]]:
    """Epochs so far and probabilities [6, 4], from the events of a run, in their order."""
    return [
        (e["epoch"], np.array([[e[f"{b}/{p}"] for p in PLACES] for b in BLOCKS]))
        for e in events
        if e["kind"] == "search"
    ]


def architecture_table(shares: np.ndarray) -> str:
    """The probabilities of all candidates in percent, with a star at those that are chosen.

    Args:
        shares: [6, 4], as `probabilities` gives them.
    """
    rows = [
        (
            block,
            *(
                f"{'*' if place == best else ''}{100 * share:.1f}"
                for place, share in zip(PLACES, row, strict=True)
            ),
        )
        for block, best, row in zip(BLOCKS, chosen(shares), shares, strict=True)
    ]
    return table(("block", *PLACES), rows)


def architecture_picture(history: Sequence[tuple[int, np.ndarray]]) -> Image.Image:
    """The probabilities of the four candidates over the epochs, a panel for each block.

    Args:
        history: (epochs so far, [6, 4]), at least one, the newest last.

    Returns:
        An RGB picture.
    """
    cell = (PANEL[0] + GUTTER[0], PANEL[1] + GUTTER[1])
    top = MARGIN + 54
    width = 2 * MARGIN + COLUMNS * cell[0]
    height = top + -(-len(BLOCKS) // COLUMNS) * cell[1]
    canvas = Image.new("RGB", (width * SCALE, height * SCALE), "white")
    draw = ImageDraw.Draw(canvas)
    plain, large = (ImageFont.load_default(size * SCALE) for size in (12, 15))
    title = f"Probability of each candidate, by epoch; epochs so far: {history[-1][0]}"
    _text(draw, (MARGIN, MARGIN), title, large, "la")
    x, y = MARGIN, MARGIN + 36
    _text(draw, (x, y), "instance normalisation:", plain, "lm")
    x += 150
    for place, colour in zip(PLACES, COLOURS, strict=True):
        _line(draw, [(x, y), (x + 26, y)], colour, 3)
        _text(draw, (x + 32, y), place, plain, "lm")
        x += 112
    newest = history[-1][1]
    best = chosen(newest)
    largest = max(shares.max() for _, shares in history)
    limit = next((percent for percent in LIMITS if 100 * largest <= percent), LIMITS[-1])
    for number, block in enumerate(BLOCKS):
        row, column = divmod(number, COLUMNS)
        corner = (MARGIN + GUTTER[0] - 16 + column * cell[0], top + 24 + row * cell[1])
        heading = f"{block}: {best[number]} {newest[number].max():.0%}"
        _text(draw, (corner[0], corner[1] - 10), heading, large, "ls")
        lines = [(epoch, shares[number]) for epoch, shares in history]
        _panel(draw, corner, lines, limit, plain)
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def _panel(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    history: Sequence[tuple[int, np.ndarray]],
    limit: int,
    font: ImageFont.ImageFont,
) -> None:
    """Axes and lines of one block.

    Args:
        draw: on the canvas.
        corner: upper left one of the panel.
        history: (epochs so far, [4]).
        limit: percent at its upper edge.
        font: of the labels.
    """
    (left, top), (width, height) = corner, PANEL
    last = max(history[-1][0], 1)
    for percent in range(0, limit + 1, limit // 4):
        y = top + height * (1 - percent / limit)
        _line(draw, [(left, y), (left + width, y)], GRID if percent else AXES, 1)
        _text(draw, (left - 6, y), f"{percent}%", font, "rm")
    every = next((tick for tick in TICKS if last / tick <= 6), last)
    for epoch in range(0, last + 1, every):
        x = left + width * epoch / last
        _line(draw, [(x, top + height), (x, top + height + 4)], AXES, 1)
        _text(draw, (x, top + height + 7), str(epoch), font, "ma")
    for candidate in (-history[-1][1]).argsort(kind="stable")[::-1]:  # the chosen one on top
        points = [
            (left + width * epoch / last, top + height * (1 - 100 * shares[candidate] / limit))
            for epoch, shares in history
        ]
        _line(draw, points, COLOURS[candidate], 2)
        _dot(draw, points[-1], COLOURS[candidate])


def _line(
    draw: ImageDraw.ImageDraw,
    points: Sequence[tuple[float, float]],
    colour: tuple[int, int, int],
    width: int,
) -> None:
    scaled = [(x * SCALE, y * SCALE) for x, y in points]
    draw.line(scaled, fill=colour, width=width * SCALE, joint="curve")


def _dot(
    draw: ImageDraw.ImageDraw, point: tuple[float, float], colour: tuple[int, int, int]
) -> None:
    draw.circle((point[0] * SCALE, point[1] * SCALE), 3.5 * SCALE, fill=colour)


def _text(
    draw: ImageDraw.ImageDraw,
    point: tuple[float, float],
    text: str,
    font: ImageFont.ImageFont,
    anchor: str,
) -> None:
    draw.text((point[0] * SCALE, point[1] * SCALE), text, fill=INK, font=font, anchor=anchor)
