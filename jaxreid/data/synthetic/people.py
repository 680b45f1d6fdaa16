"""People: body, hair, outfit and bag, and which of them dress alike."""

import dataclasses
import functools

from jaxreid.data.synthetic.drawn_domains import wardrobe_of
from jaxreid.data.synthetic.stream import Stream
from jaxreid.data.synthetic.wardrobe import COLOURS, SKIN, Wardrobe

Colour = tuple[int, int, int]

# Roles of people: training, test, distractors of the gallery.
TRAIN, TEST, OTHER = 0, 1, 2
# People are drawn in blocks of four; outfits repeat only within a block.
_BLOCK = 4
_TROUSERS = ("trousers", "shorts", "cropped")
# Outfit number of each person of a block: half of the people have a look-alike.
_SHARING = (
    (0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3), (0, 0, 1, 2), (0, 0, 1, 2), (0, 0, 1, 1),
    (0, 0, 0, 1), (0, 0, 0, 0),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Person:
    """Appearance of a person that all cameras share."""

    girth: float  # 1 is average
    shoulders: float  # half width in metres
    hips: float
    legs: float  # share of the height below the hip joint
    head: float  # scale
    skin: Colour
    hair: Colour
    hair_style: str
    beard: bool
    hat: str
    hat_colour: Colour
    scarf: Colour | None
    upper: str
    upper_colour: Colour
    upper_second: Colour
    pattern: str
    period: int  # period of the pattern in texture rows
    logo: str
    logo_place: str
    logo_colour: Colour
    inner: Colour  # shirt under an open jacket
    lower: str
    lower_colour: Colour
    side_stripe: Colour | None
    shoes: str
    shoe_colour: Colour
    sole: Colour
    bag: str
    bag_colour: Colour
    bag_second: Colour
    bag_side: int  # -1: the person's right, 1: left
    stride: int  # swing of the thighs, degrees
    swing: int  # swing of the arms, degrees
    details: "Details | None" = None


@dataclasses.dataclass(frozen=True)
class Details:
    """Additional attributes of people in drawn domains."""

    print: tuple[int, int] = (0, 0)  # kind and seed of a printed cloth
    third: Colour = (0, 0, 0)  # third colour of a print
    sleeves: str = "own"  # "own": of the garment; "bare", "short", "half", "long"
    sleeve_colour: Colour | None = None  # of raglan sleeves, or of those under a vest
    open: bool = False  # a shirt or hoodie worn open
    hem: float = 0.0  # metres by which the upper garment is longer
    waistband: Colour | None = None
    wash: int = 0  # how much thighs of trousers are faded, 256ths
    socks: Colour | None = None
    lower_print: int = 0  # seed of the print of trousers, shorts or a skirt; 0: plain
    grain: int = 0  # roughness of the cloth, 256ths
    lean: int = 0  # degrees forward
    belly: float = 0.0  # metres
    holds: str = "none"  # "bag", "box", "umbrella", "bottle"
    held_colour: Colour = (0, 0, 0)
    glasses: bool = False
    lanyard: Colour | None = None


def _colour(stream: Stream, weights: dict[str, float], spread: int = 14) -> Colour:
    base = COLOURS[stream.weighted(weights)]
    shift = stream.integer(-spread, spread)
    return tuple(
        min(250, max(8, c + shift + stream.integer(-spread // 2, spread // 2))) for c in base
    )


def _distinct(stream: Stream, weights: dict[str, float], other: Colour) -> Colour:
    """Return a colour that even a bad camera distinguishes from `other`."""
    for _ in range(12):
        colour = _colour(stream, weights)
        if sum(abs(a - b) for a, b in zip(colour, other, strict=True)) > 150:
            return colour
    return (236, 234, 228) if sum(other) < 380 else (28, 28, 34)


def _body(s: Stream, w: Wardrobe) -> dict:
    broad = s.chance(0.5)
    bald = broad and s.chance(0.12)
    styles = w.short_hair if broad else w.long_hair
    return {
        "girth": s.uniform(0.84, 1.26),
        "shoulders": s.uniform(0.2, 0.235) if broad else s.uniform(0.175, 0.205),
        "hips": s.uniform(0.135, 0.16) if broad else s.uniform(0.15, 0.185),
        "legs": s.uniform(0.49, 0.535),
        "head": s.uniform(0.95, 1.08),
        "skin": _colour(s, dict.fromkeys(SKIN, 1.0), 8),
        "hair": _colour(s, w.hair, 8),
        "hair_style": "bald" if bald else s.weighted(styles),
        "beard": broad and s.chance(0.3),
        "stride": s.integer(14, 25),
        "swing": s.integer(10, 28),
    }


def _logo(s: Stream, w: Wardrobe, upper: str, under: Colour) -> dict:
    wanted = upper in w.printed and s.chance(w.logos)
    shapes = ("disc", "ring", "square", "cross", "bar", "wedge", "letters", "heart", "star", "bolt")
    return {
        "logo": s.choice(shapes) if wanted else "none",
        "logo_place": s.weighted({"chest": 3, "back": 2, "both": 2, "belly": 1}),
        "logo_colour": _distinct(s, w.accents, under),
    }


def _bag(s: Stream, w: Wardrobe, upper_colour: Colour) -> dict:
    colour = _distinct(s, w.bag_colours, upper_colour)
    return {
        "bag": s.weighted(w.bags),
        "bag_colour": colour,
        "bag_second": _distinct(s, w.accents, colour),
        "bag_side": s.choice((-1, 1)),
    }


def _shoes(s: Stream, w: Wardrobe) -> dict:
    colour = _colour(s, w.shoe_colours, w.spread)
    return {
        "shoes": s.weighted(w.shoes),
        "shoe_colour": colour,
        "sole": _distinct(s, {"white": 1, "black": 1, "tan": 0.5}, colour),
    }


def _hat(s: Stream, w: Wardrobe, hair: Colour) -> dict:
    return {"hat": s.weighted(w.hats), "hat_colour": _distinct(s, w.accents, hair)}


def _outfit(s: Stream, w: Wardrobe) -> dict:
    upper = s.weighted(w.uppers)
    upper_colour = _colour(s, w.upper_colours, w.spread)
    lower = "skirt" if upper == "dress" else s.weighted(w.lowers)
    lower_colour = upper_colour if upper == "dress" else _colour(s, w.lower_colours, w.spread)
    plain = upper in ("suit", "coat") and not s.chance(0.2)
    return {
        "upper": upper,
        "upper_colour": upper_colour,
        "upper_second": _distinct(s, w.accents, upper_colour),
        "pattern": "plain" if plain else s.weighted(w.patterns),
        "period": s.choice((10, 14, 20)),
        "inner": _distinct(s, {"white": 3, "grey": 1, **w.accents}, upper_colour),
        "scarf": _distinct(s, w.accents, upper_colour) if s.chance(w.scarves) else None,
        "lower": lower,
        "lower_colour": lower_colour,
        "side_stripe": (
            _distinct(s, w.accents, lower_colour)
            if lower in ("trousers", "shorts") and s.chance(w.side_stripes)
            else None
        ),
    }


def _details(s: Stream, w: Wardrobe, look: dict) -> Details:
    upper, lower = look["upper"], look["lower"]
    held = s.weighted({"none": 8, "bag": 2, "box": 0.5, "umbrella": 0.4, "bottle": 0.8})
    return Details(
        print=(s.integer(0, 8), s.integer(1, 1 << 20)),
        third=_colour(s, w.accents, w.spread),
        sleeves=s.weighted({"own": 6, "short": 0.8, "half": 1, "long": 1.2, "bare": 0.4}),
        sleeve_colour=_colour(s, w.upper_colours, w.spread) if s.chance(0.1) else None,
        open=upper in ("shirt", "hoodie", "blouse") and s.chance(0.25),
        hem=s.uniform(-0.06, 0.12) if s.chance(0.6) else 0.0,
        waistband=_colour(s, w.shoe_colours, w.spread) if s.chance(0.25) else None,
        wash=s.integer(20, 110) if lower in ("trousers", "shorts", "cropped") else 0,
        socks=_colour(s, {"white": 3, "black": 2, **w.accents}) if s.chance(0.4) else None,
        lower_print=s.integer(1, 1 << 20) if s.chance(0.3 if "skirt" in lower else 0.07) else 0,
        grain=s.integer(0, 14),
        lean=s.integer(-3, 8),
        belly=s.uniform(0, 0.06) if s.chance(0.3) else 0.0,
        holds=held,
        held_colour=_colour(s, {"white": 2, **w.bag_colours}, w.spread),
        glasses=s.chance(0.2),
        lanyard=_colour(s, w.accents) if s.chance(0.04) else None,
    )


def _variation(s: Stream, w: Wardrobe, look: dict) -> dict:
    """Return some details in which a person differs from a look-alike."""
    change: dict = {}
    for detail in s.shuffled(("logo", "bag", "shoes", "hair", "pattern", "hem", "second"))[:5]:
        if detail == "logo":
            change |= _logo(s, w, look["upper"], look["upper_colour"])
        elif detail == "bag":
            change |= _bag(s, w, look["upper_colour"])
        elif detail == "shoes":
            change |= _shoes(s, w)
        elif detail == "hair":
            hair = _colour(s, w.hair, 8)
            styles = w.short_hair if look["hair_style"] in w.short_hair else w.long_hair
            change |= {"hair": hair, "hair_style": s.weighted(styles), **_hat(s, w, hair)}
        elif detail == "pattern":
            change |= {"pattern": s.weighted(w.patterns), "period": s.choice((10, 14, 20))}
        elif detail == "second":
            change["upper_second"] = _distinct(s, w.accents, look["upper_colour"])
            change["inner"] = _distinct(s, w.accents, look["upper_colour"])
        else:
            kin = ("skirt", "long_skirt") if "skirt" in look["lower"] else _TROUSERS
            change["lower"] = s.choice([lower for lower in kin if lower in w.lowers])
    return change


@functools.lru_cache(maxsize=256)
def person(seed: int, domain: int, role: int, index: int) -> Person:
    """Return person `index` of a role (TRAIN, TEST or OTHER), as a pure function of the arguments.

    The domain, given by number, determines the wardrobe.
    """
    w = wardrobe_of(domain)
    block, place = divmod(index, _BLOCK)
    family = Stream(seed, domain, 10, role, block).choice(_SHARING)[place]
    s = Stream(seed, domain, 11, role, block, family)
    look = _outfit(s, w)
    body = _body(s, w)
    look |= body | _logo(s, w, look["upper"], look["upper_colour"])
    look |= _bag(s, w, look["upper_colour"]) | _shoes(s, w) | _hat(s, w, body["hair"])
    own = Stream(seed, domain, 12, role, index)
    # Look-alikes share clothes but not bodies; often they also share hair.
    fresh = _body(own, w)
    keep = ("hair", "hair_style", "beard", "skin") if own.chance(0.4) else ("hair_style", "beard")
    look |= {k: v for k, v in fresh.items() if k not in keep}
    look |= _variation(own, w, look)
    if w.rich:
        # Look-alikes share the cloth, not what they hold.
        details = _details(Stream(seed, domain, 13, role, block, family), w, look)
        other = _details(Stream(seed, domain, 14, role, index), w, look)
        fresh_ones = ("lean", "belly", "holds", "held_colour", "glasses", "lanyard", "socks")
        look["details"] = dataclasses.replace(
            details, **{name: getattr(other, name) for name in fresh_ones}
        )
    if look["hair_style"] not in w.short_hair and look["hair_style"] != "bald":
        look["beard"] = False
    return Person(**look)
