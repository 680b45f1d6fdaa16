"""Plots as inline SVG; their colours are those of the page that holds them (`report.css`)."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxreid.pictures.self_contained import escaped

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 40
# Points of a line, at most; of more, neighbours are averaged.
POINTS = 400
# Colours in the style of the page.
COLOURS = 6


@dataclasses.dataclass(frozen=True)
class Line:
    """Line of a plot.

    Attributes:
        name: for the legend; "" for none.
        x: [N], ascending.
        y: [N]; values that are not finite are left out.
    """

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray


def plot(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    log_x: bool = False,
    y_range: tuple[float, float] | None = None,
    percent: bool = False,
    filled: bool = False,
) -> str:
    """Return a figure with lines over one axis, "" without a point.

    Args:
        title: label of the y axis.
        lines: lines to draw.
        x_label: label of the x axis.
        log_x: logarithmic x axis; x is above 0.
        y_range: ends of the y axis; None for those of the data.
        percent: write y in percent.
        filled: fill the area between each line and 0, as of a histogram.
    """
    drawn = [_drawable(line, averaged=not filled) for line in lines]
    if not any(len(x) for x, _ in drawn):
        return ""
    if log_x:
        drawn = [(np.log10(x), y) for x, y in drawn]
    xs, ys = (np.concatenate([line[axis] for line in drawn]) for axis in (0, 1))
    if filled:
        ys = np.append(ys, 0.0)
    frame = _Frame(_ends(xs.min(), xs.max()), y_range or _ends(ys.min(), ys.max()))
    marks = "".join(
        _mark(number % COLOURS, [frame.place(*p) for p in zip(x, y, strict=True)], frame, filled)
        for number, (x, y) in enumerate(drawn)
    )
    legend = "".join(
        f'<li class="c{number % COLOURS}">{escaped(line.name)}</li>'
        for number, line in enumerate(lines)
        if line.name
    )
    name = escaped(title)
    return (
        f"<figure><h3>{name}</h3>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        f"{frame.grid(x_label, log_x, percent)}{marks}</svg>"
        + (f'<ul class="legend">{legend}</ul>' if legend else "")
        + "</figure>"
    )


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Ends and grid of both axes."""

    across: tuple[float, float]
    up: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point of the data is in the picture."""
        share = (x - self.across[0]) / (self.across[1] - self.across[0])
        height = (y - self.up[0]) / (self.up[1] - self.up[0])
        right = LEFT + share * (WIDTH - LEFT - RIGHT)
        return round(right, 1), round(HEIGHT - BOTTOM - height * (HEIGHT - TOP - BOTTOM), 1)

    def grid(self, x_label: str, log_x: bool, percent: bool) -> str:
        """Return the lines of the grid with their numbers."""
        parts = []
        for value in ticks(*self.up):
            left, y = self.place(self.across[0], value)
            text = f"{100 * value:.4g}%" if percent else _short(value)
            parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{left - 7}" y="{y + 4}" text-anchor="end">{text}</text>')
        powers = range(math.ceil(self.across[0]), math.floor(self.across[1]) + 1)
        for value in powers if log_x else ticks(*self.across):
            x, bottom = self.place(value, self.up[0])
            text = _short(10.0**value if log_x else value)
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
            parts.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        label = (
            f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escaped(x_label)}</text>'
        )
        return "".join([*parts, label])


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from low to high."""
    size = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(size * k for k in (1, 2, 5, 10) if (high - low) / (size * k) <= 6)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{step * k:.10g}") for k in range(first, last + 1)]


def _mark(colour: int, corners: Sequence[tuple[float, float]], frame: _Frame, filled: bool) -> str:
    if len(corners) == 1:
        ((x, y),) = corners
        return f'<circle class="dot c{colour}" cx="{x}" cy="{y}" r="3"/>'
    path = " ".join(f"{x},{y}" for x, y in corners)
    line = f'<polyline class="line c{colour}" points="{path}"/>'
    if not (filled and corners):
        return line
    _, ground = frame.place(frame.across[0], 0.0)
    area = f"{corners[0][0]},{ground} {path} {corners[-1][0]},{ground}"
    return f'<polygon class="area c{colour}" points="{area}"/>{line}'


def _drawable(line: Line, *, averaged: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if averaged and len(x) > POINTS:
        x, y = (np.array([part.mean() for part in np.array_split(v, POINTS)]) for v in (x, y))
    return x, y


def _ends(low: float, high: float) -> tuple[float, float]:
    """Return ends of an axis, apart from each other."""
    if high - low > 1e-12 * max(abs(low), abs(high)):
        return float(low), float(high)
    return float(low) - 0.5 * (abs(low) or 1), float(high) + 0.5 * (abs(high) or 1)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
