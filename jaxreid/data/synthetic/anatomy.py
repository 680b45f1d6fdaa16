"""Body of a walking person as tubes in space: joints, and what is worn on them.

Body coordinates are in metres: x to the person's left, y forward, z up from the floor.
"""

import dataclasses
import functools
import math

import numpy as np

from jaxreid.data.synthetic.garments import textures
from jaxreid.data.synthetic.people import Person
from jaxreid.data.synthetic.tubes import cosine, profile, sine

# Everybody has the same height, since a detector's box hides how tall people are.
HEIGHT = 1.75
Point = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Pose:
    """Pose of a person in front of the camera.

    Attributes:
        yaw: degrees; 0 faces the camera, 90 turns the person's front to the left of the picture.
        phase: degrees of the walking cycle.
        standing: no steps, arms down.
        bent: the forearm on the side without a bag is raised (a phone in the hand).
        folds: index of the creases, and their shift along and around a tube.
    """

    yaw: int
    phase: int
    standing: bool = False
    bent: bool = False
    folds: tuple[int, int, int] = (0, 0, 0)
    hands: str = "swing"  # "pockets", "front", "raised", "behind"


@dataclasses.dataclass(frozen=True)
class Part:
    """Tube of the body, in body coordinates."""

    a: Point
    b: Point
    wide: np.ndarray  # float64 [64], half width in metres seen from the front
    deep: float  # depth as a share of the width
    texture: np.ndarray
    layer: float  # larger is nearer to the camera, added to the depth
    cloth: bool = True


@functools.lru_cache(maxsize=4096)
def _tube(knots: tuple, cap: tuple[float, float]) -> np.ndarray:
    return profile(*knots, cap=cap)


def _limb(top: float, bottom: float, round_off: float = 0.08) -> np.ndarray:
    return _tube(((0, top), (1, bottom)), (round_off, round_off))


def _link(a: Point, b: Point, top: float, bottom: float, texture, layer: float, cloth=True) -> Part:
    """Return a limb that extends slightly beyond both of its joints, so that joints close."""
    length = math.sqrt(sum((q - r) * (q - r) for q, r in zip(a, b, strict=True)))
    over_a, over_b = 0.7 * top / length, 0.7 * bottom / length
    start = tuple(q - (r - q) * over_a for q, r in zip(a, b, strict=True))
    end = tuple(r + (r - q) * over_b for q, r in zip(a, b, strict=True))
    caps = (round(top / length * 0.85, 2), round(bottom / length * 0.85, 2))
    half = _tube(((0, round(top, 4)), (1, round(bottom, 4))), caps)
    return Part(start, end, half, 1, texture, layer, cloth=cloth)


def _swing(origin: Point, length: float, degrees: int, side: float = 0.0) -> Point:
    """Return the end of a limb hanging from `origin`, swung forward by `degrees`."""
    return (
        origin[0] + side,
        origin[1] + length * sine(degrees),
        origin[2] - length * cosine(degrees),
    )


def _legs(p: Person, pose: Pose, tex: dict) -> list[Part]:
    parts = []
    hip_z = p.legs * HEIGHT
    thigh_length, shin_length = hip_z * 0.47, hip_z * 0.45
    loose = {"trousers": 1.12, "cropped": 1.05, "shorts": 1.25}.get(p.lower, 0.92)
    g = 0.5 + 0.5 * p.girth
    for side in (-1, 1):
        phase = pose.phase if side > 0 else pose.phase + 180
        thigh = 0 if pose.standing else round(p.stride * sine(phase))
        bend = max(0.0, cosine(phase))
        knee = 4 if pose.standing else round(6 + 42 * bend * bend)
        hip = (side * p.hips * 0.56, 0.0, hip_z)
        knee_at = _swing(hip, thigh_length, thigh)
        ankle = _swing(knee_at, shin_length, thigh - knee, -side * 0.012)
        lift = min(ankle[2], 0.1)
        tilt = thigh - knee
        toe = (
            ankle[0] + side * 0.03,
            ankle[1] + 0.17 * cosine(tilt),
            ankle[2] - lift * 0.62 + min(0.0, 0.17 * sine(tilt)),
        )
        heel = (ankle[0], ankle[1] - 0.06, ankle[2] - lift * 0.5)
        covered = p.lower in ("trousers", "cropped")
        wide = (0.068 * g * loose, 0.056 * g * loose) if covered else (0.062 * g, 0.044 * g)
        near = side * 1e-3
        layer = -0.6 + near
        parts.append(Part(heel, toe, _limb(0.048, 0.043, 0.25), 1, tex["shoe"], layer, cloth=False))
        parts.append(
            Part(
                (heel[0], heel[1], heel[2] - 0.035), (toe[0], toe[1], toe[2] - 0.03),
                _limb(0.026, 0.024, 0.2), 1, tex["sole"], layer - 0.01, cloth=False,
            )
        )  # fmt: skip
        parts.append(_link(knee_at, ankle, *wide, tex["shin"], layer + 0.02, covered))
        thigh_wide = (0.094 * g * loose, 0.07 * g * loose)
        cloth = p.lower not in ("skirt", "long_skirt")
        parts.append(_link(hip, knee_at, *thigh_wide, tex["thigh"], layer + 0.04, cloth))
    return parts


def _trunk(p: Person, tex: dict) -> list[Part]:
    hip_z, top = p.legs * HEIGHT, 0.835 * HEIGHT
    g, hem = p.girth, hip_z - 0.06
    d = p.details
    if d is not None and p.upper != "dress":
        hem -= d.hem
    thick = {"puffer": 1.16, "coat": 1.08, "hoodie": 1.08, "jacket": 1.06, "tank": 0.96}
    k = thick.get(p.upper, 1.0)
    waist = (0.135 if p.hips > 0.16 else 0.148) * g * k
    hips = p.hips * (0.6 + 0.4 * g)
    shape = (
        (0, 0.085), (0.06, p.shoulders * 0.86 * k), (0.2, p.shoulders * 0.9 * k),
        (0.62, waist), (1, hips * k),
    )  # fmt: skip
    if d is not None:
        shape = (*shape[:3], (0.62, waist + d.belly), (1, hips * k))
    parts = [
        Part((0, 0, hip_z + 0.1), (0, 0, hip_z - 0.1),
              _tube(((0, hips), (1, hips * 0.9)), (0, 0.3)), 0.7, tex["hips"], -0.45),
        Part((0, -0.01, top), (0, 0, hem), _tube(shape, (0.02, 0.04)), 0.62 + 0.1 * (g - 0.8),
              tex["torso"], 0.0),
    ]  # fmt: skip
    tails = {"coat": 0.30, "dress": 0.36}.get(p.upper)
    if tails is None:
        tails = {"skirt": 0.34, "long_skirt": 0.68}.get(p.lower)
    if tails is not None:
        flare = 1.08 if p.upper == "coat" else 1.32
        high = hip_z + 0.06
        fall = _tube(((0, hips * k), (0.3, hips * k * 1.1), (1, hips * k * flare)), (0, 0.02))
        layer = 0.01 if p.upper in ("coat", "dress") else -0.05
        parts.append(Part((0, 0, high), (0, 0, hip_z - tails), fall, 0.74, tex["skirt"], layer))
    parts.append(Part((0, 0, 0.88 * HEIGHT), (0, 0, 0.82 * HEIGHT), _limb(0.058, 0.066, 0.02), 1,
                       tex["skin"], 0.005, cloth=False))  # fmt: skip
    if p.scarf is not None:
        wrap = _tube(((0, 0.085), (1, 0.105)), (0.3, 0.4))
        high, low = (0, 0, 0.875 * HEIGHT), (0, 0, 0.81 * HEIGHT)
        parts.append(Part(high, low, wrap, 0.95, tex["scarf"], 0.02))
    return parts


def _head(p: Person, tex: dict) -> list[Part]:
    r, middle = 0.088 * p.head, 0.93 * HEIGHT
    crown, chin = middle + 0.128 * p.head, middle - 0.118 * p.head
    shape = _tube(((0, r), (0.5, r), (0.8, r * 0.86), (1, r * 0.62)), (0.42, 0.2))
    parts = [Part((0, 0.01, crown), (0, 0.02, chin), shape, 1.16, tex["head"], 0.06, cloth=False)]

    def add(a, b, half, deep, texture, layer, cloth=False):
        parts.append(Part(a, b, half, deep, tex[texture], layer, cloth=cloth))

    style = "none" if p.hat == "hood" else p.hair_style
    if style == "long":
        hair = _tube(((0, r * 1.05), (0.3, r * 1.2), (1, r * 1.15)), (0.3, 0.12))
        add((0, -0.035, crown), (0, -0.06, middle - 0.36), hair, 0.7, "hair", 0.0, True)
    elif style == "bob":
        hair = _tube(((0, r * 1.1), (0.5, r * 1.3), (1, r * 1.32)), (0.35, 0.1))
        add((0, -0.03, crown + 0.01), (0, -0.035, chin + 0.01), hair, 0.9, "hair", 0.0, True)
    elif style == "ponytail":
        add((0, -0.11, middle + 0.06), (0, -0.16, middle - 0.24), _limb(0.04, 0.026, 0.3), 1,
            "hair", 0.02)  # fmt: skip
    elif style == "bun":
        add((0, -0.08, crown + 0.05), (0, -0.09, crown - 0.06), _limb(0.056, 0.056, 0.5), 1,
            "hair", 0.03)  # fmt: skip
    elif style == "afro":
        add((0, -0.02, crown + 0.06), (0, -0.03, middle - 0.06), _limb(0.145, 0.13, 0.45), 1,
            "hair", -0.02, True)  # fmt: skip
    if p.hat in ("cap", "beanie", "sunhat"):
        low = crown - (0.09 if p.hat == "cap" else 0.11)
        half = _tube(((0, r * 0.98), (1, r * 1.1)), (0.6, 0.02))
        add((0, 0, crown + 0.03), (0, 0.01, low), half, 1.14, "hat", 0.12)
        if p.hat == "cap":
            add((0, 0.06, low + 0.02), (0, 0.19, low), _limb(0.07, 0.06, 0.2), 0.25, "hat", 0.12)
        elif p.hat == "sunhat":
            add((0, 0, low + 0.03), (0, 0, low - 0.01), _limb(0.17, 0.18, 0.1), 1, "hat", 0.125)
        else:
            add((0, 0, crown + 0.06), (0, 0, crown + 0.01), _limb(0.03, 0.03, 0.4), 1, "hat", 0.11)
    elif p.hat == "hood":
        half = _tube(((0, r * 1.2), (0.6, r * 1.3), (1, r * 1.15)), (0.4, 0.1))
        add((0, -0.035, crown + 0.03), (0, -0.03, chin - 0.02), half, 1, "hood", 0.0, True)
    return parts


def _arms(p: Person, pose: Pose, tex: dict) -> list[Part]:
    parts = []
    top = 0.786 * HEIGHT
    bulk = {"puffer": 1.38, "coat": 1.22, "hoodie": 1.2, "jacket": 1.18, "suit": 1.12}
    k = bulk.get(p.upper, 0.96) * (0.55 + 0.45 * p.girth)
    held = p.bag in ("tote", "handbag", "suitcase")
    for side in (-1, 1):
        phase = pose.phase + (180 if side > 0 else 0)
        angle = 0 if pose.standing else round(p.swing * sine(phase))
        bend = 14 + max(0, angle // 2)
        if held and side == p.bag_side:
            angle, bend = angle // 4 - (8 if p.bag == "suitcase" else 0), 4
        elif pose.bent and side != p.bag_side:
            angle, bend = 12, 96
        out = 0.0
        if pose.hands != "swing" and not (held and side == p.bag_side):
            hands = {"pockets": (-14, 52), "front": (14, 88), "behind": (-26, 20)}
            # Raised: one hand at the ear, or shading the eyes.
            angle, bend = hands.get(pose.hands, (38, 128) if side == p.bag_side else (angle, bend))
            out = side * 0.05 if pose.hands == "pockets" else 0.0
        shoulder = (side * (p.shoulders * 0.88 + 0.008 * k), -0.01, top)
        elbow = _swing(shoulder, 0.29, angle, side * 0.045 + out)
        inward = 0.13 if pose.hands in ("front", "behind") else 0.012
        hand = _swing(elbow, 0.25, angle + bend, -side * inward - out)
        tip = (hand[0], hand[1] + (hand[1] - elbow[1]) * 0.3, hand[2] + (hand[2] - elbow[2]) * 0.3)
        bare = p.upper in ("tshirt", "tank", "dress")
        parts.append(Part(hand, tip, _limb(0.037, 0.03, 0.35), 1, tex["skin"], 0.1, cloth=False))
        parts.append(
            _link(shoulder, elbow, 0.055 * k, 0.046 * k, tex["arm"], 0.1, p.upper != "tank")
        )
        parts.append(_link(elbow, hand, 0.046 * k, 0.036 * k, tex["forearm"], 0.11, not bare))
        if held and side == p.bag_side:
            parts += _hand_luggage(p, side, hand, tex)
    return parts


def _hand_luggage(p: Person, side: int, hand: Point, tex: dict) -> list[Part]:
    x, y, z = hand[0] + side * 0.03, hand[1], hand[2]
    if p.bag == "suitcase":
        half = _tube(((0, 0.17), (1, 0.17)), (0.06, 0.06))
        return [
            Part((x, y - 0.06, z), (x, y - 0.24, 0.5), _limb(0.012, 0.012), 1, tex["sole"], 0.0),
            Part(
                (x, y - 0.28, 0.62), (x, y - 0.3, 0.05), half, 0.75, tex["bag"], 0.05, cloth=False
            ),
        ]
    big = p.bag == "tote"
    half = _tube(((0, 0.13), (1, 0.17)), (0.03, 0.1)) if big else _limb(0.12, 0.13, 0.12)
    high, low = (z - 0.1, z - 0.44) if big else (z - 0.05, z - 0.24)
    # A bag in the hand is thin from the front and wide from the side.
    return [Part((x, y, high), (x, y, low), half * 0.42, 2.1, tex["bag"], 0.12, cloth=False)]


def _carried(p: Person, tex: dict) -> list[Part]:
    if p.bag == "backpack":
        half = _tube(((0, 0.13), (0.3, 0.155), (1, 0.16)), (0.18, 0.1))
        high, low = (0, -0.2, 0.83 * HEIGHT), (0, -0.22, 0.56 * HEIGHT)
        return [Part(high, low, half, 0.66, tex["bag"], 0.02, cloth=False)]
    if p.bag == "shoulder":
        x = p.bag_side * (p.hips + 0.05)
        half = _limb(0.055, 0.065, 0.12)
        high, low = (x, -0.01, 0.6 * HEIGHT), (x, -0.01, 0.45 * HEIGHT)
        return [Part(high, low, half, 2.0, tex["bag"], 0.2, cloth=False)]
    return []


def _held(p: Person, pose: Pose, tex: dict) -> list[Part]:
    """Return the objects that people of drawn domains hold."""
    d = p.details
    side = -p.bag_side
    if d is None or d.holds == "none":
        return []
    if d.holds == "umbrella":
        half = _tube(((0, 0.02), (0.5, 0.4), (1, 0.52)), (0.1, 0.0))
        stick = Part((side * 0.15, 0.2, 1.0), (side * 0.12, 0.14, 2.0), _limb(0.01, 0.01), 1,
                     tex["sole"], 0.1, cloth=False)  # fmt: skip
        return [stick, Part((side * 0.1, 0.12, 2.08), (side * 0.1, 0.12, 1.84), half, 1,
                            tex["held"], 0.3, cloth=False)]  # fmt: skip
    if d.holds == "box":
        half = _tube(((0, 0.17), (1, 0.17)), (0.02, 0.02))
        return [Part((0, 0.27, 1.22), (0, 0.27, 0.98), half, 0.7, tex["held"], 0.2, cloth=False)]
    x, y, z = side * (p.shoulders + 0.06), 0.04, 0.44 * HEIGHT
    if d.holds == "bottle":
        return [Part((x, y + 0.1, z + 0.12), (x, y + 0.1, z - 0.1), _limb(0.03, 0.035, 0.2), 1,
                     tex["held"], 0.14, cloth=False)]  # fmt: skip
    half = _tube(((0, 0.05), (0.3, 0.1), (1, 0.12)), (0.05, 0.15))
    return [Part((x, y, z), (x, y, z - 0.32), half, 1.2, tex["held"], 0.12, cloth=False)]


def _leaning(parts: list[Part], degrees: int, pivot: float) -> list[Part]:
    """Bend what is above `pivot` (metres) forward."""
    s = sine(degrees)

    def bent(q: Point) -> Point:
        return (q[0], q[1] + max(0.0, q[2] - pivot) * s, q[2])

    return [dataclasses.replace(part, a=bent(part.a), b=bent(part.b)) for part in parts]


def body(p: Person, pose: Pose) -> list[Part]:
    """Return the parts of a person, in any order."""
    tex = textures(p)
    parts = _legs(p, pose, tex) + _trunk(p, tex) + _head(p, tex) + _arms(p, pose, tex)
    parts += _carried(p, tex)
    if p.details is None:
        return parts
    return _leaning(parts + _held(p, pose, tex), p.details.lean, p.legs * HEIGHT)
