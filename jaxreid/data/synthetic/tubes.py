"""Drawing primitive: a textured, shaded tube around a line, seen from the side.

Limbs, torsos, heads, coats, bags and poles are all tubes. A texture wraps around the tube, so a
logo on the chest disappears when the person turns. Pixels are computed only with IEEE-exact
operations and integer tables, so every machine draws the same picture.
"""

import functools
import itertools
import math

import numpy as np
from PIL import Image

from jaxreid.data.synthetic.stream import Stream

# Size of a texture: rows along the tube, columns around it with the front in the middle.
ROWS, COLUMNS = 64, 128
# Steps of the position across the tube, on each side of its axis.
_U = 64

# Position across the tube -> angle around it, in texture columns (90 degrees are 32 columns).
_ANGLE = np.array([round(math.asin(i / _U) * 64 / math.pi) for i in range(-_U, _U + 1)], np.int32)


def sine(degrees: int) -> float:
    """Return the sine of whole degrees, a multiple of 2**-12 (so the same on every machine)."""
    return round(math.sin(math.radians(degrees % 360)) * 4096) / 4096


def cosine(degrees: int) -> float:
    """Return the cosine of whole degrees, a multiple of 2**-12."""
    return sine(degrees + 90)


@functools.lru_cache(maxsize=512)
def shading(light: int, ambient: int) -> np.ndarray:
    """Compute the brightness across a tube.

    Args:
        light: degrees from the camera to the light, clockwise seen from above, in [-180, 180].
        ambient: light in the shade, in 256ths.

    Returns:
        int32 [129], factors in 256ths at u = -1, ..., 1 across the tube.
    """
    lx, lz = sine(light), cosine(light)
    table = []
    for i in range(-_U, _U + 1):
        u = i / _U
        facing = max(0.0, u * lx + math.sqrt(1 - u * u) * lz)
        table.append(round(ambient + (276 - ambient) * facing))
    return np.array(table, np.int32)


def smooth(stream: Stream, rows: int, columns: int) -> np.ndarray:
    """Return smooth noise of `rows` x `columns` cells on a texture, int32 [64, 128] in 0..255."""
    cells = Image.fromarray(stream.bytes(rows, columns))
    return np.asarray(cells.resize((COLUMNS, ROWS), Image.Resampling.BICUBIC), np.int32)


@functools.lru_cache(maxsize=1)
def _folds() -> np.ndarray:
    """Return the brightness of creases of cloth in 256ths, int32 [16, 64, 128].

    The first eight are soft, the others sharp, as drawn domains have them.
    """
    folds = []
    for k in range(8):
        stream = Stream(901, k)
        mixed = smooth(stream, 5, 12) * 2 + smooth(stream, 14, 26)
        folds.append(256 + (mixed - 382) * 62 // 382)
    for k in range(8):
        stream = Stream(902, k)
        # Ridges: where smooth noise passes its middle.
        coarse, middle, fine = (smooth(stream, *cells) for cells in ((4, 8), (11, 12), (17, 26)))
        ridge = np.maximum(0, 26 - np.abs(middle - 128)) * 2
        folds.append(264 + (coarse - 128) * 60 // 128 - ridge + (fine - 128) * 16 // 128)
    return np.stack(folds)


def profile(*knots: tuple[float, float], cap: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Interpolate the half widths along a tube.

    Args:
        *knots: (v, half width) with v ascending from 0 to 1; linear in between.
        cap: shares of the length at the start and the end that are rounded off.

    Returns:
        float64 [64], in the unit of the knots.
    """
    widths = []
    for i in range(ROWS):
        v = (i + 0.5) / ROWS
        (v0, w0), (v1, w1) = next(pair for pair in itertools.pairwise(knots) if v <= pair[1][0])
        width = w0 + (w1 - w0) * (v - v0) / (v1 - v0)
        for edge, share in ((v, cap[0]), (1 - v, cap[1])):
            if edge < share:
                x = 1 - edge / share
                width *= math.sqrt(1 - x * x)
        widths.append(width)
    return np.array(widths)


def paint(
    canvas: np.ndarray,
    a: tuple[float, float],
    b: tuple[float, float],
    half: np.ndarray,
    texture: np.ndarray,
    turn: int,
    shade: np.ndarray,
    fold: tuple[int, int, int] | None = None,
    opacity: int = 256,
) -> None:
    """Draw a tube from `a` to `b` into `canvas`.

    Args:
        canvas: int32 [h, w, 3], changed in place.
        a: (x, y) of the start of the axis in pixels.
        b: (x, y) of its end.
        half: float [64], half width in pixels along the axis.
        texture: uint8 [64, 128, 3]; rows along the axis, columns around it, front at 64.
        turn: rotation of the tube in texture columns; 0 shows the front.
        shade: int32 [129] from `shading`.
        fold: index of the creases, and their shift along and around the axis; None for a smooth
            surface.
        opacity: in 256ths; 256 is opaque.
    """
    height, width = canvas.shape[:2]
    reach = float(half.max()) + 1
    x0, x1 = max(0, int(min(a[0], b[0]) - reach)), min(width, int(max(a[0], b[0]) + reach) + 2)
    y0, y1 = max(0, int(min(a[1], b[1]) - reach)), min(height, int(max(a[1], b[1]) + reach) + 2)
    if x0 >= x1 or y0 >= y1:
        return
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = max(math.sqrt(dx * dx + dy * dy), 1.0)
    ux, uy = dx / length, dy / length
    x = np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - a[0])
    y = (np.arange(y0, y1, dtype=np.float32) + np.float32(0.5 - a[1]))[:, None]
    along = x * np.float32(ux) + y * np.float32(uy)
    across = x * np.float32(uy) - y * np.float32(ux)
    row = (along * np.float32(ROWS / length)).astype(np.int32)
    np.minimum(row, ROWS - 1, out=row)
    np.maximum(row, 0, out=row)
    limit = np.maximum(half, 0.25).astype(np.float32)[row]
    cover = limit - np.abs(across)
    np.minimum(cover, along, out=cover)
    np.minimum(cover, np.float32(length) - along, out=cover)
    # Half a pixel outside belongs to the soft edge.
    inside = np.flatnonzero(cover > np.float32(-0.5))
    if not inside.size:
        return
    cover = cover.ravel()[inside]
    row = row.ravel()[inside]
    u = (across.ravel()[inside] / limit.ravel()[inside] * np.float32(_U)).astype(np.int32)
    u += _U
    np.minimum(u, 2 * _U, out=u)
    np.maximum(u, 0, out=u)
    column = (_ANGLE[u] + (turn + COLUMNS // 2)) & (COLUMNS - 1)
    place = row * COLUMNS + column
    light = shade[u]
    if fold is not None:
        which, down, around = fold
        shifted = ((row + down) & (ROWS - 1)) * COLUMNS + ((column + around) & (COLUMNS - 1))
        light = light * _folds()[which].ravel()[shifted] >> 8
    colour = texture.reshape(-1, 3)[place].astype(np.int32)
    colour *= light[:, None]
    colour >>= 8
    np.minimum(colour, 255, out=colour)
    alpha = ((np.minimum(cover, np.float32(0.5)) + np.float32(0.5)) * opacity).astype(np.int32)
    window = canvas[y0:y1, x0:x1]
    # A copy, because the window is a view of a wider picture.
    flat = window.reshape(-1, 3)
    behind = flat[inside]
    colour -= behind
    colour *= alpha[:, None]
    colour >>= 8
    colour += behind
    flat[inside] = colour
    window[...] = flat.reshape(window.shape)


def plain(colour) -> np.ndarray:
    """Return a new texture of one RGB colour, uint8 [64, 128, 3]."""
    texture = np.empty((ROWS, COLUMNS, 3), np.uint8)
    texture[...] = colour
    return texture
