"""Plots and tables of `study_factors.py`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxreid.pictures.canvas import LIGHT, Canvas, grid

COLUMNS = 3
# Width and height of a panel, and of the picture of a person above each level.
PANEL, PERSON = (356, 330), (34, 68)
LEFT, RIGHT, HEADING = 40, 12, 40
# Rows, from the top of a panel: rates of people, rates of pairs.
UPPER, LOWER = (122, 212), (228, 292)
RANK1, FALSE = (30, 90, 170), (200, 80, 30)
# Lowest false-match rate of the plots.
LEAST = 1e-4


def plots(result: Mapping[str, Any], shown: Mapping[str, Sequence[np.ndarray]]) -> Image.Image:
    """Draw a panel for each factor.

    Args:
        result: content of factors.json.
        shown: pictures of one person by factor, one for each level.
    """
    factors = result["factors"]
    rows = -(-len(factors) // COLUMNS)
    size = COLUMNS * PANEL[0], HEADING + rows * PANEL[1]
    canvas = Canvas(size, fineness=2)
    text = (
        f"{result['people']} drawn people seen by two cameras; bars: 95 % of draws of people; "
        "lines across: people and cameras as drawn"
    )
    canvas.text((12, 8), "rank-1", 15, colour=RANK1)
    canvas.text((70, 8), "false-match rate at a fixed threshold", 15, colour=FALSE)
    canvas.text((360, 10), text, 13, colour=LIGHT.faint)
    for factor, corner in zip(
        factors, grid(len(factors), COLUMNS, PANEL, (0, HEADING)), strict=True
    ):
        _panel(canvas, corner, factor, result["reference"], shown[factor["name"]])
    return canvas.picture()


def _panel(
    canvas: Canvas,
    corner: tuple[int, int],
    factor: Mapping[str, Any],
    reference: Mapping[str, Sequence[float]],
    pictures: Sequence[np.ndarray],
) -> None:
    x0, y0 = corner
    left, right = x0 + LEFT, x0 + PANEL[0] - RIGHT
    step = (right - left) / len(factor["levels"])
    centres = [left + (k + 0.5) * step for k in range(len(factor["levels"]))]
    width = PANEL[0] - LEFT
    canvas.text((x0 + 12, y0 + 4), factor["title"], 14, width=PANEL[0] - 24)
    where = "both pictures" if factor["where"] == "everybody" else "the gallery's picture"
    canvas.text((x0 + 12, y0 + 23), where, 12, colour=LIGHT.faint, width=width)
    for centre, picture in zip(centres, pictures, strict=True):
        canvas.cell((round(centre - PERSON[0] / 2), y0 + 44), picture, PERSON)
    for centre, level in zip(centres, factor["levels"], strict=True):
        place = centre, y0 + LOWER[1] + 14
        canvas.text(place, level["level"], 13, anchor="mm")
    for name, colour, (top, bottom), scale, marks in (
        ("rank1", RANK1, UPPER, lambda share: share, {0: "0 %", 0.5: "50", 1: "100"}),
        ("false_match_rate", FALSE, LOWER, _decades,
         {1e-4: "1e-4", 1e-3: "1e-3", 1e-2: "1e-2", 1e-1: "0.1", 1: "1"}),
    ):  # fmt: skip

        def row(value: float, scale=scale, top=top, bottom=bottom) -> float:
            return y0 + bottom - (bottom - top) * scale(value)

        for mark, word in marks.items():
            canvas.line([(left, row(mark)), (right, row(mark))], (228, 228, 228), 1)
            canvas.text((left - 5, row(mark)), word, 11, colour=LIGHT.faint, anchor="rm")
        level = row(reference[name][0])
        canvas.line([(left, level), (right, level)], tuple((c + 510) // 3 for c in colour), 1)
        _curve(canvas, centres, [one[name] for one in factor["levels"]], row, colour)


def _curve(
    canvas: Canvas,
    centres: Sequence[float],
    values: Sequence[Sequence[float]],
    row: Callable[[float], float],
    colour: tuple[int, int, int],
) -> None:
    for x, (value, low, high) in zip(centres, values, strict=True):
        canvas.line([(x, row(low)), (x, row(high))], colour, 2)
        canvas.dot((x, row(value)), 3.5, colour)


def _decades(rate: float) -> float:
    """Return the place of a rate on a logarithmic axis, 0 at LEAST and 1 at 1."""
    return 1 - math.log(max(rate, LEAST)) / math.log(LEAST)


def markdown(result: Mapping[str, Any]) -> str:
    """Return an overview, and a table for each factor."""
    reference, model = result["reference"], result["model"]
    passed = _thousandths(reference["false_match_rate"])
    step = f", step {model['step']}" if model["step"] is not None else ""
    lines = [
        f"Model `{model['name']}`{step} (digest {model['digest']}). "
        f"{result['people']} people of {result['domains']} drawn domains (seed {result['seed']}), "
        f"as drawn: rank-1 {_percent(reference['rank1'])}, mAP "
        f"{_percent(reference['mAP'])}; false matches {passed} of "
        f"1,000 pairs, misses {_percent(reference['miss_rate'])}. In brackets: 95 % of "
        f"{result['draws']:,} draws of people; bold: they are all of one sign.",
        "",
        *_overview(result["factors"]),
    ]
    for factor in result["factors"]:
        alike = any("false_match_rate_alike" in level for level in factor["levels"])
        where = "" if factor["where"] == "everybody" else " (gallery)"
        header = [
            f"{factor['title']}{where}", "rank-1", "change", "mAP", "misses",
            "false matches, of 1,000 pairs", "change", *["... of pairs dressed alike"] * alike,
        ]  # fmt: skip
        lines += ["", _row(header), "|---" * len(header) + "|"]
        for k, level in enumerate(factor["levels"]):
            cells = [
                level["level"],
                _percent(level["rank1"]),
                _change(level, "rank1", _percent) if k else "",
                _percent(level["mAP"]).partition(" ")[0],
                _percent(level["miss_rate"]),
                _thousandths(level["false_match_rate"]),
                _change(level, "false_match_rate", _thousandths) if k else "",
            ]
            if alike:
                held = level.get("false_match_rate_alike")
                cells.append(_thousandths(held) if held else "")
            lines.append(_row(cells))
    return "\n".join(lines)


def _overview(factors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of the levels of each factor that differ most from its first level."""
    header = (
        *("factor", "from", "lowest rank-1 at", "change"),
        *("most false matches at", "change, of 1,000 pairs"),
    )
    lines = [_row(header), "|---" * len(header) + "|"]
    for factor in factors:
        first, *others = factor["levels"]
        rank = min(others, key=lambda level: level["rank1"][0])
        false = max(others, key=lambda level: level["false_match_rate"][0])
        lines.append(
            _row(
                (
                    factor["title"],
                    first["level"],
                    rank["level"],
                    _change(rank, "rank1", _percent),
                    false["level"],
                    _change(false, "false_match_rate", _thousandths),
                )
            )
        )
    return lines


def _change(level: Mapping[str, Any], name: str, words: Callable[..., str]) -> str:
    """Write a change, in bold where all of its interval has one sign."""
    interval = level[f"{name}_change"]
    _, low, high = interval
    text = words(interval, "+")
    return f"**{text}**" if low > 0 or high < 0 else text


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _percent(interval: Sequence[float], sign: str = "") -> str:
    value, low, high = (f"{100 * x:{sign}.1f}" for x in interval)
    return f"{value} [{low}, {high}]"


def _thousandths(interval: Sequence[float], sign: str = "") -> str:
    value, low, high = (f"{1000 * x:{sign}.{1 if abs(x) < 0.1 else 0}f}" for x in interval)
    return f"{value} [{low}, {high}]"
