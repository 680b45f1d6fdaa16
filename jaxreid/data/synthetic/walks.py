"""Plans of all pictures: walks of people between cameras, alone or in groups."""

import dataclasses
import math

from jaxreid.data.synthetic.drawn_domains import cameras_of
from jaxreid.data.synthetic.people import OTHER, TEST, TRAIN
from jaxreid.data.synthetic.stream import Stream

# Frames per second.
FRAMES = 25
NOBODY = -1
_HOUR = 3600.0
# People who start in an hour; more people take more hours.
_CROWD = 100


@dataclasses.dataclass(frozen=True)
class Plan:
    """Plan of one picture.

    Attributes:
        split: "train", "query" or "gallery".
        name: file name in the style of Market-1501.
        pid: person id; 0 for distractors.
        camid: camera, from 0; those of a domain are consecutive.
        domain: number of the domain.
        time: seconds.
        role, index: arguments of `people.person`; an index below NOBODY is a false alarm of the
            detector.
        shot: number of the picture in the passage.
        yaw: degrees; 0 faces the camera.
        friend: index of a person of the same role who walks alongside, or NOBODY.
    """

    split: str
    name: str
    pid: int
    camid: int
    domain: int
    time: float
    role: int
    index: int
    shot: int
    yaw: int
    friend: int


def _heading(a: tuple[int, int], b: tuple[int, int]) -> int:
    return round(math.degrees(math.atan2(b[1] - a[1], b[0] - a[0])))


def _route(cameras, length: int, s: Stream) -> list[int]:
    """Return the cameras of a walk in order; the next one tends to be near."""
    route = [s.integer(0, len(cameras) - 1)]
    while len(route) < length:
        last = cameras[route[-1]].at
        weights = {}
        for k, camera in enumerate(cameras):
            if k not in route:
                d = (camera.at[0] - last[0]) ** 2 + (camera.at[1] - last[1]) ** 2
                d = max(d, 1)  # two cameras of a drawn domain may hang in one place
                weights[k] = 1.0 / (d * d)
        route.append(s.weighted(weights))
    return route


def _walk(cameras, length: int, start: float, s: Stream) -> list[tuple[int, float, int]]:
    """Return (camera, seconds, yaw) of each passage of a walk."""
    route = _route(cameras, length, s)
    # Metres per second.
    speed = s.uniform(1.0, 1.6)
    time, passages = start, []
    for i, k in enumerate(route):
        position = cameras[k].at
        before = cameras[route[i - 1]].at if i else position
        after = cameras[route[i + 1]].at if i + 1 < length else position
        if i:
            d = (position[0] - before[0]) ** 2 + (position[1] - before[1]) ** 2
            time += math.sqrt(d) / speed + s.uniform(0, 12)
            # A stop on the way.
            if s.chance(0.12):
                time += s.uniform(40, 160)
        yaw = _heading(before, after) - cameras[k].facing - 180
        if s.chance(0.2):
            yaw = s.integer(0, 359)
        passages.append((k, time, yaw))
    return passages


def _groups(people: int, s: Stream) -> list[list[int]]:
    """Divide the people at random into groups of one to four."""
    left, groups = s.shuffled(range(people)), []
    while left:
        size = s.weighted({1: 5, 2: 3, 3: 1.4, 4: 0.8})
        groups.append(left[:size])
        left = left[size:]
    return groups


def _pictures(domain: int, role: int, people: int, images: int, key: tuple) -> list[dict]:
    """Return the sightings of all training or all test people, in any order."""
    cameras = cameras_of(domain)
    s = Stream(*key, 20, role)
    span = _HOUR * max(1.0, people / _CROWD)
    sightings = []
    for group in _groups(people, s):
        most = min(6, images // 2)
        length = min(most, s.weighted({4: 1, 5: 3, 6: 4}))
        walk = _walk(cameras, length, s.uniform(0, span), s)
        for member in group:
            own = Stream(*key, 21, role, member)
            late = own.uniform(0, 6) if len(group) > 1 else 0.0
            friends = [m for m in group if m != member]
            spare = max(1, images // 6)
            count = max(2 * length, images + own.integer(-spare, spare))
            shots = [count // length] * length
            for i in own.shuffled(range(length))[: count % length]:
                shots[i] += 1
            for (camid, time, yaw), n in zip(walk, shots, strict=True):
                seen, turn = time + late + own.uniform(0, 2), yaw + own.integer(-25, 25)
                query = own.integer(0, n - 1)
                for shot in range(n):
                    sightings.append(
                        {
                            "split": "train"
                            if role == TRAIN
                            else ("gallery", "query")[shot == query],
                            "camid": camid,
                            "time": seen,
                            "role": role,
                            "index": member,
                            "shot": shot,
                            "yaw": (turn + own.integer(-14, 14)) % 360,
                            "friend": own.choice(friends) if friends else NOBODY,
                        }
                    )
                    seen += own.uniform(0.8, 2.6)
    return sightings


def _distractors(domain: int, images: int, people: int, key: tuple) -> list[dict]:
    """Return gallery sightings of other people, and false alarms."""
    cameras = cameras_of(domain)
    s = Stream(*key, 22)
    span = _HOUR * max(1.0, people / _CROWD)
    sightings: list[dict] = []
    index = 0
    while len(sightings) < images:
        ghost = s.chance(0.12)
        walk = _walk(cameras, 1 if ghost else s.integer(1, 3), s.uniform(0, span), s)
        for camid, time, yaw in walk:
            for shot in range(1 if ghost else s.integer(1, 2)):
                sightings.append(
                    {
                        "split": "gallery",
                        "camid": camid,
                        "time": time + 1.5 * shot,
                        "role": OTHER,
                        # The index of a false alarm (below NOBODY) only keys its random numbers.
                        "index": NOBODY - 1 - index if ghost else index,
                        "shot": shot,
                        "yaw": (yaw + s.integer(-40, 40)) % 360,
                        "friend": NOBODY,
                    }
                )
        index += 1
    return sightings[:images]


def plans(
    domain: int,
    train_ids: int,
    test_ids: int,
    images_per_id: int,
    distractors: int,
    seed: int,
    *,
    first_ids: tuple[int, int] | None = None,
    first_camera: int = 0,
) -> dict[str, list[Plan]]:
    """Return the plans of a data set by split, each list sorted by name.

    Arguments are those of `generation.plan`, with the domain given by number. Training pids are 1,
    ..., train_ids, test pids follow, and distractors have pid 0; `first_ids` (training, test) and
    `first_camera` move them where several domains make one data set.
    """
    key = (seed, domain)
    sightings = _pictures(domain, TRAIN, train_ids, images_per_id, key)
    sightings += _pictures(domain, TEST, test_ids, images_per_id, key)
    sightings += _distractors(domain, distractors, test_ids, key)
    first = dict(zip((TRAIN, TEST), first_ids or (1, 1 + train_ids), strict=True))
    result: dict[str, list[Plan]] = {"train": [], "query": [], "gallery": []}
    taken: dict[str, int] = {}
    for sighting in sightings:
        frame = round(sighting["time"] * FRAMES)
        pid = first[sighting["role"]] + sighting["index"] if sighting["role"] in first else 0
        sighting = {**sighting, "camid": first_camera + sighting["camid"], "domain": domain}
        stem = f"{pid:04d}_c{sighting['camid'] + 1}s1_{frame:06d}"
        box = taken.get(stem, 0)
        taken[stem] = box + 1
        sighting = {**sighting, "time": frame / FRAMES}
        result[sighting["split"]].append(Plan(name=f"{stem}_{box:02d}.jpg", pid=pid, **sighting))
    return {split: sorted(chosen, key=lambda plan: plan.name) for split, chosen in result.items()}
