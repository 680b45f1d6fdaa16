"""A user's own images: numbers for the names of people and cameras, and the division into splits.

`folder` and `table` read the person of each image, and share everything after that.
"""

import math
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxreid.data.sets.draws import shuffled
from jaxreid.data.sets.files import folder_source, some
from jaxreid.data.sets.source import Record, Source, short_digest
from jaxreid.names import check_name

# Splits by the names that folders and tables give them. "test" is a gallery if there are queries;
# otherwise, queries are drawn from it.
SPLITS = {
    "train": "train",
    "bounding_box_train": "train",
    "query": "query",
    "gallery": "gallery",
    "bounding_box_test": "gallery",
    "test": "test",
}
# A published label of boxes that show nobody, left out as in Market-1501.
JUNK = "-1"
# Fewest people with two images to fine-tune on, and how many are enough to leave some out.
FEWEST, _MANY = 5, 20
_INTEGER = re.compile("-?[0-9]{1,18}")


class Photo(NamedTuple):
    """One image of a user.

    Attributes:
        image: the file.
        name: name of the record.
        person: name of the person; "" if unknown, and "-1" for junk.
        camera: name of the camera; "" if unknown.
        time: seconds; NaN if unknown.
        split: a name of a split (`SPLITS`); "" to be divided.
    """

    image: pathlib.Path
    name: str
    person: str
    camera: str
    time: float = math.nan
    split: str = ""


def own_source(
    name: str,
    root: pathlib.Path,
    photos: Sequence[Photo],
    *,
    split: str | None,
    seed: int,
    combine_all: bool,
    keep_numbers: bool = False,
    notices: Sequence[str] = (),
    description: str = "",
) -> Source:
    """Return the source of a user's images.

    People are numbered from 1 and cameras from 0 in the order of their names, in which numbers
    count by their value. Images without a person have pid -1 and are in the gallery alone.

    Args:
        name: of the data set.
        root: folder that holds all images.
        photos: one or more, with unique names in each split.
        split: how to divide photos without splits: people (by default), camera, none or learn.
        seed: of the draw.
        combine_all: train on the people of all splits.
        keep_numbers: people, or cameras, whose names are all integers keep these as their numbers.
        notices: further warnings.
        description: paragraph for the prepared copy.

    Raises:
        ValueError: the photos cannot be divided, or two of a split have the same name.
    """
    where = f"{name} in {root}"
    junk = [photo.name for photo in photos if photo.person == JUNK]
    photos = [photo for photo in photos if photo.person != JUNK]
    if not photos:
        raise ValueError(f"{where} holds no images of people; expected one or more.")
    if keep_numbers:
        photos = by_value(photos)
    splits, how = _divided(where, photos, split, seed)
    people = numbers_of((photo.person for photo in photos), keep_numbers, first=1)
    cameras = numbers_of((photo.camera for photo in photos), keep_numbers, first=0)
    records = {
        part: [
            Record(
                image=photo.image,
                name=photo.name,
                pid=people[photo.person],
                camid=cameras[photo.camera],
                time=photo.time,
            )
            for photo in members
        ]
        for part, members in splits.items()
    }
    rows = (
        f"{part} {r.name} {r.pid} {r.camid} {r.time}" for part in records for r in records[part]
    )
    left_out = f"{where}: junk (person -1) is left out: {len(junk)} images ({some(junk)})."
    return folder_source(
        name,
        root,
        records,
        options={"split": split or ("people" if how else "given"), "records": short_digest(rows)},
        combine_all=combine_all,
        distractors=(-1,),
        notices=[*([how] if how else []), *([left_out] if junk else []), *notices],
        description=f"{description}\n{how}".strip(),
    )


def _divided(
    where: str, photos: Sequence[Photo], rule: str | None, seed: int
) -> tuple[dict[str, list[Photo]], str]:
    """Return the photos by split, and how they were divided; "" if they name their splits."""
    if named := {photo.split for photo in photos} - {""}:
        # Nothing is left to divide for fine-tuning.
        if rule and rule != "learn":
            raise ValueError(
                f"{where} names its splits ({', '.join(sorted(named))}), and split is {rule!r}; "
                "expected one of the two. Leave out the option split, or rename the splits."
            )
        splits, how = _as_given(where, photos, seed)
    else:
        rules = {
            "people": _by_people,
            "camera": _by_camera,
            "none": _undivided,
            "learn": _to_learn,
        }
        rule = check_name(rule or "people", rules, "split")
        splits, how = rules[rule](where, photos, seed)
    for part in splits.keys() & {"train", "query"}:
        if unknown := [photo.name for photo in splits[part] if not photo.person]:
            raise ValueError(
                f"{where}: {part} images without a person: {len(unknown)} ({some(unknown)}). "
                "Expected such images in the gallery alone: name their person, or move them."
            )
    for part, members in splits.items():
        count = Counter(photo.name for photo in members)
        if doubles := [name for name, times in count.items() if times > 1]:
            raise ValueError(
                f"{where}: more than once in {part}: {len(doubles)} images ({some(doubles)}). "
                "Expected each image once in a split: remove the doubles."
            )
    return splits, how


def _as_given(where: str, photos: Sequence[Photo], seed: int) -> tuple[dict[str, list[Photo]], str]:
    if rest := [photo.name for photo in photos if not photo.split]:
        raise ValueError(
            f"{where}: images without a split: {len(rest)} ({some(rest)}), while others have one. "
            "Expected a split for each image, or for none."
        )
    splits = {
        part: members
        for part in ("train", "query", "gallery", "test")
        if (members := [photo for photo in photos if SPLITS[photo.split] == part])
    }
    test, how = splits.pop("test", []), ""
    if test and "query" not in splits:
        splits["query"], test = _queries(where, test, seed)
        how = f"{where}: queries drawn from test (seed {seed}): {len(splits['query'])}."
    if test:
        splits["gallery"] = splits.get("gallery", []) + test
    return splits, how


def _by_people(
    where: str, photos: Sequence[Photo], seed: int
) -> tuple[dict[str, list[Photo]], str]:
    people = shuffled({photo.person for photo in photos} - {""}, "people", seed)
    if len(people) < 2:
        raise ValueError(
            f"{where}: people: {len(people)}; expected two or more, to train on one half and test "
            "on the other. Use split=camera to test on all, or split=none for a gallery."
        )
    learned = set(people[: len(people) // 2])
    train = [photo for photo in photos if photo.person in learned]
    test = [photo for photo in photos if photo.person not in learned]
    query, gallery = _queries(where, test, seed)
    how = (
        f"{where}: divided by people (split=people, seed {seed}): {len(learned)} people with "
        f"{len(train)} images train; {len(people) - len(learned)} others are tested, "
        f"{len(query)} queries and {len(gallery)} gallery images."
    )
    return {"train": train, "query": query, "gallery": gallery}, how


def _by_camera(
    where: str, photos: Sequence[Photo], seed: int
) -> tuple[dict[str, list[Photo]], str]:
    cameras = sorted({photo.camera for photo in photos} - {""}, key=natural)
    if len(cameras) < 2:
        raise ValueError(
            f"{where}: known cameras: {len(cameras)}; expected two or more for split=camera. "
            "Name the cameras, or use split=people."
        )
    query = [photo for photo in photos if photo.camera == cameras[0] and photo.person]
    gallery = [photo for photo in photos if photo.camera != cameras[0] or not photo.person]
    how = (
        f"{where}: divided by camera (split=camera): {len(query)} queries from {cameras[0]}, "
        f"{len(gallery)} gallery images from the others; nobody trains."
    )
    return {"query": query, "gallery": gallery}, how


def _to_learn(where: str, photos: Sequence[Photo], seed: int) -> tuple[dict[str, list[Photo]], str]:
    """Keep as many as possible to learn from, and enough to see whether it helped."""
    of: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        if photo.person:
            of[photo.person].append(photo)
    learnable = [person for person, held in of.items() if len(held) > 1]
    if len(learnable) < FEWEST:
        single = len(of) - len(learnable)
        raise ValueError(
            f"{where}: {len(of)} people, {single} of them on one image; expected at least {FEWEST} "
            "people with two images each. A model learns from what two images of a person have in "
            "common and from how people differ: add images of the same people, best from other "
            "cameras (jaxreid group finds them)."
        )
    cameras = {person: {photo.camera for photo in of[person]} - {""} for person in learnable}
    alone = [person for person in learnable if len(cameras[person]) < 2]
    able = [person for person in learnable if person not in alone]
    about = ""
    if not able:
        # Otherwise no query would have a match.
        photos = [photo._replace(camera="") for photo in photos]
        of = {person: [p._replace(camera="") for p in held] for person, held in of.items()}
        able = learnable
        about = (
            " Nobody is known to be seen by two cameras, so cameras are ignored: the figures show "
            "how well images of one camera are matched, which is much easier."
        )
    elif alone:
        about = (
            f" {len(alone)} of {len(learnable)} people are seen by one camera, and nothing is "
            "learned from them across cameras."
        )
    spare = [person for person in able if len(of[person]) > 3]
    if len(learnable) >= _MANY or len(spare) < 2:
        count = min(len(able), max(2, len(learnable) // 4), len(learnable) - 2)
        tested = set(shuffled(able, "people", seed)[:count])
        held = [photo for photo in photos if photo.person in tested]
        query, gallery = _queries(where, held, seed)
        learned = set(learnable) - tested
        gallery += [p for p in photos if p.person not in learned | tested]
        how = f"{len(tested)} other people are tested"
    else:
        query, gallery, learned = [], [], set(learnable)
        for person in shuffled(spare, "people", seed):
            named = {photo.name: photo for photo in of[person]}
            first, *rest = [named[name] for name in shuffled(named, "query", seed)]
            query.append(first)
            gallery.append(next((p for p in rest if p.camera != first.camera), rest[0]))
        how = (
            f"two other images of {len(spare)} of them are tested, as there are too few people to "
            "leave some out: new people may be matched less well"
        )
    tested_names = {photo.name for photo in (*query, *gallery)}
    train = [p for p in photos if p.person in learned and p.name not in tested_names]
    return {"train": train, "query": query, "gallery": gallery}, (
        f"{where}: divided for fine-tuning (split=learn, seed {seed}): {len(learned)} people with "
        f"{len(train)} images train; {how}, {len(query)} queries and {len(gallery)} gallery "
        f"images.{about}"
    )


def _undivided(
    where: str, photos: Sequence[Photo], seed: int
) -> tuple[dict[str, list[Photo]], str]:
    how = f"{where}: not divided (split=none): {len(photos)} gallery images."
    return {"gallery": list(photos)}, how


def _queries(where: str, photos: Sequence[Photo], seed: int) -> tuple[list[Photo], list[Photo]]:
    """Draw one query of each person and camera; the others are the gallery."""
    names_of: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for photo in photos:
        if photo.person:
            names_of[photo.person][photo.camera].append(photo.name)
    drawn = set()
    for cameras in names_of.values():
        groups = [names for names in cameras.values() if len(names) > 1]
        # The only image of a camera stays in the gallery, for queries of other cameras to find.
        if not groups and len(cameras) > 1:
            groups = [[name for names in cameras.values() for name in names]]
        drawn |= {shuffled(names, "query", seed)[0] for names in groups}
    if not drawn:
        raise ValueError(
            f"{where}: each person to be tested has a single image; expected two or more of a "
            "person, one to search for and one to find. Add images, or use split=none."
        )
    query = [photo for photo in photos if photo.name in drawn]
    return query, [photo for photo in photos if photo.name not in drawn]


def by_value(photos: Sequence[Photo]) -> list[Photo]:
    """Return photos in which a number has one form: 1 and 0001 are the same person."""

    def same(names: Iterable[str]) -> dict[str, str]:
        known = set(names) - {""}
        whole = all(map(_INTEGER.fullmatch, known))
        return {name: str(int(name)) if whole else name for name in known} | {"": ""}

    people = same(photo.person for photo in photos)
    cameras = same(photo.camera for photo in photos)
    return [p._replace(person=people[p.person], camera=cameras[p.camera]) for p in photos]


def numbers_of(names: Iterable[str], keep: bool, first: int) -> dict[str, int]:
    """Return the numbers of people or cameras by name, in order from `first`; "" is -1.

    If they `keep` numbers, names that are all integers are these.
    """
    known = sorted(set(names) - {""}, key=natural)
    if keep and all(map(_INTEGER.fullmatch, known)):
        numbers = {name: int(name) for name in known}
    else:
        numbers = {name: number for number, name in enumerate(known, first)}
    return {"": -1} | numbers


def natural(name: str) -> tuple:
    """Sort "cam2" before "cam10", as people number them."""
    parts = re.split("([0-9]+)", name)
    values = [(len(d), d) for d in (digits.lstrip("0") for digits in parts[1::2])]
    return [x for pair in zip(parts[::2], [*values, (0, "")], strict=True) for x in pair], name
