"""Empty scenes of the cameras: a floor in perspective, a wall behind it, and furniture.

A scene is painted once per camera; the backgrounds of pictures are crops of it.
"""

import functools

import numpy as np
from PIL import Image, ImageFilter

from jaxreid.data.synthetic.stream import Stream

WIDTH, HEIGHT = 640, 480
# Kinds of floors, walls and furniture of drawn domains; frequent ones stand here several times.
FLOORS = (
    "paving", "tiles", "slabs", "checker", "bands", "steps", "grass", "asphalt", "asphalt",
    "platform", "plain", "plain", "cobbles", "cobbles",
)  # fmt: skip
WALLS = (
    "brick", "panels", "trees", "trees", "glass", "train", "shops", "facade", "hedge", "dark",
    "clutter", "clutter", "clutter",
)  # fmt: skip
THINGS = (
    "column", "sign", "bench", "bin", "planter", "bike", "patch", "bikes", "bikes", "crowd",
    "crowd", "rails", "car",
)  # fmt: skip
Colour = tuple[int, int, int]


def _noise(stream: Stream, rows: int, columns: int) -> np.ndarray:
    """Return smooth noise of `rows` x `columns` cells, int32 [HEIGHT, WIDTH] in [-128, 127]."""
    cells = Image.fromarray(stream.bytes(rows, columns))
    return np.asarray(cells.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int32) - 128


def _mix(a: Colour, share: int) -> np.ndarray:
    return np.array([min(255, c * share // 256) for c in a], np.int32)


def _floor(kind: str, colour: Colour, horizon: int, stream: Stream) -> np.ndarray:
    """Return the floor, int32 [HEIGHT, WIDTH, 3]; rows above the horizon are meaningless."""
    y = np.arange(HEIGHT, dtype=np.float64)[:, None] - horizon
    # Distance along the floor by row.
    far = 240.0 / np.maximum(y, 4.0)
    across = (np.arange(WIDTH, dtype=np.float64)[None] - WIDTH / 2) / 60.0 * far / 2
    along = np.broadcast_to(far * 4, across.shape)
    skew = stream.choice((0.0, 0.25, -0.35, 0.5))
    u, v = across + along * skew, along - across * skew
    iu, iv = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    share = np.full((HEIGHT, WIDTH), 256, np.int32)
    line = (u - iu < 0.07) | (v - iv < 0.09)
    picture = np.broadcast_to(np.array(colour, np.int32), (HEIGHT, WIDTH, 3)).copy()
    if kind in ("paving", "tiles", "slabs"):
        tone = stream.bytes(64, 64).astype(np.int32)[iu & 63, iv & 63]
        share += (tone - 128) * (60 if kind == "paving" else 22) // 128
        share[line] = share[line] * 180 // 256
    elif kind == "checker":
        dark = ((iu // 2) ^ (iv // 2)) & 1 == 1
        share[dark] = 150
        share[line & dark] = 140
    elif kind == "bands":
        share[(iv // 3) & 1 == 1] = 196
    elif kind == "steps":
        low = (np.arange(HEIGHT)[:, None] - horizon) % 34
        share = share * np.where(low < 9, 150, np.where(low < 12, 300, 256)) // 256
    elif kind == "grass":
        share += _noise(stream, 120, 160) * 110 // 256 + _noise(stream, 9, 12) * 70 // 256
        path = np.abs(u - 1.5) < 2.0
        picture[path] = (150, 138, 116)
    elif kind == "asphalt":
        share += _noise(stream, 160, 220) * 50 // 256
        picture[(np.abs(u - 2) < 0.25) & (iv % 4 < 2)] = (220, 216, 196)
    elif kind == "platform":
        share[line] = 215
        edge = np.abs(across + 6) < 0.7
        picture[edge] = (222, 186, 48)
        picture[across < -7.2] = (44, 42, 42)
    elif kind == "cobbles":
        tone = stream.bytes(64, 64).astype(np.int32)
        fine_u, fine_v = np.floor(u * 2).astype(np.int32), np.floor(v * 2).astype(np.int32)
        share += (tone[fine_u & 63, fine_v & 63] - 128) * 70 // 128
        share[(u * 2 - fine_u < 0.14) | (v * 2 - fine_v < 0.16)] -= 60
    elif kind == "plain":
        share += _noise(stream, 220, 300) * 36 // 256
    share += _noise(stream, 24, 30) * 36 // 256 + _noise(stream, 5, 6) * 50 // 256
    return picture * share[..., None] // 256


def _box(picture, x: int, y: int, w: int, h: int, colour: Colour, edge: int = 170) -> None:
    """Draw a rectangle with a darker rim."""
    x0, x1, y0, y1 = max(0, x), min(WIDTH, x + w), max(0, y), min(HEIGHT, y + h)
    if x0 >= x1 or y0 >= y1:
        return
    picture[y0:y1, x0:x1] = _mix(colour, edge)
    picture[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] = colour


def _wheel(picture, x: int, y: int, r: int) -> None:
    """Draw a ring with spokes."""
    x0, x1, y0, y1 = max(0, x - r), min(WIDTH, x + r), max(0, y - r), min(HEIGHT, y + r)
    if x0 >= x1 or y0 >= y1 or r < 2:
        return
    down, right = np.mgrid[y0 - y : y1 - y, x0 - x : x1 - x]
    far = down * down + right * right
    ring = (far <= r * r) & (far > (r * 13 // 16) ** 2)
    spokes = (far <= r * r) & ((down == right) | (down == -right) | (down == 0) | (right == 0))
    picture[y0:y1, x0:x1][ring | spokes] = (40, 42, 46)


def _dressed(s: Stream) -> Colour:
    """Return a colour of clothes or cars: mostly without one."""
    if s.chance(0.65):
        tone = s.choice((26, 32, 44, 60, 110, 150, 205, 232))
        return (tone, tone, min(255, tone + s.integer(0, 14)))
    return _muted(s)


_SIGNS: tuple[Colour, ...] = (
    (200, 40, 44), (236, 196, 60), (40, 92, 180), (240, 238, 230), (36, 130, 90), (220, 120, 40),
    (150, 60, 140), (30, 32, 40), (110, 180, 200),
)  # fmt: skip


def _muted(s: Stream) -> Colour:
    """Return a faded sign colour."""
    tone = s.integer(60, 150)
    return tuple((c * 2 + tone) // 3 for c in s.choice(_SIGNS))


def _wall(picture: np.ndarray, kind: str, colour: Colour, foot: int, s: Stream) -> None:
    """Paint the rows above `foot`, in place."""
    y, x = np.mgrid[0:foot, 0:WIDTH].astype(np.int32)
    share = np.full((foot, WIDTH), 256, np.int32)
    area = picture[:foot]
    area[...] = colour
    if kind == "brick":
        shift = (y // 10 & 1) * 12
        share[(y % 10 < 2) | ((x + shift) % 24 < 2)] = 330
        share += (s.bytes(64, 64).astype(np.int32)[y // 10 & 63, (x + shift) // 24 & 63] - 128) // 3
    elif kind == "panels":
        share[(x % 90 < 3) | (y % 70 < 2)] = 190
        share += (s.bytes(64, 64).astype(np.int32)[y // 70 & 63, x // 90 & 63] - 128) // 5
    elif kind == "trees":
        leaves = _noise(s, 60, 80)[:foot] + _noise(s, 12, 16)[:foot]
        share += leaves * 150 // 256
        area[leaves > 120] = (196, 206, 210)
        for _ in range(5):
            _box(area, s.integer(0, WIDTH), 0, s.integer(8, 18), foot, (70, 56, 44))
    elif kind == "glass":
        share += (x + y * 2) % 160 // 3 - 26
        share[(x % 64 < 5) | (y % 110 < 4)] = 130
    elif kind == "hedge":
        share += _noise(s, 150, 200)[:foot] * 150 // 256 + _noise(s, 14, 18)[:foot] * 120 // 256
        area[...] = (52, 74, 44)
    elif kind == "dark":
        area[...] = (34, 32, 34)
        share += _noise(s, 40, 60)[:foot] * 120 // 256
    elif kind == "clutter":
        # Windows, posters, doors, poles, parked things: boxes of all sizes, some with lines in.
        for _ in range(s.integer(20, 60)):
            w, h = s.integer(4, 110), s.integer(8, 140)
            left, top = s.integer(-40, WIDTH), s.integer(-40, foot)
            tone = s.integer(10, 230)
            colour = _muted(s) if s.chance(0.35) else (tone, tone, min(255, tone + 6))
            _box(area, left, top, w, h, colour, s.integer(90, 300))
            if s.chance(0.3):
                for row in range(top, top + h, s.integer(5, 16)):
                    _box(area, left, row, w, 3, (255 - tone, 255 - tone, 250 - tone), 256)
    elif kind == "train":
        area[y % 150 < 26] = s.choice(_SIGNS)
        share[(y > foot - 26)] = 90
    share += _noise(s, 10, 14)[:foot] * 50 // 256
    area[...] = area * share[..., None] // 256
    if kind == "shops":
        left = 0
        while left < WIDTH:
            wide = s.integer(80, 170)
            _box(picture, left, 0, wide, foot, _muted(s), 120)
            light = s.integer(150, 250)
            _box(picture, left + 8, 30, wide - 16, foot - 42, (light, light - 8, light - 30))
            for _ in range(s.integer(3, 8)):
                tall = s.integer(20, 70)
                _box(picture, left + s.integer(10, wide), foot - 14 - tall, s.integer(8, 26), tall,
                     _muted(s))  # fmt: skip
            left += wide
    elif kind in ("facade", "train", "glass"):
        for column in range(s.integer(0, 40), WIDTH, s.integer(60, 95)):
            for row in range(12, max(13, foot - 50), 78):
                tone = s.integer(40, 120)
                _box(picture, column, row, 36, 46, (tone, tone + 10, tone + 22))


def _things(picture: np.ndarray, things: tuple[str, ...], horizon: int, s: Stream) -> None:
    """Put furniture on the floor, in place; nearer pieces are larger."""
    for foot in sorted(s.integer(horizon + 60, HEIGHT - 60) for _ in range(9)):
        kind = s.choice(things)
        size = (foot - horizon) / 300
        x = s.integer(-20, WIDTH)
        # A column reaches from the floor beyond the top of the picture.
        if kind == "column":
            wide = round(46 * size)
            ramp = 256 - np.abs(np.arange(wide) - wide // 3) * 160 // max(wide, 1)
            tone = np.array(s.choice(((190, 186, 178), (150, 148, 150), (206, 200, 190))))
            x1 = min(WIDTH, x + wide)
            if x1 > max(x, 0):
                part = ramp[max(0, -x) : x1 - x, None] * tone // 256
                picture[:foot, max(0, x) : x1] = part
        elif kind == "sign":
            wide, high, top = round(40 * size), round(54 * size), foot - round(110 * size)
            _box(picture, x, top, wide, high, _muted(s))
            # Lines of text.
            for k in range(3):
                _box(picture, x + wide // 6, top + (k + 1) * high // 5, wide * (4 - k) // 6,
                     max(2, high // 12), (214, 212, 204), 256)  # fmt: skip
            _box(picture, x + wide // 2 - 2, top + high, 4, foot - top - high, (60, 60, 64))
        elif kind == "bench":
            for k in range(3):
                _box(picture, x, foot - round((50 - 14 * k) * size), round(190 * size),
                     max(4, round(8 * size)), (116, 82, 52))  # fmt: skip
        elif kind == "bin":
            _box(picture, x, foot - round(80 * size), round(46 * size), round(80 * size),
                 s.choice(((60, 66, 62), (44, 82, 60), (120, 124, 128))))  # fmt: skip
        elif kind == "planter":
            _box(picture, x, foot - round(46 * size), round(120 * size), round(46 * size),
                 (140, 128, 116))  # fmt: skip
            # Leaves.
            for _ in range(90):
                w = 2 + round(s.integer(6, 14) * size)
                tone = s.integer(0, 70)
                _box(picture, x + s.integer(-6, max(1, round(112 * size))),
                     foot - round(s.integer(50, 104) * size), w, w,
                     (40 + tone * 2 // 3, 58 + tone, 36 + tone // 3), 200)  # fmt: skip
        elif kind == "bike":
            for k in range(0, 110, 22):
                _box(picture, x + round(k * size), foot - round(66 * size), 4, round(66 * size),
                     (50, 52, 58))  # fmt: skip
            _box(picture, x, foot - round(66 * size), round(110 * size), 5, (170, 50, 44))
        elif kind == "bikes":
            # A row of parked bicycles: wheels, frames, spokes at any angle.
            for k in range(s.integer(3, 9)):
                left = x + round(k * 44 * size)
                _wheel(picture, left, foot - round(34 * size), round(32 * size))
                _wheel(picture, left + round(58 * size), foot - round(34 * size), round(32 * size))
                _box(picture, left, foot - round(70 * size), round(64 * size),
                     max(3, round(5 * size)), _muted(s))  # fmt: skip
        elif kind == "crowd":
            # People far away or behind: legs, trunk, head.
            for _ in range(s.integer(1, 4)):
                at, tall = x + s.integer(-60, 60), s.uniform(0.75, 1.05) * 170 * size
                trunk, legs = _dressed(s), _dressed(s)
                wide = round(tall * 0.24)
                low = foot + s.integer(-6, 6)
                for leg in (0, wide * 3 // 5):
                    _box(picture, at + leg, low - round(tall * 0.5), max(3, wide * 2 // 5),
                         round(tall * 0.5), legs, 200)  # fmt: skip
                _box(picture, at - wide // 8, low - round(tall * 0.84), wide * 5 // 4,
                     round(tall * 0.4), trunk, 210)  # fmt: skip
                head = round(tall * 0.13)
                tone = s.choice(((200, 160, 130), (140, 100, 74), (30, 26, 26), (90, 62, 48)))
                _box(picture, at + wide // 2 - head // 2, low - round(tall), head,
                     round(tall * 0.16), tone, 150)  # fmt: skip
        elif kind == "rails":
            tone = s.integer(60, 210)
            top = foot - round(96 * size)
            for k in range(3):
                _box(picture, 0, top + round(30 * k * size), WIDTH, max(3, round(6 * size)),
                     (tone, tone, tone))  # fmt: skip
            for left in range(x % 90, WIDTH, max(16, round(90 * size))):
                _box(picture, left, top, max(3, round(6 * size)), foot - top, (tone, tone, tone))
        elif kind == "car":
            colour = _dressed(s)
            wide, high = round(330 * size), round(120 * size)
            _box(picture, x, foot - high, wide, high * 3 // 4, colour, 200)
            _box(picture, x + wide // 5, foot - high * 8 // 5, wide * 3 // 5, high * 7 // 10,
                 (64, 74, 84), 120)  # fmt: skip
            for wheel in (wide // 5, wide * 4 // 5):
                _wheel(picture, x + wheel, foot - high // 5, high // 4)
        # A mat, a shadow or a wet spot.
        elif kind == "patch":
            w, h = round(s.integer(80, 220) * size), round(s.integer(14, 40) * size)
            x0, x1 = max(0, x), min(WIDTH, x + w)
            picture[foot - h : foot, x0:x1] = picture[foot - h : foot, x0:x1] * 170 // 256


@functools.lru_cache(maxsize=32)
def scene(
    key: tuple[int, ...],
    floor: tuple[str, Colour],
    wall: tuple[str, Colour],
    things: tuple[str, ...],
    horizon: int,
    foot: int,
) -> Image.Image:
    """Return the empty scene of a camera, RGB of WIDTH x HEIGHT pixels.

    `things` are the possible kinds of furniture. The row of the horizon may be negative; the wall
    meets the floor in row `foot`, below the horizon.
    """
    stream = Stream(*key)
    picture = _floor(floor[0], floor[1], horizon, stream)
    if foot > 0:
        _wall(picture, wall[0], wall[1], foot, stream)
    _things(picture, things, horizon, stream)
    dirt = 256 + _noise(stream, 60, 80) * 34 // 256 + _noise(stream, 7, 9) * 60 // 256
    image = Image.fromarray(np.clip(picture * dirt[..., None] // 256, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.BoxBlur(1))
