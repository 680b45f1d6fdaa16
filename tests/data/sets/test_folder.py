"""A user's images in folders: people, cameras, patterns, division into splits."""

import math
import re

import pytest

from jaxreid.data.sets import parse_options
from jaxreid.data.sets.folder import find
from jaxreid.data.sets.naming import parse_name


def make_tree(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def fields(records):
    return [(r.name, r.pid, r.camid) for r in records]


def everyone(source):
    return sorted(row for records in source.splits.values() for row in fields(records))


PEOPLE = [f"p{p}/c{c}/{i}.jpg" for p in range(1, 11) for c in (1, 2) for i in range(3)]


def test_a_sub_folder_is_a_person_and_one_in_it_a_camera(tmp_path):
    names = ["Ünal Ö./a b.jpg", "alice/x.PNG", "bob #1?/c10/1.jpeg", "bob #1?/c2/1.bmp"]
    source = find(make_tree(tmp_path, names), split="none")
    assert everyone(source) == [
        ("alice/x.PNG", 1, -1),
        ("bob #1?/c10/1.jpeg", 2, 1),
        ("bob #1?/c2/1.bmp", 2, 0),
        ("Ünal Ö./a b.jpg", 3, -1),
    ]
    assert all(math.isnan(r.time) for r in source.splits["gallery"])


def test_numbers_in_names_count_by_their_value(tmp_path):
    source = find(make_tree(tmp_path, ["10/a.jpg", "9/a.jpg", "p2/a.jpg", "1/a.jpg"]), split="none")
    assert [(name, pid) for name, pid, _ in everyone(source)] == [
        *(("1/a.jpg", 1), ("10/a.jpg", 3), ("9/a.jpg", 2), ("p2/a.jpg", 4))
    ]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("{pid}_c{camid}_{time}", "anna_b_c2_1.5.jpg", ("anna_b", "2", 1.5)),
        ("{pid}_c{camid}s*_{frame}_*", "0001_c12s1_000050_00.jpg", ("0001", "12", 2.0)),
        ("{pid}_*", "x.y/deep/0001_(1).jpg", ("0001", "", math.nan)),
        ("c{camid}_*", "alice/c7_1.jpg", ("alice", "7", math.nan)),
        ("*_{time}", "alice/door/a_3.jpg", ("alice", "door", 3.0)),
        ("{camid}/{pid}/*", "door/alice/2024/a.jpg", ("alice", "door", math.nan)),
    ],
)
def test_patterns_explain_names_and_paths(tmp_path, pattern, name, expected):
    person, camera, time = expected
    (record,) = find(make_tree(tmp_path, [name]), pattern=pattern, split="none").splits["gallery"]
    assert (record.name, record.pid, record.camid) == (name, 1, 0 if camera else -1)
    assert record.time == pytest.approx(time, nan_ok=True)
    # A second image differs in person and camera alone if they are what the pattern says.
    for old, new in ((person, "zoe"), (camera, "zoe")):
        if old:
            other = make_tree(tmp_path / old / new, [name, name.replace(old, new, 1)])
            records = find(other, pattern=pattern, split="none").splits["gallery"]
            field = "pid" if old == person else "camid"
            assert len({getattr(r, field) for r in records}) == 2


def test_a_pattern_is_an_option_in_a_name():
    named = parse_name("folder:/data/a?pattern={pid}_c{camid}s*_{frame}_*&fps=30", ["folder"])
    assert dict(named.options) == {"pattern": "{pid}_c{camid}s*_{frame}_*", "fps": 30}
    assert parse_options(["pattern={camid}/{pid}/*"]) == {"pattern": "{camid}/{pid}/*"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "{person}_*"}, "unknown placeholder 'person'; valid: .*pid"),
        ({"pattern": "{pid}_{pid}"}, "has pid twice"),
        ({"pattern": "{pid}_{time}_{frame}"}, "has frame twice"),
        ({"pattern": "{camid}/*"}, "has a slash; expected {pid} in it"),
        ({"pattern": "{pid}_{frame}", "fps": 0}, "fps is 0; expected frames per second"),
        ({"pattern": "{pid}_{frame}", "fps": "many"}, "fps is 'many'"),
        ({"pattern": "{pid}-{camid}"}, "unlike the pattern .*: 60 of 60 .p1/c1/0.jpg, .*pattern="),
        ({"split": "halves"}, "unknown split 'halves'; valid: .*people"),
    ],
)
def test_wrong_options_are_explained(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        find(make_tree(tmp_path, PEOPLE), **options)


def test_half_of_the_people_train_and_the_others_are_tested(tmp_path):
    source = find(make_tree(tmp_path, PEOPLE))
    train, query, gallery = (source.splits[s] for s in ("train", "query", "gallery"))
    assert (len(train), len(query), len(gallery)) == (30, 10, 20)
    assert not {r.pid for r in train} & {r.pid for r in gallery}
    tested = {(r.pid, r.camid) for r in query}
    assert len(tested) == 10
    assert tested == {(r.pid, r.camid) for r in gallery}
    notice, example = source.notices
    assert re.search("for example, p[0-9]+/c[12]/[012].jpg shows person 'p[0-9]+', camera", example)
    assert "5 people with 30 images train; 5 others are tested, 10 queries and 20 gallery" in notice
    assert "seed 0" in notice
    assert notice in source.description
    assert source.config.startswith("people-")


def test_the_draw_follows_the_seed_alone(tmp_path):
    first, again = (find(make_tree(tmp_path / x, PEOPLE)) for x in "ab")
    assert everyone(first) == everyone(again)
    assert first.fingerprint == again.fingerprint
    assert {s: fields(r) for s, r in first.splits.items()} == {
        s: fields(r) for s, r in again.splits.items()
    }
    other = find(tmp_path / "a", seed=1)
    assert fields(other.splits["train"]) != fields(first.splits["train"])
    assert other.fingerprint != first.fingerprint
    # Pinned: a draw must stay the same in later versions.
    trained = {r.name.split("/")[0] for r in first.splits["train"]}
    assert trained == {"p2", "p7", "p8", "p9", "p10"}


def test_the_only_image_of_a_camera_stays_in_the_gallery(tmp_path):
    names = ["a/c1/1.jpg", "a/c2/1.jpg", "b/c1/1.jpg", "b/c2/1.jpg", "b/c2/2.jpg"]
    names += [f"test/{name}" for name in [*names, "c/c1/1.jpg"]]
    source = find(make_tree(tmp_path / "x", [n for n in names if n.startswith("test")]))
    query, gallery = source.splits["query"], source.splits["gallery"]
    assert [name[:4] for name, *_ in fields(query) if name.startswith("b")] == ["b/c2"]
    assert sum(name.startswith("a") for name, *_ in fields(query)) == 1
    assert sum(name.startswith("a") for name, *_ in fields(gallery)) == 1
    assert "c/c1/1.jpg" in [name for name, *_ in fields(gallery)]
    assert "queries drawn from test (seed 0): 2" in source.notices[0]


def test_the_first_camera_searches_in_the_others(tmp_path):
    source = find(make_tree(tmp_path, [*PEOPLE, "p1/c10/0.jpg", "p1/0.jpg"]), split="camera")
    assert set(source.splits) == {"query", "gallery"}
    assert {r.camid for r in source.splits["query"]} == {0}
    assert {r.camid for r in source.splits["gallery"]} == {-1, 1, 2}
    assert "30 queries from c1, 32 gallery images" in source.notices[0]


def test_images_of_nobody_known_are_a_gallery(tmp_path):
    source = find(make_tree(tmp_path, ["a.jpg", "x/y/z/b.jpg"]), split="none")
    assert fields(source.splits["gallery"]) == [("a.jpg", -1, -1), ("x/y/z/b.jpg", -1, -1)]
    assert list(source.splits) == ["gallery"]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a.jpg", "b/c.jpg"], {}, "not in a person's folder: 1 of 2 .a.jpg.*sub-folder per"),
        (["a/b/c/d.jpg"], {}, "not in a person's folder: 1 of 1 .a/b/c/d.jpg"),
        (["a/x.txt"], {}, "holds no images .*sub-folder per person"),
        (["a/x.heic", "b/c/y.heic"], {}, "holds no images .*The same in 1 other folders"),
        (["a/x.heic"], {}, "holds no images .*convert images to JPEG or PNG: 1 .x.heic"),
        (["a/1.jpg", "a/2.jpg"], {}, "people: 1; expected two or more.*split=camera"),
        (["a/1.jpg", "b/1.jpg"], {}, "single image; expected two or more of a person"),
        (["a/1.jpg", "b/1.jpg"], {"split": "camera"}, "known cameras: 0; expected two or more"),
        (["query/a/1.jpg"], {"split": "people"}, "names its splits .query., and split is 'people'"),
        (["gallery/a/1.jpg", "test/a/1.jpg", "query/a/1.jpg"], {}, "more than once in gallery: 1"),
        (["-1/1.jpg"], {}, "holds no images of people"),
    ],
)
def test_what_cannot_be_divided_is_explained(tmp_path, names, options, message):
    with pytest.raises(ValueError, match=message):
        find(make_tree(tmp_path, names), **options)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere.*the folder of your images"):
        find(tmp_path / "nowhere")


def test_folders_named_after_splits_are_the_splits(tmp_path):
    names = ["train/b/1.jpg", "query/a/1.jpg", "bounding_box_test/a/c2/1.jpg"]
    source = find(make_tree(tmp_path, [*names, "query/c/1.jpg"]))
    assert {s: fields(r) for s, r in source.splits.items()} == {
        "train": [("b/1.jpg", 2, -1)],
        "query": [("a/1.jpg", 1, -1), ("c/1.jpg", 3, -1)],
        "gallery": [("a/c2/1.jpg", 1, 0)],
    }
    assert source.notices == (
        f"{tmp_path}: for example, a/c2/1.jpg shows person 'a', camera 'c2'.",
    )
    everyone_trains = find(tmp_path, combine_all=True).splits["train"]
    assert [r.name for r in everyone_trains][:2] == ["train/b/1.jpg", "query/a/1.jpg"]
    make_tree(tmp_path, ["zoe/1.jpg", "2.jpg"])
    assert "not the images beside them: 2 (2.jpg, zoe/1.jpg)" in find(tmp_path).notices[-1]


def test_what_systems_leave_behind_is_ignored_and_links_are_followed(tmp_path):
    tree = make_tree(tmp_path / "x", PEOPLE)
    before = find(tree)
    make_tree(tree, ["p1/c1/._0.jpg", "__MACOSX/p1/0.jpg", ".trash/p9/0.jpg", "p2/Thumbs.db"])
    make_tree(tree, ["@eaDir/0.jpg/thumb.jpg", "README.md"])
    (tree / "p1" / "c1" / "up").symlink_to(tree)
    assert repr(find(tree)) == repr(before)  # times are NaN
    (tree / "p11").symlink_to(make_tree(tmp_path / "y", ["1.jpg"]))
    assert len(find(tree)) == len(before) + 1


def test_the_fingerprint_follows_files_and_records(tmp_path):
    tree = make_tree(tmp_path, PEOPLE)
    prints = {
        find(tree).fingerprint,
        find(tree, split="camera").fingerprint,
        find(tree, split="none").fingerprint,
        find(tree, pattern="{pid}", split="none").fingerprint,
        find(tree, combine_all=True).fingerprint,
    }
    (tree / "p1/c1/0.jpg").write_bytes(b"1")
    assert len({*prints, find(tree).fingerprint}) == 6
