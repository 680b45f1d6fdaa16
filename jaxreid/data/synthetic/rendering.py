"""Rendering of a planned sighting to JPEG; a pure function, so any process can draw any picture."""

import dataclasses

import numpy as np
from PIL import Image

from jaxreid.data.synthetic.anatomy import HEIGHT, Pose
from jaxreid.data.synthetic.backdrop import HEIGHT as SCENE_HEIGHT
from jaxreid.data.synthetic.backdrop import WIDTH as SCENE_WIDTH
from jaxreid.data.synthetic.backdrop import scene
from jaxreid.data.synthetic.camera import Camera, develop
from jaxreid.data.synthetic.drawn_domains import cameras_of
from jaxreid.data.synthetic.figure import Eye, draw
from jaxreid.data.synthetic.people import OTHER, Person, person
from jaxreid.data.synthetic.stream import Stream
from jaxreid.data.synthetic.tubes import cosine, paint, plain, profile, shading, sine
from jaxreid.data.synthetic.walks import NOBODY, Plan

# Twice the size of the final picture.
_W, _H = 128, 256
# Range of indices of people who only occlude others.
_PASSERS_BY = (100_000, 100_039)
_FLAT = np.full(129, 256, np.int32)
_SHADOW = profile((0, 0.13), (1, 0.1), cap=(0.3, 0.3))
_DARK = plain((16, 16, 22))


def _place(camera: Camera, visit: Stream, shot: Stream, number: int, yaw: int) -> tuple[Eye, tuple]:
    """Choose the detector's box; return the view and the box in the scene (x0, y0, x1, y1)."""
    cut = visit.chance(0.1 if camera.rich else 0.06)
    zoom = shot.uniform(0.98, 1.02 + 0.12 * camera.slop)
    drift = visit.uniform(-5, 5) * camera.slop
    x = _W / 2 + drift + shot.uniform(-5, 5) * camera.slop
    tall = HEIGHT * cosine(camera.pitch) + 0.1
    if cut:
        zoom = visit.uniform(0.72, 0.9)
    scale = _H / (tall * zoom)
    spare = _H - tall * scale
    y = _H - 0.08 * scale - spare * 0.5 + shot.uniform(-6, 6) * camera.slop
    if cut:
        # The head is in the picture, the feet are not.
        y = 14 + tall * scale
    foot_y = visit.integer(max(camera.horizon + 190, 300), SCENE_HEIGHT - 40) + 3 * number
    # The cameras hang 3 metres above the floor.
    ratio = (foot_y - camera.horizon) / 3.0 / scale
    foot_x = visit.integer(60, SCENE_WIDTH - 60) + number * visit.integer(-14, 14)
    # A box as wide as the figure, resized to the shape of all pictures.
    stretch = 1.0
    if camera.rich:
        front, side = abs(cosine(yaw)), abs(sine(yaw))
        half = 0.3 * front + 0.31 * side
        fill = visit.uniform(0.62, 1.0) * shot.uniform(0.95, 1.05)
        stretch = min(1.6, max(0.8, 0.5 * _W * fill / (half * scale)))
    wide, high = round(_W * ratio / stretch), round(_H * ratio)
    wide, high = min(wide, SCENE_WIDTH), min(high, SCENE_HEIGHT)
    x0 = min(max(0, round(foot_x - x * ratio)), SCENE_WIDTH - wide)
    y0 = min(max(0, round(foot_y - y * ratio)), SCENE_HEIGHT - high)
    light, ambient = camera.light + visit.integer(-12, 12), camera.ambient
    if camera.rich:
        # Sun and clouds, rounded so that the tables of shades are few.
        light = (light + visit.integer(-4, 4) * 8 + 180) % 360 - 180
        ambient = min(248, max(60, ambient + visit.integer(-5, 5) * 8))
    eye = Eye(x, y, scale, camera.pitch, light, ambient, stretch)
    return eye, (x0, y0, x0 + wide, y0 + high)


def _shadow(canvas: np.ndarray, eye: Eye, depth: int) -> None:
    """Draw the shadow on the floor, away from the light."""
    long = eye.scale * 0.55
    dx = -long if 0 < eye.light < 180 else long
    end = (eye.x + dx, eye.y - long * 0.25)
    paint(
        canvas, (eye.x - dx * 0.2, eye.y), end, _SHADOW * eye.scale, _DARK, 0, _FLAT, opacity=depth
    )


def _pose(
    yaw: int, s: Stream, phase: int, standing: bool, bent: bool, hands: str = "swing"
) -> Pose:
    folds = (s.integer(0, 7), s.integer(0, 63), s.integer(0, 127))
    return Pose(yaw, phase, standing, bent, folds, hands)


def _neighbour(canvas, seed, domain, who, eye: Eye, side: int, near: bool, s: Stream) -> None:
    """Draw another person partly in the picture, behind or in front of the main one."""
    away = s.uniform(0.46, 0.62) * eye.scale * eye.stretch * side
    lower = s.uniform(4, 14) * (1 if near else -1)
    size = eye.scale * (1 + lower / 160)
    other = dataclasses.replace(eye, x=eye.x + away, y=eye.y + lower, scale=size)
    pose = _pose(s.integer(0, 359), s, s.integer(0, 359), s.chance(0.2), False)
    draw(canvas, person(seed, domain, *who), pose, other)


def _box(canvas, x0: float, y0: float, x1: float, y1: float, colour, rim: int = 190) -> None:
    x0, x1 = max(0, round(x0)), min(_W, round(x1))
    y0, y1 = max(0, round(y0)), min(_H, round(y1))
    if x0 < x1 and y0 < y1:
        colour = np.array(colour, np.int32)
        canvas[y0:y1, x0:x1] = colour * rim // 256
        canvas[y0 + 2 : y1, x0 + 2 : x1 - 2] = colour


def _occlude(canvas: np.ndarray, kind: str, seed: int, domain: int, eye: Eye, s: Stream) -> None:
    """Draw an occluder between the camera and the person, in place."""
    light = shading(eye.light, eye.ambient)
    metre = eye.scale
    side = s.choice((-1, 1))
    if kind in ("pole", "column"):
        wide = s.uniform(0.04, 0.07) if kind == "pole" else s.uniform(0.15, 0.24)
        x = eye.x + side * s.uniform(0.06, 0.3) * metre + side * wide * metre
        colour = s.choice(((90, 94, 96), (150, 148, 142), (60, 66, 60)))
        paint(canvas, (x, -20), (x, _H + 20), np.full(64, wide * metre), plain(colour), 0, light)
    elif kind == "bench":
        y = eye.y - s.uniform(0.3, 0.55) * metre
        for k in range(3):
            _box(canvas, -4, y + 16 * k, _W + 4, y + 16 * k + 9, (118, 84, 54))
    elif kind == "rail":
        y = eye.y - s.uniform(0.75, 1.0) * metre
        for k in range(2):
            _box(canvas, -4, y + 44 * k, _W + 4, y + 44 * k + 7, (168, 172, 174))
        for k in range(3):
            _box(canvas, 20 + 44 * k, y, 26 + 44 * k, _H, (150, 154, 158))
    elif kind == "planter":
        y = eye.y - s.uniform(0.25, 0.4) * metre
        # Leaves.
        for _ in range(70):
            x, top, tone = s.integer(-10, _W), y - s.integer(-14, 34), s.integer(0, 70)
            wide = s.integer(6, 12)
            colour = (40 + tone * 2 // 3, 58 + tone, 36 + tone // 3)
            _box(canvas, x, top, x + wide, top + wide, colour, 200)
        _box(canvas, -4, y + 16, _W + 4, _H, (138, 126, 114))
    elif kind == "bike":
        y = eye.y - 0.4 * metre
        for wheel in (eye.x - 0.35 * metre, eye.x + 0.45 * metre):
            for spoke in range(-3, 4):
                _box(canvas, wheel + 9 * spoke, y + 2 * abs(spoke), wheel + 9 * spoke + 3,
                     eye.y - 2 * abs(spoke), (44, 46, 50))  # fmt: skip
        _box(canvas, eye.x - 0.4 * metre, y - 8, eye.x + 0.5 * metre, y, (170, 50, 44))
    elif kind == "luggage":
        x = eye.x + side * s.uniform(0.1, 0.34) * metre
        colour = s.choice(((40, 44, 52), (130, 40, 44), (44, 82, 120), (120, 120, 116)))
        half = profile((0, 0.2), (1, 0.2), cap=(0.08, 0.05)) * metre
        paint(canvas, (x, eye.y - 0.66 * metre), (x, eye.y + 8), half, plain(colour), 0, light)
    else:
        who = (OTHER, s.integer(*_PASSERS_BY))
        far = dataclasses.replace(eye, scale=metre * 1.06)
        _neighbour(canvas, seed, domain, who, far, side, True, s)


def render(
    seed: int, plan: Plan, *, look: Person | None = None, camera: Camera | None = None
) -> bytes:
    """Return the JPEG (128 rows, 64 columns) of a planned sighting.

    Args:
        seed: that of the plan.
        plan: the person, with place, time and viewing side.
        look: appearance of the person; by default the one that follows from the plan.
        camera: camera that takes the picture; by default that of the plan. Pose, place, light and
            noise stay those of the plan, so that pictures with another look or camera differ in
            nothing else.
    """
    domain = plan.domain
    cameras = cameras_of(domain)
    place = plan.camid % len(cameras)
    camera = camera or cameras[place]
    ghost = plan.index < NOBODY
    name = (plan.role, -plan.index if ghost else plan.index, int(ghost), place)
    visit = Stream(seed, domain, 30, *name)
    shot = Stream(seed, domain, 31, *name, plan.shot)
    eye, box = _place(camera, visit, shot, plan.shot, plan.yaw)
    empty = scene((domain, place), camera.floor, camera.wall, camera.things,
                  camera.horizon, camera.foot)  # fmt: skip
    cut_out = empty.resize((_W, _H), Image.Resampling.BILINEAR, box=box)
    canvas = np.array(cut_out, np.int32)
    side = visit.choice((-1, 1))
    hidden, kind = visit.chance(camera.hidden), visit.choice(camera.occluders)
    friend = plan.friend != NOBODY and visit.chance(0.35)
    who = (plan.role, plan.friend) if friend else (OTHER, visit.integer(*_PASSERS_BY))
    beside, before = friend or visit.chance(0.12), visit.chance(0.2)
    phase, pace = visit.integer(0, 359), visit.integer(50, 130)
    standing, bent = visit.chance(0.1), visit.chance(0.12)
    hands = "swing"
    if camera.rich:
        poses = {"swing": 7, "pockets": 1.2, "front": 1, "raised": 0.8, "behind": 0.5}
        hands = visit.weighted(poses)
    if ghost:
        x, y = eye.x + side * 0.4 * eye.scale, eye.y + visit.integer(-60, 120)
        eye = dataclasses.replace(eye, x=x, y=y, scale=eye.scale * 1.3)
    if beside and not before:
        _neighbour(canvas, seed, domain, who, eye, side, False, shot)
    if not ghost or visit.chance(0.5):
        _shadow(canvas, eye, 190 - camera.ambient // 2)
        index = 200_000 - plan.index if ghost else plan.index
        p = look or person(seed, domain, plan.role, index)
        draw(canvas, p, _pose(plan.yaw, shot, phase + pace * plan.shot, standing, bent, hands), eye)
    if beside and before:
        _neighbour(canvas, seed, domain, who, eye, side, True, shot)
    if hidden:
        _occlude(canvas, kind, seed, domain, eye, visit)
    return develop(np.clip(canvas, 0, 255).astype(np.uint8), camera, visit, shot)
