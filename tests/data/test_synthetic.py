import dataclasses
import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxreid.data import synthetic
from jaxreid.data.sets import synthetic_people
from jaxreid.data.synthetic.domains import CAMERAS
from jaxreid.data.synthetic.drawn_domains import cameras_of, number, wardrobe_of
from jaxreid.data.synthetic.people import TEST, TRAIN, person
from jaxreid.data.synthetic.rendering import render
from jaxreid.data.synthetic.walks import plans as walk_plans

SMALL = dict(train_ids=6, test_ids=5, images_per_id=8, distractors=10)


# Four domains, each with a person or two of training and test.
RANDOM = dict(train_ids=7, test_ids=5, images_per_id=6, distractors=8, domains=4)
RANDOM_PIXELS = "a51bf03d89c3bdb2d943fdf626b52abddf73f4d7b016d39167cab2c02e17b0cf"


def decode(sighting):
    return np.asarray(Image.open(io.BytesIO(sighting.image)))


def digest(parts):
    h = hashlib.sha256()
    for part in parts:
        h.update(part)
    return h.hexdigest()


@pytest.fixture(scope="module")
def plaza():
    return synthetic.generate("plaza", **SMALL, workers=1)


def test_labels_are_the_same_on_every_machine():
    labels = [
        repr((domain, split, p.name, p.pid, p.camid, p.time)).encode()
        for domain in synthetic.DOMAINS
        for split, chosen in synthetic.plan(domain).items()
        for p in chosen
    ]
    assert len(labels) == 8218
    assert digest(labels) == "f574d67b156b88945aef98b92acf9bd3a8cff17b428f5c91bf05008489643af4"


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("plaza", "2088ea4a30f530c3bcb8b30883659737fde5f7dcfc368dd86ab4a77db83fa103"),
        ("station", "2927e5aa7014ad8750d2f5f93112dc9ac68425a1c70a60144ea11f5e35f463bd"),
        ("mall", "32b58d2ab806c3ea2415e33bf2d4cf607406857d286ce4c0a4f2a386894076a2"),
        ("campus", "348cad86c6606e86bfe748aaac8f798a17400327e2e5023307e604984fc8746c"),
    ],
)
def test_pixels_are_the_same_on_every_machine(domain, expected):
    # Who changes the pictures on purpose raises VERSION in the builder too: copies that are already
    # prepared are then drawn anew.
    chosen = synthetic.plan(domain)["gallery"][::80]
    assert len({p.camid for p in chosen}) >= 4
    drawn = list(synthetic.draw_all(chosen))
    assert digest(decode(s).tobytes() for s in drawn) == expected


def test_pixels_of_drawn_domains_are_the_same_on_every_machine():
    # As above: who changes these pictures on purpose raises VERSION in the builder.
    chosen = synthetic.plan("random", **RANDOM)["gallery"][::4]
    assert len({p.domain for p in chosen}) == 4
    drawn = synthetic.draw_all(chosen, workers=1)
    assert digest(decode(s).tobytes() for s in drawn) == RANDOM_PIXELS


def test_drawn_domains_differ_and_follow_from_seed_and_place():
    numbers = [number(seed, place) for seed in (0, 1) for place in range(20)]
    assert len({*numbers, *range(len(CAMERAS))}) == len(numbers) + len(CAMERAS)
    assert len({cameras_of(n) for n in numbers}) == len(numbers)
    assert len({repr(wardrobe_of(n)) for n in numbers}) == len(numbers)
    assert len({person(0, n, TEST, 0) for n in numbers}) == len(numbers)
    assert all(len(set(cameras_of(n))) == 6 for n in numbers)
    n = numbers[3]
    again = cameras_of.__wrapped__(n), wardrobe_of.__wrapped__(n)
    assert again == (cameras_of(n), wardrobe_of(n))


def test_people_and_cameras_of_drawn_domains_are_disjoint():
    planned = synthetic.plan("random", **RANDOM)
    seen = [p for chosen in planned.values() for p in chosen]
    pids = {split: {p.pid for p in chosen} for split, chosen in planned.items()}
    assert pids["train"] == set(range(1, 8))
    assert pids["query"] == set(range(8, 13))
    assert pids["gallery"] == pids["query"] | {0}
    assert sum(p.pid == 0 for p in planned["gallery"]) == 8
    domains = [number(0, k) for k in range(4)]
    assert {p.domain for p in seen} == set(domains)
    for p in seen:
        # Cameras are numbered from domain to domain.
        assert p.camid // 6 == domains.index(p.domain)
    for pid in range(1, 13):
        assert len({p.domain for p in seen if p.pid == pid}) == 1
    assert len({p.name for p in seen}) == len(seen)
    others = {p.domain for chosen in synthetic.plan("random", **RANDOM, seed=1).values()
              for p in chosen}  # fmt: skip
    assert not others & set(domains)


def test_two_cameras_of_a_drawn_domain_can_hang_in_one_place():
    domain = number(1, 16)
    assert len({camera.at for camera in cameras_of(domain)}) == 5
    people = walk_plans(domain, 20, 1, images_per_id=12, distractors=0, seed=1)["train"]
    assert {p.camid for p in people} == set(range(6))


def test_ids_of_drawn_people_mean_nothing_with_other_options():
    assert synthetic_people.find("random", train_ids=2, test_ids=1, seed=1).numbered_anew


def test_without_a_number_a_drawn_domain_holds_25_people():
    for people, domains in ((1, 1), (24, 1), (25, 2)):
        planned = synthetic.plan("random", train_ids=people, test_ids=1, images_per_id=4)
        assert len({p.domain for p in planned["train"]}) == domains


def test_a_picture_with_another_look_or_camera_differs_in_nothing_else():
    plan = synthetic.plan("random", **RANDOM)["train"][3]
    look = person(0, plan.domain, plan.role, plan.index)
    camera = cameras_of(plan.domain)[plan.camid % 6]
    assert render(0, plan, look=look, camera=camera) == render(0, plan)
    pixels = [
        np.asarray(Image.open(io.BytesIO(render(0, plan, look=one, camera=other))), int)
        for one, other in (
            (look, camera),
            (dataclasses.replace(look, shoe_colour=(250, 60, 60)), camera),
            (look, dataclasses.replace(camera, gain=(128, 128, 128), noise=0)),
        )
    ]
    assert np.abs(pixels[1] - pixels[0])[:64].max() < 4  # shoes are below
    assert np.abs(pixels[1] - pixels[0])[64:].max() > 20
    assert pixels[2].mean() < pixels[0].mean() - 10


def test_protocol_is_that_of_market1501(plaza):
    pids = {split: {s.pid for s in chosen} for split, chosen in plaza.items()}
    assert pids["train"] == set(range(1, 7))
    assert pids["query"] == set(range(7, 12))
    assert pids["gallery"] == pids["query"] | {0}
    assert sum(s.pid == 0 for s in plaza["gallery"]) == 10
    queries = [(s.pid, s.camid) for s in plaza["query"]]
    assert len(set(queries)) == len(queries)  # one query a person and camera
    seen = {(s.pid, s.camid) for s in plaza["gallery"]}
    for pid, camid in queries:
        assert any(p == pid and c != camid for p, c in seen)  # there is something to find
        assert (pid, camid) in seen
    names = [s.name for chosen in plaza.values() for s in chosen]
    assert len(set(names)) == len(names)
    for split, chosen in plaza.items():
        assert [s.name for s in chosen] == sorted(s.name for s in chosen)
        for s in chosen:
            assert s.split == split
            frame = round(s.time * 25)
            assert s.name.startswith(f"{s.pid:04d}_c{s.camid + 1}s1_{frame:06d}_")
            assert 0 <= s.camid < 6
            assert decode(s).shape == (128, 64, 3)


def test_sizes_of_the_default_domains():
    for domain in synthetic.DOMAINS:
        planned = synthetic.plan(domain)
        assert len({p.pid for p in planned["train"]}) == 100
        assert len({p.pid for p in planned["query"]}) == 50
        of_known = [p for chosen in planned.values() for p in chosen if p.pid]
        assert len(of_known) / 150 == pytest.approx(12, abs=0.6)
        assert len({p.camid for p in planned["query"]}) == 6


def test_pictures_do_not_depend_on_processes_or_order(plaza):
    planned = synthetic.plan("plaza", **SMALL)["gallery"]
    backwards = list(synthetic.draw_all(planned[::-1], workers=2))
    assert backwards[::-1] == plaza["gallery"]
    planned = synthetic.plan("random", **RANDOM)["gallery"][::6]
    assert list(synthetic.draw_all(planned, workers=2)) == list(
        synthetic.draw_all(planned, workers=1)
    )


def test_stopping_early_ends_the_processes():
    drawn = synthetic.draw_all(synthetic.plan("mall")["gallery"], workers=2)
    next(drawn)
    drawn.close()


def test_a_person_does_not_depend_on_the_size_of_the_data_set():
    assert person(0, 0, TRAIN, 5) == person(0, 0, TRAIN, 5)
    assert person(0, 0, TRAIN, 5) != person(0, 0, TEST, 5)
    assert person(0, 0, TRAIN, 5) != person(1, 0, TRAIN, 5)


def test_some_people_are_dressed_alike_and_nobody_is_the_same():
    people = [person(0, 0, TEST, i) for i in range(48)]
    assert len(set(people)) == 48
    clothes = [(p.upper, p.upper_colour, p.lower_colour) for p in people]
    assert 12 <= len(set(clothes)) <= 40
    details = [
        (p.lower, p.pattern, p.logo, p.logo_colour, p.bag, p.bag_colour, p.shoe_colour, p.hair)
        for p in people
    ]
    assert len(set(details)) == 48


def test_times_follow_walks():
    planned = walk_plans(0, 40, 1, 12, 0, 0)["train"]
    cameras = CAMERAS[0]
    for pid in range(1, 41):
        mine = sorted((p.time, p.camid) for p in planned if p.pid == pid)
        for (t0, c0), (t1, c1) in zip(mine, mine[1:], strict=False):
            metres = np.hypot(*np.subtract(cameras[c0].at, cameras[c1].at))
            assert t1 - t0 <= 5 + metres / 1.0 + 12 + 160 + 8
            if c0 != c1:
                assert t1 - t0 > metres / 1.6 - 20  # the passage itself takes some seconds
            else:
                assert t1 - t0 < 5


def test_groups_walk_together():
    planned = walk_plans(0, 1, 50, 12, 0, 0)["query"]
    first: dict[int, dict[int, float]] = {}
    for p in planned:
        first.setdefault(p.pid, {})[p.camid] = p.time
    companions = sum(
        any(
            a != b and first[a].keys() == first[b].keys()
            and all(abs(first[a][c] - first[b][c]) < 20 for c in first[a])
            for b in first
        )
        for a in first
    )  # fmt: skip
    assert 15 <= companions <= 45  # of 50


def test_every_camera_shows_something():
    for domain in synthetic.DOMAINS:
        planned = synthetic.plan(domain)["train"]
        for camid in range(6):
            chosen = [p for p in planned if p.camid == camid][:6]
            level = [decode(s).mean() for s in synthetic.draw_all(chosen)]
            assert 35 < np.mean(level) < 215, (domain, camid)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "plazza"}, r"unknown domain of synthetic_people 'plazza'; valid: plaza, "),
        ({"domain": "mall", "images_per_id": 3}, r"images_per_id is 3; .* at least 4"),
        ({"domain": "mall", "train_ids": 0}, r"train_ids is 0; .* at least 1"),
        ({"domain": "mall", "seed": -1}, r"seed is -1; .* at least 0"),
        ({"domain": "mall", "test_ids": 2.5}, r"test_ids is 2.5; expected an integer"),
        ({"domain": "random", "domains": -1}, r"domains is -1; .* at least 0"),
        (
            {"domain": "random", "domains": 1001, "train_ids": 1500},
            r"domains is 1001; .* most 1000",
        ),
        (
            {"domain": "random", "domains": 9, "train_ids": 7, "test_ids": 1},
            r"domains is 9; .* at most one per person \(train_ids=7, test_ids=1\)",
        ),
        (
            {"domain": "plaza", "domains": 2},
            r"domains=2 is an option of the domain random; leave it out for plaza",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic.generate(**arguments)


def test_nothing_heavy_is_imported():
    code = (
        "import sys, jaxreid.data.synthetic;"
        "print([m for m in ('tensorflow', 'jax', 'tensorflow_datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_builder_keeps_the_bytes(tmp_path, plaza):
    from jaxreid.data.sets import load

    loaded = load("synthetic_people/plaza", prepared_dir=tmp_path, **SMALL)
    for split, expected in plaza.items():
        got = loaded[split]
        assert got.image == [s.image for s in expected]
        assert got.name == [s.name for s in expected]
        assert got.pid.tolist() == [s.pid for s in expected]
        assert got.camid.tolist() == [s.camid for s in expected]
        assert got.time.tolist() == [s.time for s in expected]
    name = "plaza-train_ids=6-test_ids=5-images_per_id=8-distractors=10"
    assert (tmp_path / "synthetic_people" / name / "1.0.0").is_dir()
