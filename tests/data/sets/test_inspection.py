"""Inspection: the layout of a path or the nearest one, sizes, and what is wrong with its images."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxreid.data.sets.inspection import inspect
from jaxreid.data.sets.near_duplicates import alike, difference_hash


def write(path, seed, size=(32, 16), change=0):
    """Write an image that depends on its seed; `change` alters its bytes, but not its looks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 250, (4, 4, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(blocks).resize(size[::-1], Image.Resampling.BILINEAR))
    Image.fromarray(pixels + np.uint8(change)).save(path, "PNG")


def people_tree(root):
    """Four people before two cameras, two images each; two people train."""
    names = [
        f"{part}/{person}/c{camera}/{i}.png"
        for part, people in {"train": "ab", "query": "cd", "gallery": "cd"}.items()
        for person in people
        for camera in (1, 2)
        for i in range(2)
    ]
    for seed, name in enumerate(names):
        write(root / name, seed)
    return root


def findings(report):
    return {finding.title: finding.names for finding in report.findings}


def test_a_clean_folder_has_sizes_and_no_findings(tmp_path):
    report = inspect(people_tree(tmp_path))
    assert (report.layout, report.problems, report.findings) == ("folder", 0, ())
    assert report.lines() == [
        f"{tmp_path}: read as folder.",
        "train: 8 images of 2 people (4 images each); cameras: 2; times: unknown.",
        "query: 8 images of 2 people (4 images each); cameras: 2; times: unknown.",
        "gallery: 8 images of 2 people (4 images each); cameras: 2; times: unknown.",
        f"Note: {tmp_path}: for example, c/c1/0.png shows person 'c', camera 'c1'.",
        "Problems: 0.",
    ]


def test_images_that_cannot_be_used_are_named_with_the_reason(tmp_path):
    tree = people_tree(tmp_path)
    (tree / "train/a/c1/cut.png").write_bytes((tree / "train/a/c1/0.png").read_bytes()[:-60])
    (tree / "train/a/c1/text.jpg").write_text("no image")
    write(tree / "train/a/c1/tiny.png", 100, (40, 15))
    write(tree / "train/a/c1/wide.png", 101, (16, 17))
    write(tree / "train/a/c1/high.png", 102, (97, 16))
    report = inspect(tree)
    rest = findings(report)
    broken = rest.pop("broken images; restore or remove them")
    assert [name.partition(":")[0] for name in broken] == [
        *("train/a/c1/cut.png", "train/a/c1/text.jpg")
    ]
    assert "not an image" in broken[1]
    assert rest == {
        "images with fewer than 16 pixels in a row or column": ("train/a/c1/tiny.png",),
        "images wider than high": ("train/a/c1/wide.png",),
        "images more than 6 times as high as wide": ("train/a/c1/high.png",),
    }
    assert report.problems == 1
    assert report.lines()[-5].startswith("Problem: broken images; restore or remove them: 2 (train")


def test_copies_are_found_within_and_across_splits(tmp_path):
    tree = people_tree(tmp_path)
    write(tree / "train/a/c1/copy.png", 0)
    write(tree / "train/b/c1/copy.png", 1)
    write(tree / "gallery/c/c1/copy.png", 2)
    write(tree / "train/b/c1/near.png", 3, change=1)
    write(tree / "gallery/c/c1/near.png", 4, change=1)
    report = inspect(tree)
    assert findings(report) == {
        "the same file for two people": ("train/a/c1/1.png = train/b/c1/copy.png",),
        "the same file in two splits": ("train/a/c2/0.png = gallery/c/c1/copy.png",),
        "the same file twice in a split": (
            "train/a/c1/0.png = train/a/c1/copy.png",
            "train/a/c1/1.png = train/b/c1/copy.png",
        ),
        "images that look the same (groups) in training and test": (
            "train/b/c1/0.png = gallery/c/c1/near.png",
        ),
        "other images that look the same (groups)": ("train/a/c2/1.png = train/b/c1/near.png",),
    }
    assert report.problems == 2


def test_people_are_checked_across_cameras_and_splits(tmp_path):
    tree = people_tree(tmp_path)
    write(tree / "train/alone/c1/0.png", 100)
    write(tree / "query/alone/c1/1.png", 101)
    write(tree / "gallery/nobody/c1/0.png", 102)  # not searched for
    report = inspect(tree)
    assert findings(report) == {
        "people in training and test (an image of each)": ("alone/c1/1.png",),
        "training people seen by one camera only (an image of each)": ("alone/c1/0.png",),
        "test people seen by one camera only (an image of each)": ("alone/c1/1.png",),
    }
    assert report.problems == 1


def market_tree(root, parts=("bounding_box_train", "query", "bounding_box_test")):
    for seed, part in enumerate(parts):
        write(root / part / f"000{seed // 2}_c{seed + 1}s1_000001_00.jpg", seed)
    return root


def test_a_published_layout_is_recognised_and_its_notices_shown(tmp_path):
    report = inspect(market_tree(tmp_path))
    assert report.layout == "market1501"
    assert report.splits["train"].timed == 1
    assert any("Note: market1501 in" in line for line in report.lines())


def test_what_the_nearest_layout_lacks_is_said(tmp_path):
    tree = market_tree(tmp_path, ("bounding_box_train", "query"))
    report = inspect(tree)
    assert (report.layout, report.problems) == ("", 1)
    assert report.fixes[0].startswith("To read it as market1501")
    assert "bounding_box_test missing" in report.fixes[0]
    assert report.fixes[1].startswith("To read it as folder")
    assert report.splits["all"].images == 2
    market_tree(tree)
    (tree / "query" / "copy.jpg").touch()
    report = inspect(tree)
    assert "copy.jpg: not a Market-1501 file name" in report.fixes[0]
    assert "broken images; restore or remove them" in findings(report)


def test_a_folder_like_none_is_explained_by_the_layout_for_own_images(tmp_path):
    for name in "12":
        write(tmp_path / f"{name}.png", int(name))
    (fix,) = inspect(tmp_path).fixes
    assert "Expected a sub-folder per person" in fix
    assert inspect(f"folder:{tmp_path}?split=none").layout == "folder"
    (fix,) = inspect(f"viper:{tmp_path}").fixes
    assert fix.startswith("To read it as viper")


def test_tables_are_inspected(tmp_path):
    people_tree(tmp_path)
    rows = [
        f"{p.relative_to(tmp_path)},{p.parts[-3]},{p.parts[-2]},1.5"
        for p in tmp_path.rglob("*.png")
    ]
    (tmp_path / "t.csv").write_text("\n".join(["path,person,camera,time", *rows]))
    report = inspect(tmp_path / "t.csv")
    assert (report.layout, report.problems) == ("table", 0)
    assert sum(part.timed for part in report.splits.values()) == 24
    (tmp_path / "t.csv").write_text("path\nnone.jpg")
    (fix,) = inspect(tmp_path / "t.csv").fixes
    assert "expected person (pid" in fix


def test_a_report_is_json(tmp_path):
    tree = people_tree(tmp_path)
    for i in range(5):
        write(tree / f"train/a/c1/wide{i}.png", 100 + i, (16, 17))
    stored = json.loads(json.dumps(inspect(tree).as_dict()))
    assert stored["layout"] == "folder"
    assert stored["problems"] == 0
    assert len(stored["findings"][0]["names"]) == 5
    assert "images wider than high: 5 (train/a/c1/wide0.png" in inspect(tree).lines()[-2]


def test_wrong_paths_and_options_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing at .*nowhere"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="unknown option of folder 'patern'; valid: pattern"):
        inspect(f"folder:{tmp_path}?patern=x")


def test_near_hashes_are_found_as_by_comparing_all_pairs():
    g = np.random.default_rng(0)
    base = g.integers(0, 2**64, 300, np.uint64)
    flips = [
        sum(1 << int(b) for b in g.choice(64, n, replace=False)) for n in g.integers(0, 5, 300)
    ]
    hashes = np.concatenate([base, base ^ np.array(flips, np.uint64), base[:20]])
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= 2
    reach = near
    while ((further := reach @ near) != reach).any():
        reach = further
    expected = {tuple(np.flatnonzero(row).tolist()) for row in reach if row.sum() > 1}
    assert [tuple(group) for group in alike(hashes)] == sorted(expected)
    assert alike(np.zeros(0, np.uint64)) == []


def test_the_hash_says_where_an_image_becomes_brighter():
    ramp = np.repeat(np.arange(0, 90, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    assert difference_hash(ramp) == 2**64 - 1
    assert difference_hash(ramp[:, ::-1]) == 0
    left = ramp.copy()
    left[8:] = 0
    assert difference_hash(left) == 0xFFFFFFFF00000000
