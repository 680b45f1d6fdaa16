"""Domains drawn at random: a domain is a number, from which its cameras and wardrobe follow.

Numbers below the four named domains' count are their tables. Higher ones are drawn: positions,
light, colours, resolution and defects of six cameras, and the clothes of people, between summer
and winter. Long tails are meant: dark and pale clothes are frequent, vivid ones rare.
"""

import functools

from jaxreid.data.synthetic.backdrop import FLOORS, THINGS, WALLS
from jaxreid.data.synthetic.camera import Camera, Colour
from jaxreid.data.synthetic.domains import CAMERAS
from jaxreid.data.synthetic.stream import Stream
from jaxreid.data.synthetic.wardrobe import COLOURS, WARDROBES, Wardrobe, Weights

# Domains of one seed.
MOST = 1000
_CAMERAS = 6
_OCCLUDERS = ("pole", "column", "bench", "rail", "planter", "bike", "luggage", "person", "person")
_CLOTHES = tuple(name for name in COLOURS if not name.startswith(("skin", "hair")))
_COMMON: Weights = {"black": 9, "charcoal": 4, "grey": 4, "silver": 1.5, "white": 8, "navy": 3,
                    "cream": 1.4, "denim": 1.4, "blue": 1.2, "red": 1.1}  # fmt: skip
_HAIR: Weights = {"hair black": 8, "hair brown": 4, "hair light": 1.2, "hair blond": 1,
                  "hair grey": 0.8, "hair red": 0.3}  # fmt: skip
_BELOW: Weights = {"black": 6, "charcoal": 2, "grey": 2, "navy": 2, "denim": 4, "pale denim": 1.6,
                   "tan": 1.4, "olive": 0.9, "brown": 0.8, "white": 0.9, "cream": 0.7}  # fmt: skip


def number(seed: int, place: int) -> int:
    """Return the number of a drawn domain, the `place`-th (below MOST) of a seed."""
    return len(CAMERAS) + MOST * seed + place


@functools.lru_cache(maxsize=64)
def cameras_of(domain: int) -> tuple[Camera, ...]:
    """Return the cameras of a domain, given by number."""
    if domain < len(CAMERAS):
        return CAMERAS[domain]
    s = Stream(domain, 40)
    indoors = s.chance(0.3)
    return tuple(_camera(Stream(domain, 41, k), indoors) for k in range(_CAMERAS))


@functools.lru_cache(maxsize=64)
def wardrobe_of(domain: int) -> Wardrobe:
    """Return the wardrobe of a domain, given by number."""
    return WARDROBES[domain] if domain < len(WARDROBES) else _wardrobe(Stream(domain, 42))


def _camera(s: Stream, indoors: bool) -> Camera:
    pitch = round(4 + 30 * s.unit() * s.unit())
    horizon = 215 - round(10.5 * pitch) + s.integer(-20, 20)
    warmth = s.integer(-26, 26) if not s.chance(0.15) else s.integer(-48, 48)
    level = s.integer(236, 276)
    # A lamp or a cheap sensor; seldom a camera that sees hardly any colour.
    grey = s.chance(0.03)
    sharp = s.chance(0.45)
    return Camera(
        at=(s.integer(0, 120), s.integer(0, 120)),
        facing=s.integer(0, 359),
        pitch=pitch,
        horizon=horizon,
        foot=max(0, horizon + s.integer(70, 110)),
        floor=(s.choice(FLOORS), _surface(s, 70, 210)),
        wall=(s.choice(WALLS), _surface(s, 40, 200)),
        things=tuple(s.shuffled(THINGS)[: s.integer(2, 6)]),
        light=s.integer(-180, 180),
        ambient=s.integer(120, 220) if indoors else s.integer(80, 235),
        gain=(level + warmth, level + s.integer(-9, 9), level - warmth),
        curve=s.uniform(-0.3, 0.7),
        contrast=s.integer(216, 330),
        lift=s.integer(0, 12) if s.chance(0.7) else s.integer(8, 36),
        saturation=s.integer(20, 60) if grey else s.integer(140, 270),
        lines=s.integer(110, 160) if s.chance(0.6) else s.integer(56, 110),
        blur=s.uniform(0.0, 0.35) if sharp else s.uniform(0.0, 1.1),
        noise=s.integer(0, 8) if s.chance(0.7) else s.integer(6, 24),
        quality=(s.integer(35, 70), s.integer(75, 95)),
        occluders=tuple(s.shuffled(_OCCLUDERS)[:3]),
        hidden=s.uniform(0.05, 0.22),
        slop=s.uniform(0.6, 1.6),
        shadows=0.0 if indoors else s.uniform(0.0, 0.35),
        rich=True,
        sharpen=s.integer(40, 180) if sharp else 0,
        vary=s.integer(4, 40),
        interlaced=s.chance(0.04),
    )


def _surface(s: Stream, low: int, high: int) -> Colour:
    """Return the colour of a floor or wall: mostly stone, sometimes painted."""
    tone = s.integer(low, high)
    spread = 9 if s.chance(0.75) else 34
    return tuple(min(235, max(20, tone + s.integer(-spread, spread))) for _ in range(3))


def _reweighted(s: Stream, weights: Weights, factor: float = 2.5) -> Weights:
    """Multiply weights by random factors in [1 / factor^2, factor^2]; few, strong preferences."""
    return {k: w * factor ** (round(s.uniform(-2, 2) * 8) / 8) for k, w in weights.items()}


def _wardrobe(s: Stream) -> Wardrobe:
    winter = s.unit()
    summer = 1 - winter
    every = dict.fromkeys(_CLOTHES, 0.45)
    uppers = {
        "tshirt": 7 * summer + 0.8, "tank": summer, "shirt": 2.5, "blouse": 1.4,
        "dress": 1.8 * summer + 0.2, "hoodie": 2.2, "jacket": 3.5 * winter + 0.8,
        "coat": 3.5 * winter, "puffer": 3.5 * winter, "suit": 0.8,
    }  # fmt: skip
    lowers = {"trousers": 5 + 4 * winter, "shorts": 4.5 * summer, "cropped": 1.2,
              "skirt": 1.8 * summer + 0.4, "long_skirt": 0.6}  # fmt: skip
    patterns = {"plain": 12, "stripes": 1, "bars": 0.5, "check": 1, "dots": 0.4, "two-tone": 0.8,
                "band": 0.6, "flowers": 0.6, "quilt": 0.5, "print": 1.8}  # fmt: skip
    bags = {"none": 5, "backpack": 3, "shoulder": 2.2, "tote": 1.2, "handbag": 1, "suitcase": 0.4}
    hats = {"none": 9, "cap": 1, "beanie": 1.5 * winter, "sunhat": 0.5 * summer,
            "hood": 0.8 * winter}  # fmt: skip
    return Wardrobe(
        uppers=_reweighted(s, uppers, 1.8),
        upper_colours=_reweighted(s, every | _COMMON, 1.8),
        patterns=_reweighted(s, patterns, 1.6),
        lowers=_reweighted(s, lowers, 1.6),
        lower_colours=_reweighted(s, dict.fromkeys(_CLOTHES, 0.2) | _BELOW, 1.8),
        accents=_reweighted(s, dict.fromkeys(_CLOTHES, 1.0), 1.6),
        shoes=_reweighted(s, {"trainers": 5, "shoes": 2, "boots": 2 * winter, "sandals": summer}),
        shoe_colours=_reweighted(s, dict.fromkeys(_CLOTHES, 0.3) | {"white": 4, "black": 5}),
        bags=_reweighted(s, bags, 1.6),
        bag_colours=_reweighted(s, dict.fromkeys(_CLOTHES, 0.6) | {"black": 6, "brown": 2}, 1.6),
        hats=_reweighted(s, hats, 1.6),
        printed=("tshirt", "tank", "hoodie", "jacket", "puffer"),
        logos=s.uniform(0.2, 0.7),
        scarves=0.3 * winter,
        side_stripes=s.uniform(0.02, 0.2),
        spread=s.integer(14, 40),
        hair=_reweighted(s, _HAIR, 1.5),
        rich=True,
    )
