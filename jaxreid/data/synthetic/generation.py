"""Sightings of a domain, drawn by several processes in a fixed order."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence

from jaxreid.data.synthetic.domains import DOMAINS
from jaxreid.data.synthetic.drawn_domains import MOST, cameras_of, number
from jaxreid.data.synthetic.rendering import render
from jaxreid.data.synthetic.walks import Plan, plans
from jaxreid.data.synthetic.workers import render_all
from jaxreid.names import check_name

TRAIN_IDS, TEST_IDS, IMAGES_PER_ID, DISTRACTORS = 100, 50, 12, 200
# Name of the domains that are drawn themselves, and the default number of people in each of them.
RANDOM, PEOPLE_PER_DOMAIN = "random", 25
# Fewer pictures are drawn faster than another process starts.
_WORTHWHILE = 200


@dataclasses.dataclass(frozen=True)
class Sighting:
    """One picture of one person by one camera.

    Attributes:
        split: "train", "query" or "gallery".
        name: file name in the style of Market-1501, unique: `0007_c3s1_000451_00.jpg`.
        image: bytes of a JPEG of 128 rows and 64 columns.
        pid: person id from 1; training and test ids are disjoint; 0 for distractors (gallery only).
        camid: camera, 0 to 5.
        time: seconds since the cameras of the domain were started, a multiple of 1/25.
    """

    split: str
    name: str
    image: bytes = dataclasses.field(repr=False)
    pid: int
    camid: int
    time: float


_LEAST = {"train_ids": 1, "test_ids": 1, "images_per_id": 4, "distractors": 0, "seed": 0,
          "domains": 0}  # fmt: skip


def check(domain: str, **numbers: int) -> None:
    """Check the arguments of `plan`.

    Raises:
        ValueError: the domain is unknown or a number is too small.
    """
    check_name(domain, (*DOMAINS, RANDOM), "domain of synthetic_people")
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < _LEAST[name]:
            raise ValueError(
                f"synthetic_people: {name} is {value!r}; expected an integer of at least "
                f"{_LEAST[name]}."
            )


def plan(
    domain: str,
    *,
    train_ids: int = TRAIN_IDS,
    test_ids: int = TEST_IDS,
    images_per_id: int = IMAGES_PER_ID,
    distractors: int = DISTRACTORS,
    seed: int = 0,
    domains: int = 0,
) -> dict[str, list[Plan]]:
    """Plan the pictures of a data set without drawing them.

    Args:
        domain: "plaza", "station", "mall" or "campus", or "random" for domains that are themselves
            drawn.
        train_ids: identities of the training split.
        test_ids: other identities, of the query and gallery splits.
        images_per_id: average number of pictures per identity, at least 4: two cameras with a query
            and a gallery picture each.
        distractors: pictures of other people in the gallery.
        seed: other seeds give other people on other walks past the same cameras; of "random", past
            other cameras.
        domains: of "random": number of domains, each with six cameras and people of its own; 0 for
            one per 25 people.

    Returns:
        Plans by split (train, query, gallery), sorted by name.

    Raises:
        ValueError: the domain is unknown or a number is too small.
    """
    numbers = {
        "train_ids": train_ids,
        "test_ids": test_ids,
        "images_per_id": images_per_id,
        "distractors": distractors,
        "seed": seed,
    }
    check(domain, **numbers, domains=domains)
    if domain != RANDOM:
        if domains:
            raise ValueError(
                f"synthetic_people: domains={domains} is an option of the domain random; leave it "
                f"out for {domain}."
            )
        return plans(DOMAINS.index(domain), **numbers)
    people = train_ids + test_ids
    count = domains or min(MOST, -(-people // PEOPLE_PER_DOMAIN))
    if count > min(people, MOST):
        raise ValueError(
            f"synthetic_people: domains is {count}; expected at most {MOST}, and at most one per "
            f"person (train_ids={train_ids}, test_ids={test_ids})."
        )
    result: dict[str, list[Plan]] = {"train": [], "query": [], "gallery": []}
    done = dict.fromkeys(("train_ids", "test_ids", "distractors"), 0)
    for k in range(count):
        share = {name: numbers[name] * (k + 1) // count - done[name] for name in done}
        part = plans(
            number(seed, k),
            **numbers | share,
            first_ids=(1 + done["train_ids"], 1 + train_ids + done["test_ids"]),
            first_camera=k * len(cameras_of(number(seed, k))),
        )
        for split, chosen in part.items():
            result[split] += chosen
        done = {name: done[name] + share[name] for name in done}
    return {split: sorted(chosen, key=lambda plan: plan.name) for split, chosen in result.items()}


def generate(
    domain: str,
    *,
    train_ids: int = TRAIN_IDS,
    test_ids: int = TEST_IDS,
    images_per_id: int = IMAGES_PER_ID,
    distractors: int = DISTRACTORS,
    seed: int = 0,
    domains: int = 0,
    workers: int | None = None,
) -> dict[str, list[Sighting]]:
    """Draw a whole domain with the arguments of `plan`.

    `workers` is the number of drawing processes, None for at most one per processor. The pictures
    do not depend on it.

    Returns:
        Sightings by split (train, query, gallery), sorted by name.

    Raises:
        ValueError: see `plan`.
    """
    planned = plan(
        domain,
        train_ids=train_ids,
        test_ids=test_ids,
        images_per_id=images_per_id,
        distractors=distractors,
        seed=seed,
        domains=domains,
    )
    drawn = draw_all(sum(planned.values(), []), seed=seed, workers=workers)
    result: dict[str, list[Sighting]] = {split: [] for split in planned}
    for sighting in drawn:
        result[sighting.split].append(sighting)
    return result


def draw_all(
    planned: Sequence[Plan], *, seed: int = 0, workers: int | None = None
) -> Iterator[Sighting]:
    """Draw planned pictures one after the other, with only a few of them in memory.

    The seed must be that passed to `plan`. `planned` can be any of its plans in any order; for
    `workers` see `generate`.

    Yields:
        One sighting per plan, in the same order.

    Raises:
        RuntimeError: a drawing process died.
    """
    if workers is None:
        workers = min(_processors(), len(planned) // _WORTHWHILE + 1)
    if workers <= 1 or not sys.executable:
        images = (render(seed, p) for p in planned)
    else:
        images = render_all(seed, planned, workers)
    with contextlib.closing(images):
        for p, image in zip(planned, images, strict=True):
            yield Sighting(p.split, p.name, image, p.pid, p.camid, p.time)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
