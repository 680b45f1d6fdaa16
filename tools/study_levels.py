"""Factors of `study_factors.py`: people seen by two cameras, and what each level changes of them.

Every person is seen once by a camera of the query and once by another of the gallery. A level
changes one property of all people or cameras. Poses, places, light and noise follow from the seed,
so that the pictures of two levels differ in nothing else. Occluders are the one exception: behind
them the light of a picture is drawn anew.
"""

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxreid.data.synthetic.camera import Camera
from jaxreid.data.synthetic.drawn_domains import cameras_of, number
from jaxreid.data.synthetic.people import TEST, Colour, Person, person
from jaxreid.data.synthetic.rendering import render
from jaxreid.data.synthetic.stream import Stream
from jaxreid.data.synthetic.walks import NOBODY, Plan
from jaxreid.data.synthetic.wardrobe import COLOURS, SKIN

# People of each domain, who all pass the same two cameras.
PER_DOMAIN = 10
# The first of every block of people who may dress alike: no two of the study do.
_BLOCK = 4
# What all cameras of the study share, so that each picture takes the same random numbers.
_STEADY: dict[str, Any] = {"hidden": 0.0, "interlaced": False, "quality": (80, 80)}
# Cameras that differ in light and colour by nothing but the level.
_NEUTRAL: dict[str, Any] = {
    "gain": (256, 256, 256), "curve": 0.0, "contrast": 256, "lift": 0, "saturation": 256, "vary": 0,
}  # fmt: skip
# What look-alikes do not share; of `Details`, too.
_BODY = ("girth", "shoulders", "hips", "legs", "head", "skin", "hair", "hair_style", "beard",
         "stride", "swing")  # fmt: skip
_BODY_DETAILS = ("lean", "belly", "glasses")
_PALETTES = {
    "black": ("black", "charcoal"),
    "grey": ("grey", "silver"),
    "white": ("white", "cream"),
    "red": ("red",),
    "vivid": ("red", "orange", "yellow", "lime", "green", "teal", "blue", "purple", "pink"),
}
_PLATE = (96, 98, 100)


@dataclasses.dataclass(frozen=True)
class View:
    """How one camera sees a person.

    Attributes:
        place: number of the camera in its domain.
        camera: its properties.
        yaw: degrees; 0 faces the camera.
        covered: share of the picture's rows, from below, that a grey plate covers.
    """

    place: int
    camera: Camera
    yaw: int
    covered: float = 0.0


@dataclasses.dataclass(frozen=True)
class Subject:
    """A person of the study: where it is drawn, its look, and the two views of it."""

    domain: int
    index: int
    look: Person
    query: View
    gallery: View

    def changed(self, **values: Any) -> "Subject":
        """Return a copy with another look."""
        return dataclasses.replace(self, look=dataclasses.replace(self.look, **values))

    def shots(self) -> tuple["Shot", "Shot"]:
        """Return the pictures of the query and of the gallery."""
        query, gallery = (
            Shot(self.domain, self.index, self.look, view) for view in (self.query, self.gallery)
        )
        return query, gallery


@dataclasses.dataclass(frozen=True)
class Shot:
    """One picture of a person: all that it depends on, beside the seed."""

    domain: int
    index: int
    look: Person
    view: View


@dataclasses.dataclass(frozen=True)
class Level:
    """One level of a factor: its name, and what it makes of the people as drawn."""

    name: str
    change: Callable[[Sequence[Subject]], list[Subject]]


@dataclasses.dataclass(frozen=True)
class Factor:
    """A property that is varied alone.

    Attributes:
        name: word of the command line.
        title: what the levels are, with the unit.
        where: "everybody", or "gallery" for the pictures of the second camera alone.
        levels: the first is the one that the others are compared with.
    """

    name: str
    title: str
    where: str
    levels: tuple[Level, ...]


def subjects(people: int, seed: int) -> list[Subject]:
    """Draw people and the cameras that see them, one domain after the other."""
    result = []
    for i in range(people):
        domain, index = number(seed, i // PER_DOMAIN), _BLOCK * (i % PER_DOMAIN)
        s = Stream(seed, domain, 50, index)
        views = [
            View(place, dataclasses.replace(cameras_of(domain)[place], **_STEADY), 5 * turn)
            for place, turn in enumerate((s.integer(0, 71), s.integer(0, 71)))
        ]
        result.append(Subject(domain, index, person(seed, domain, TEST, index), *views))
    return result


def picture(seed: int, shot: Shot) -> np.ndarray:
    """Draw a picture of a person, uint8 [128, 64, 3]."""
    plan = Plan(
        split="query", name="", pid=1, camid=shot.view.place, domain=shot.domain, time=0.0,
        role=TEST, index=shot.index, shot=0, yaw=shot.view.yaw, friend=NOBODY,
    )  # fmt: skip
    file = render(seed, plan, look=shot.look, camera=shot.view.camera)
    pixels = np.array(Image.open(io.BytesIO(file)))
    if shot.view.covered:
        pixels[round(len(pixels) * (1 - shot.view.covered)) :] = _PLATE
    return pixels


def dressed_as(look: Person, body: Person) -> Person:
    """Return another body in the clothes of `look`, with its bag and what it holds."""
    own = {name: getattr(body, name) for name in _BODY}
    details = look.details
    if details is not None and body.details is not None:
        values = {name: getattr(body.details, name) for name in _BODY_DETAILS}
        details = dataclasses.replace(details, **values)
    return dataclasses.replace(look, **own, details=details)


def _each(change: Callable[[Subject], Subject]) -> Callable[[Sequence[Subject]], list[Subject]]:
    return lambda people: [change(one) for one in people]


def _look(name: str, change: Callable[[Subject], dict[str, Any]]) -> Level:
    """Return a level that changes the look of everybody."""
    return Level(name, _each(lambda one: one.changed(**change(one))))


def _camera(name: str, both: bool = False, neutral: bool = False, **values: Any) -> Level:
    """Return a level that changes the camera of the gallery, or both cameras."""

    def view(old: View, mine: bool) -> View:
        new = (_NEUTRAL if neutral else {}) | (values if mine else {})
        return dataclasses.replace(old, camera=dataclasses.replace(old.camera, **new))

    return Level(
        name,
        _each(
            lambda one: dataclasses.replace(
                one, query=view(one.query, both), gallery=view(one.gallery, True)
            )
        ),
    )


def _stream(one: Subject, purpose: int) -> Stream:
    return Stream(one.domain, one.index, 51, purpose)


def _near(s: Stream, colour: Colour, spread: int) -> Colour:
    """Return a colour that differs from another in lightness by at most `spread`."""
    shift = s.integer(-spread, spread)
    return tuple(min(250, max(8, c + shift)) for c in colour)


def _skin(tone: str) -> Callable[[Subject], dict[str, Any]]:
    return lambda one: {"skin": _near(_stream(one, 0), COLOURS[tone], 8)}


def _upper(palette: str) -> Callable[[Subject], dict[str, Any]]:
    def change(one: Subject) -> dict[str, Any]:
        s = _stream(one, 1)
        colour = _near(s, COLOURS[s.choice(_PALETTES[palette])], 14)
        below = {"lower_colour": colour} if one.look.upper == "dress" else {}
        return {"upper_colour": colour} | below

    return change


def _yaw(degrees: int) -> Callable[[Sequence[Subject]], list[Subject]]:
    def change(one: Subject) -> Subject:
        gallery = dataclasses.replace(one.gallery, yaw=(one.query.yaw + degrees) % 360)
        return dataclasses.replace(one, gallery=gallery)

    return _each(change)


def _cover(share: float) -> Callable[[Sequence[Subject]], list[Subject]]:
    return _each(
        lambda one: dataclasses.replace(
            one, gallery=dataclasses.replace(one.gallery, covered=share)
        )
    )


def _alike(strangers: int) -> Callable[[Sequence[Subject]], list[Subject]]:
    """Return a change by which everybody meets this many strangers in the very same clothes.

    PER_DOMAIN is a multiple of one more than it, so that the strangers pass the same cameras.
    """

    def change(people: Sequence[Subject]) -> list[Subject]:
        first = [i - i % (strangers + 1) for i in range(len(people))]
        return [
            dataclasses.replace(one, look=dressed_as(people[f].look, one.look))
            for one, f in zip(people, first, strict=True)
        ]

    return change


def _stops(number: float) -> tuple[int, int, int]:
    return (round(256 * 2.0**-number),) * 3


def _grain(deviation: int) -> int:
    """Return the amplitude of noise of this standard deviation (`camera.develop`)."""
    return round(deviation / (5**0.5 * 255 / 6**0.5) * 640)


FACTORS = (
    Factor("skin", "skin, from the lightest of five tones to the darkest", "everybody", tuple(
        _look(str(1 + k), _skin(tone)) for k, tone in enumerate(SKIN))),
    Factor("girth", "girth, 1 is average", "everybody", tuple(
        _look(f"{girth:g}", lambda one, girth=girth: {"girth": girth})  # type: ignore[misc]
        for girth in (1.0, 0.85, 1.15, 1.3))),
    Factor("colour", "colour of the upper garment", "everybody", tuple(
        _look(name, _upper(name)) for name in ("vivid", "red", "white", "grey", "black"))),
    Factor("pattern", "pattern of the upper garment", "everybody", tuple(
        _look(name, lambda one, name=name: {"pattern": name, "logo": "none"})  # type: ignore[misc]
        for name in ("plain", "stripes", "check", "print"))),
    Factor("light", "exposure, stops below normal", "everybody", tuple(
        _camera(f"{stops:g}", both=True, neutral=True, gain=_stops(stops))
        for stops in (0, 1, 2, 3))),
    Factor("exposure", "exposure, stops below the query's", "gallery", tuple(
        _camera(f"{stops:g}", neutral=True, gain=_stops(stops)) for stops in (0, 0.5, 1, 2, 3))),
    Factor("cast", "colour cast: more red and less blue, %", "gallery", tuple(
        _camera(str(percent), neutral=True,
                gain=(256 + 256 * percent // 100, 256, 256 - 256 * percent // 100))
        for percent in (0, 10, 20, 30, 40))),
    Factor("resolution", "lines of the sensor, at most (at least 3/4)", "gallery", tuple(
        _camera(str(lines), lines=lines) for lines in (164, 96, 64, 48, 32, 24))),
    # A radius of 0 would take fewer random numbers.
    Factor("blur", "blur, radius in pixels of 64 x 128", "gallery", tuple(
        _camera(f"{radius:g}", blur=radius or 0.001) for radius in (0, 0.5, 1, 2, 3))),
    Factor("noise", "noise, standard deviation in grey levels", "gallery", tuple(
        _camera(str(deviation), noise=_grain(deviation)) for deviation in (0, 3, 6, 12, 24))),
    Factor("viewpoint", "turn between the two pictures, degrees", "gallery", tuple(
        Level(str(degrees), _yaw(degrees)) for degrees in (0, 45, 90, 135, 180))),
    Factor("occlusion", "covered from below, % of the picture", "gallery", tuple(
        Level(str(percent), _cover(percent / 100)) for percent in (0, 15, 30, 45, 60))),
    Factor("occluder", "what stands in front", "gallery", (
        _camera("nothing"),
        *(_camera(kind, hidden=1.0, occluders=(kind,))
          for kind in ("pole", "column", "luggage", "planter", "person")))),
    Factor("box", "box: shift across, at most, % of its width", "gallery", tuple(
        _camera(f"{round(1000 / 128 * slop)}", slop=slop) for slop in (0.0, 1.0, 2.0, 3.0, 4.0))),
    Factor("lookalikes", "strangers in the very same clothes in the gallery", "everybody", tuple(
        Level(str(strangers), _alike(strangers)) for strangers in (0, 1, 4, 9))),
)  # fmt: skip
