"""Textures of a person: cloth with its pattern and logo, face and hair, bags.

A texture is uint8 [64, 128, 3]: 64 rows from the top of the body part to its bottom, 128 columns
around it; the front is column 64, the person's left is 96, the back is 0. Textures are painted once
per person and used in all pictures.
"""

import dataclasses
import functools

import numpy as np

from jaxreid.data.synthetic.people import Colour, Details, Person
from jaxreid.data.synthetic.stream import Stream
from jaxreid.data.synthetic.tubes import COLUMNS, ROWS, plain, smooth

_V, _C = np.mgrid[0:ROWS, 0:COLUMNS].astype(np.int32)
FRONT, LEFT, BACK, RIGHT = 64, 96, 0, 32

# 8 x 8 dots, one byte per row.
LOGOS = {
    "disc": (0x3C, 0x7E, 0xFF, 0xFF, 0xFF, 0xFF, 0x7E, 0x3C),
    "ring": (0x3C, 0x7E, 0xE7, 0xC3, 0xC3, 0xE7, 0x7E, 0x3C),
    "square": (0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF),
    "cross": (0x18, 0x18, 0x18, 0xFF, 0xFF, 0x18, 0x18, 0x18),
    "bar": (0x00, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0x00),
    "wedge": (0x18, 0x18, 0x3C, 0x3C, 0x7E, 0x7E, 0xFF, 0xFF),
    "letters": (0x00, 0xDB, 0xFF, 0xB5, 0xAD, 0xFF, 0xDB, 0x00),
    "heart": (0x66, 0xFF, 0xFF, 0xFF, 0x7E, 0x3C, 0x18, 0x00),
    "star": (0x18, 0x18, 0xFF, 0x7E, 0x3C, 0x7E, 0x66, 0xC3),
    "bolt": (0x0F, 0x1E, 0x3C, 0x7F, 0x0E, 0x1C, 0x38, 0x60),
}


def _around(column: int) -> np.ndarray:
    """Return the distance of each texel from a column around the tube, int32 [64, 128]."""
    d = np.abs(_C - column)
    return np.minimum(d, COLUMNS - d)


def _dim(colour: Colour, share: int) -> np.ndarray:
    return np.array([min(255, c * share // 256) for c in colour], np.uint8)


def cloth(p: Person, limb: bool = False) -> np.ndarray:
    """Return the cloth of the upper garment, or of its sleeve if `limb` (a thinner tube)."""
    texture = plain(p.upper_colour)
    n = p.period
    # A sleeve has a third of the girth of a chest.
    wide = n * 3 if limb else n
    if p.pattern == "stripes":
        mask = _V % n < n * 2 // 5
    elif p.pattern == "bars":
        mask = _C % (16 if n < 20 else 32) < (6 if n < 20 else 12)
    elif p.pattern == "check":
        rows, columns = _V % n < n // 2, _C % wide < wide // 2
        texture[rows ^ columns] = (
            np.array(p.upper_colour, np.int32) + np.array(p.upper_second, np.int32)
        ) // 2
        mask = rows & columns
    elif p.pattern == "dots":
        shift = (_V // n & 1) * (n // 2)
        mask = (_V % n - n // 2) ** 2 + ((_C + shift) % n - n // 2) ** 2 <= (n * 3 // 8) ** 2
    elif p.pattern == "two-tone":
        mask = _V < 64 if limb and n == 14 else _V - (24 if n < 20 else 38) < 0
        if limb and n != 14:
            mask = mask & False
    elif p.pattern == "band":
        mask = (_V >= 26) & (_V - n < 26)
    elif p.pattern == "flowers":
        noise = Stream(77, n).bytes(ROWS // 4 + 1, COLUMNS // 4 + 1)
        mask = np.kron(noise, np.ones((4, 4), np.uint8))[:ROWS, :COLUMNS] > 185
    elif p.pattern == "print" and p.details is not None:
        return _print(texture, p.details, p.upper_second, limb)
    elif p.pattern == "quilt" or p.upper == "puffer":
        texture[_V % 11 < 3] = _dim(p.upper_colour, 160)
        mask = _V < 0
    else:
        mask = _V < 0
    texture[mask] = p.upper_second
    return texture


def _print(texture: np.ndarray, d: Details, second: Colour, limb: bool) -> np.ndarray:
    """Print a cloth: blotches, collages, lines of text, gradients, tweed, panels, yokes."""
    kind, seed = d.print
    s = Stream(78, seed)
    if kind in (0, 1, 2):
        # Flowers, camouflage, leopards: where smooth noise is high or low.
        rows, columns = ((22, 40), (9, 18), (34, 68))[kind]
        field = smooth(s, rows, columns)
        texture[field > s.integer(140, 180)] = second
        texture[field < s.integer(60, 100)] = d.third
    elif kind in (3, 4):
        # A picture or text on the chest, sometimes on the back.
        for middle in (FRONT, BACK) if kind == 4 else (FRONT,):
            top, high, wide = s.integer(8, 20), s.integer(10, 26), s.integer(8, 18)
            for _ in range(s.integer(4, 14)):
                row, column = top + s.integer(0, high), middle + s.integer(-wide, wide)
                h = s.integer(1, 3) if kind == 4 else s.integer(2, 9)
                w = s.integer(2, 12)
                colour = s.choice((second, second, d.third))
                if not limb:
                    columns = np.arange(column - w // 2, column + (w + 1) // 2) % COLUMNS
                    texture[row : row + h, columns] = colour
    elif kind == 5:
        mix = (_V * 4)[..., None]
        texture = ((texture * (256 - mix) + np.array(second, np.int32) * mix) >> 8).astype(np.uint8)
    elif kind == 6:
        # Tweed: fine grains of two colours.
        texture[s.bytes(ROWS, COLUMNS) > 150] = second
    elif kind == 7:
        # Panels along the sides, and down the sleeves.
        texture[(_around(LEFT) < 12) | (_around(RIGHT) < 12)] = second
    else:
        texture[s.integer(4, 10) > (_V + _C) % 22] = second
    return texture


def _stamp(texture: np.ndarray, logo: str, colour: Colour, row: int, column: int, size: int):
    bits = np.unpackbits(np.array(LOGOS[logo], np.uint8)[:, None], axis=1)
    mark = np.kron(bits, np.ones((size, size), np.uint8)).astype(bool)
    h, w = mark.shape
    columns = np.arange(column - w // 2, column - w // 2 + w) % COLUMNS
    rows = np.arange(row, row + h)
    area = texture[np.ix_(rows, columns)]
    area[mark] = colour
    texture[np.ix_(rows, columns)] = area


def torso(p: Person) -> np.ndarray:
    """Return the texture of the upper body, from the neck to the hips."""
    t = cloth(p)
    front = _around(FRONT)
    d = p.details
    if d is not None and d.open:
        edge = 7 + _V // 6
        t[front < edge] = p.inner
        t[(front >= edge) & (front < edge + 2)] = _dim(p.upper_colour, 170)
    elif p.upper in ("suit", "jacket", "coat"):
        opening = {"suit": 11 - _V // 3, "jacket": 9 + _V * 0, "coat": 8 - _V // 4}[p.upper]
        t[front < opening] = p.inner
        t[(front >= opening) & (front < opening + 2) & (opening > 0)] = _dim(p.upper_colour, 170)
        if p.upper == "suit":
            # A tie.
            t[(front < 2) & (_V < 34)] = p.logo_colour
        t[(front < 1) & (_V > 34)] = _dim(p.upper_colour, 150)
    elif p.upper in ("shirt", "blouse"):
        t[front < 1] = _dim(p.upper_colour, 190)
        t[(_V < 4) & (front < 14)] = _dim(p.upper_colour, 290)
    elif p.upper == "hoodie":
        # The hood, hanging down.
        t[(_V < 12) & (_around(BACK) < 26)] = _dim(p.upper_colour, 190)
        # A pocket.
        t[(_V > 40) & (_V < 54) & (front < 16)] = _dim(p.upper_colour, 205)
        t[(_V > 58)] = _dim(p.upper_colour, 190)
        t[(_V < 20) & ((front == 4) | (front == 5))] = p.inner
    elif p.upper in ("tshirt", "tank", "dress"):
        t[(_V < 6) & (front < 10 - _V)] = p.skin
        if p.upper == "tank":
            t[(_V < 9) & (_around(FRONT) > 14) & (_around(BACK) > 14)] = p.skin
    elif p.upper == "puffer":
        t[front < 1] = _dim(p.upper_colour, 140)
    if d is not None:
        if d.waistband is not None:
            t[_V > 60] = d.waistband
        if d.lanyard is not None:
            t[(_V < 26) & (np.abs(front - 9 + _V // 3) < 2)] = d.lanyard
            t[(_V >= 26) & (_V < 34) & (front < 5)] = (236, 236, 230)
    if p.logo != "none":
        if p.logo_place in ("chest", "both"):
            _stamp(t, p.logo, p.logo_colour, 12, FRONT, 3)
        if p.logo_place in ("back", "both"):
            _stamp(t, p.logo, p.logo_colour, 14, BACK, 4)
        if p.logo_place == "belly":
            _stamp(t, p.logo, p.logo_colour, 30, FRONT, 3)
    if p.bag == "backpack":
        straps = (np.abs(front - 15) < 4) & (_V < 36)
        t[straps] = p.bag_colour
    # A strap from one shoulder to the opposite hip, front and back.
    if p.bag == "shoulder":
        side = p.bag_side
        for middle, sign in ((FRONT, 1), (BACK, -1)):
            offset = (_C - middle + 64) % COLUMNS - 64
            line = np.abs(offset * 2 - sign * side * (_V - 26)) < 6
            t[line & (np.abs(offset) < 32)] = p.bag_colour
    if p.scarf is not None:
        t[(_V < 9)] = p.scarf
        t[(_V < 34) & (np.abs(_C - FRONT - 5) < 4)] = p.scarf
    return t


def sleeve(p: Person) -> tuple[np.ndarray, np.ndarray]:
    """Return the textures of the upper arm and of the forearm."""
    bare = plain(p.skin)
    if p.upper in ("tank",):
        return bare, bare
    upper = cloth(p, limb=True)
    d = p.details
    if d is not None and (d.sleeves != "own" or d.sleeve_colour is not None):
        if d.sleeve_colour is not None:
            upper = plain(d.sleeve_colour)
        kept = {"bare": (0, 0), "short": (38, 0), "half": (64, 12), "long": (64, 60)}
        own = "short" if p.upper in ("tshirt", "dress") else "long"
        above, below = kept[own if d.sleeves == "own" else d.sleeves]
        lower = upper.copy()
        upper[above <= _V] = p.skin
        lower[below <= _V] = p.skin
        return upper, lower
    if p.upper in ("tshirt", "dress"):
        upper[_V > 38] = p.skin
        return upper, bare
    lower = cloth(p, limb=True)
    if p.upper == "blouse":
        lower[_V > 20] = p.skin
    lower[(_V > 54) & (_V < 58)] = _dim(p.upper_colour, 170)
    return upper, lower


def legs(p: Person) -> tuple[np.ndarray, np.ndarray]:
    """Return the textures of the thigh and of the shin."""
    skin = plain(_dim(p.skin, 250))
    if p.lower in ("skirt", "long_skirt"):
        tights = plain((38, 36, 40)) if p.upper in ("coat", "puffer", "suit") else skin
        return tights, tights
    thigh, shin = plain(p.lower_colour), plain(p.lower_colour)
    thigh[_around(BACK) < 2] = _dim(p.lower_colour, 200)
    shin[_V > 58] = _dim(p.lower_colour, 180)
    d = p.details
    if d is not None:
        if d.lower_print:
            for t in (thigh, shin):
                t[:] = _print(t, dataclasses.replace(d, print=(d.lower_print % 3, d.lower_print)),
                              p.upper_second, True)  # fmt: skip
        if d.wash:
            # Denim is paler on the thighs and at the knees.
            share = 256 + np.maximum(0, d.wash - np.abs(_V - 36) * 3 - _around(FRONT) * 2)
            thigh = np.minimum(255, thigh * share[..., None] >> 8).astype(np.uint8)
    if p.side_stripe is not None:
        for t in (thigh, shin):
            t[(_around(LEFT) < 9) | (_around(RIGHT) < 9)] = p.side_stripe
    if p.lower == "shorts":
        shin = skin
        thigh[_V > 56] = p.skin
    elif p.lower == "cropped":
        shin[_V > 24] = p.skin
    if d is not None and d.socks is not None and p.lower in ("shorts", "cropped"):
        shin[_V > 48] = d.socks
    if p.shoes == "boots":
        shin[_V > 30] = p.shoe_colour
        shin[(_V > 30) & (_V < 33)] = _dim(p.shoe_colour, 150)
    return thigh, shin


def skirt(p: Person) -> np.ndarray:
    """Return the texture below the waist: a skirt or the tails of a coat."""
    if p.upper == "coat":
        t = cloth(p)
        t[_around(FRONT) < 2 + _V // 8] = _dim(p.upper_colour, 120)
        return t
    if p.upper == "dress":
        return cloth(p)
    t = plain(p.lower_colour)
    if p.details is not None and p.details.lower_print:
        seed = p.details.lower_print
        chosen = dataclasses.replace(p.details, print=(seed % 9, seed))
        return _print(t, chosen, p.upper_second, False)
    t[_V % 64 > 58] = _dim(p.lower_colour, 190)
    return t


def head(p: Person) -> np.ndarray:
    """Return the texture of the head: hair, and a face on the front."""
    t = plain(p.skin)
    front = _around(FRONT)
    dark = _dim(p.skin, 150)
    for eye in (FRONT - 12, FRONT + 12):
        t[(np.abs(_C - eye) < 4) & (_V >= 29) & (_V < 32)] = (40, 30, 28)
        t[(np.abs(_C - eye) < 6) & (_V >= 25) & (_V < 27)] = dark
    t[(front < 4) & (_V >= 34) & (_V < 42)] = dark
    t[(front < 9) & (_V >= 46) & (_V < 49)] = (150, 70, 66)
    if p.details is not None and p.details.glasses:
        t[(np.abs(front - 12) < 8) & (_V >= 27) & (_V < 34)] = (30, 30, 34)
    if p.beard:
        t[(_V > 42) & (front < 34) & ~((front < 8) & (_V < 50) & (_V > 44))] = p.hair
    hairline = {"bald": 0, "crop": 13, "afro": 20}.get(p.hair_style, 17)
    back = {"bald": 0, "crop": 40, "short": 48, "bun": 50, "ponytail": 50}.get(p.hair_style, 64)
    t[_V - hairline < 0] = p.hair
    t[(front > 30) & (_V - back < 0)] = p.hair
    t[(front > 22) & (_V - back < -20)] = p.hair
    if p.hat == "hood":
        t[(front > 24) | (_V < 12)] = p.upper_colour
        t[((front > 24) & (front < 28)) & (_V > 10)] = _dim(p.upper_colour, 150)
    return t


def bag(p: Person) -> np.ndarray:
    """Return the texture of the bag."""
    t = plain(p.bag_colour)
    if p.bag == "backpack":
        t[(_V > 34) & (_V < 56) & (_around(BACK) < 26)] = p.bag_second
        t[(_V > 12) & (_V < 16)] = _dim(p.bag_colour, 140)
    elif p.bag == "suitcase":
        t[_C % 16 < 4] = _dim(p.bag_colour, 170)
    elif p.bag == "tote":
        t[(_V > 20) & (_V < 46)] = p.bag_second
    else:
        t[_V < 20] = _dim(p.bag_colour, 180)
        t[(_V >= 20) & (_V < 27)] = p.bag_second
    return t


@functools.lru_cache(maxsize=192)
def textures(p: Person) -> dict[str, np.ndarray]:
    """Return all textures of a person by body part, each uint8 [64, 128, 3]."""
    arm, forearm = sleeve(p)
    thigh, shin = legs(p)
    shoe = plain(p.shoe_colour)
    shoe[_V > 48] = _dim(p.shoe_colour, 200)
    held = plain(p.details.held_colour) if p.details is not None else plain(p.bag_colour)
    return _roughened(p, {
        "torso": torso(p), "arm": arm, "forearm": forearm, "thigh": thigh, "shin": shin,
        "skirt": skirt(p), "head": head(p), "bag": bag(p), "shoe": shoe,
        "skin": plain(p.skin), "hair": plain(p.hair), "hat": plain(p.hat_colour),
        "hips": plain(p.upper_colour if p.upper in ("coat", "dress") else p.lower_colour),
        "sole": plain(p.sole), "hood": plain(_dim(p.upper_colour, 220)),
        "scarf": plain(p.scarf or p.skin), "held": held,
    })  # fmt: skip


def _roughened(p: Person, tex: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the grain of the cloth, where people have details."""
    if p.details is None or not p.details.grain:
        return tex
    s = Stream(79, p.details.print[1])
    share = 256 + (s.bytes(ROWS, COLUMNS).astype(np.int32) - 128) * p.details.grain // 128
    woven = ("torso", "arm", "forearm", "thigh", "shin", "skirt", "hips", "hood", "hat", "bag")
    return {
        name: np.clip(t * share[..., None] >> 8, 0, 255).astype(np.uint8) if name in woven else t
        for name, t in tex.items()
    }
