"""Market-1501's layout: names, junk, distractors, cameras, times."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxreid.data.sets.files import check_image
from jaxreid.data.sets.market1501 import find

TRAIN = ["0002_c1s1_000451_03.jpg", "0002_c2s1_000776_01.jpg", "0007_c3s2_000100_02.jpg"]
QUERY = ["0001_c1s1_001051_00.jpg", "0003_c6s1_000100_00.jpg"]
GALLERY = [
    "-1_c1s1_009999_00.jpg",  # junk
    "0000_c4s1_000010_01.jpg",  # distractor
    "0001_c1s2_000100_01.jpg",
    "0001_c2s1_000200_01.jpg",
    "0003_c5s1_000300_01.jpg",
]
PARTS = {"bounding_box_train": TRAIN, "query": QUERY, "bounding_box_test": GALLERY}


def make_tree(root, parts=PARTS, write=lambda path: path.touch()):
    for part, names in parts.items():
        (root / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            write(root / part / name)
    return root


def write_image(path):
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (16, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def fields(images):
    return [(i.name, i.pid, i.camid) for i in images]


def test_names_say_person_and_camera_from_zero(tmp_path):
    source = find(make_tree(tmp_path))
    assert list(source.splits) == ["train", "query", "gallery"]
    assert fields(source.splits["train"]) == list(zip(TRAIN, [2, 2, 7], [0, 1, 2], strict=True))
    assert fields(source.splits["query"]) == list(zip(QUERY, [1, 3], [0, 5], strict=True))
    assert len(source) == 9


def test_junk_is_dropped_and_distractors_stay_in_the_gallery(tmp_path):
    source = find(make_tree(tmp_path))
    assert fields(source.splits["gallery"]) == list(
        zip(GALLERY[1:], [0, 1, 1, 3], [3, 0, 1, 4], strict=True)
    )


def test_times_in_seconds_count_all_splits_but_no_junk(tmp_path):
    source = find(make_tree(tmp_path))
    time = {i.name: i.time for images in source.splits.values() for i in images}
    assert time["0002_c1s1_000451_03.jpg"] == 451 / 25
    # camera 1: session 1 ends with the query's frame 1051, not with the junk's 9999
    assert time["0001_c1s2_000100_01.jpg"] == (1051 + 100) / 25


@pytest.mark.parametrize(
    ("rule", "offsets"),
    [("qaconv", [0, 100, 290, 660, 1390, 2840]), ("corrected", [0, 100, 190, 270, 340, 400])],
)
def test_time_rules(tmp_path, rule, offsets):
    ends = [100, 90, 80, 70, 60, 50]
    names = [f"0001_c1s{s}_{end:06d}_00.jpg" for s, end in enumerate(ends, 1)]
    source = find(
        make_tree(tmp_path, PARTS | {"bounding_box_train": names, "query": QUERY[1:]}),
        time_rule=rule,
    )
    # the gallery's image of camera 1 and session 2 lies beyond the others: frame 100, not 90
    later = [0, 0, 10, 10, 10, 10] if rule == "corrected" else [0, 0, 10, 20, 40, 80]
    expected = [(o + x + end) / 25 for o, x, end in zip(offsets, later, ends, strict=True)]
    assert [i.time for i in source.splits["train"]] == pytest.approx(expected, abs=1e-9)


def test_a_session_without_images_takes_no_time(tmp_path):
    names = ["0001_c9s1_000100_00.jpg", "0001_c9s2_000050_00.jpg", "0001_c9s4_000001_00.jpg"]
    tree = make_tree(tmp_path, PARTS | {"bounding_box_train": names})
    frames = {
        rule: [i.time * 25 for i in find(tree, time_rule=rule).splits["train"]]
        for rule in ("qaconv", "corrected")
    }
    assert frames["corrected"] == pytest.approx([100, 150, 151])
    assert frames["qaconv"] == pytest.approx([100, 150, 251])


@pytest.mark.parametrize(
    "inside",
    [
        ".",
        "Market-1501-v15.09.15",
        "market1501",
        "market1501/Market-1501-v15.09.15",
        "market",
    ],
)
def test_usual_folders_are_found(tmp_path, inside):
    make_tree(tmp_path / inside)
    for folder in (tmp_path, str(tmp_path / inside)):
        image = find(folder).splits["query"][0].image
        assert pathlib.Path(image).parent == tmp_path / inside / "query"


def test_only_the_bare_name_is_parsed(tmp_path):
    tree = make_tree(tmp_path / "9999_c8s8_exp2_c3")
    assert fields(find(tree).splits["query"]) == [(QUERY[0], 1, 0), (QUERY[1], 3, 5)]


def test_what_systems_leave_behind_is_ignored(tmp_path):
    before = find(make_tree(tmp_path))
    for rubbish in ("._0001_c1s1_001051_00.jpg", "Thumbs.db", ".DS_Store", "README.txt"):
        (tmp_path / "query" / rubbish).write_text("x")
    after = find(tmp_path)
    assert repr(after) == repr(before)
    assert after.fingerprint == before.fingerprint


def test_other_image_suffixes_and_more_cameras(tmp_path):
    names = ["0001_c12s1_000001_00.png", "0001_c13s1_000001_00.JPG", "0001_c7s1_000001_00.jpg.jpg"]
    names += [f"0002_c{c}s1_000001_00{s}" for c, s in enumerate((".bmp", ".tif", ".WEBP"), 1)]
    source = find(make_tree(tmp_path, PARTS | {"bounding_box_train": names}))
    assert [i.camid for i in source.splits["train"]] == [11, 12, 6, 0, 1, 2]


def test_what_is_left_out_is_counted_and_named(tmp_path):
    tree = make_tree(tmp_path)
    train = tree / "bounding_box_train"
    for number in range(4):
        (train / f"0009_c1s1_00000{number}_00.heic").touch()
        (train / f"{number:04d}").mkdir()
        (train / f"{number:04d}" / "0009_c1s1_000001_00.jpg").touch()
    (train / "__MACOSX").mkdir()
    (train / "empty").mkdir()
    _, notice = find(tree).notices
    assert "images in subfolders are not read, move them up: 4 (0000, 0001, 0002, ...)" in notice
    assert "files of other formats are not read, convert images to JPEG or PNG: 4 (0009_c" in notice
    for file in train.glob("*.jpg"):
        file.unlink()
    message = "holds no images .*images in subfolders are not read, move them up: 4 "
    with pytest.raises(ValueError, match=message):
        find(tree)


def test_all_unknown_names_are_counted(tmp_path):
    tree = make_tree(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        (tree / "query" / name).touch()
    with pytest.raises(ValueError, match=r"query/a.jpg: not a Market-1501 .* 2 of 4 names: a.jpg"):
        find(tree)


def test_sessions_and_cameras_may_be_any_numbers_at_no_cost(tmp_path):
    names = ["0001_c20240131s20240131_000100_00.jpg", "0001_c20240131s20991231_000001_00.jpg"]
    source = find(make_tree(tmp_path, PARTS | {"bounding_box_train": names}))
    assert [(i.camid, i.time * 25) for i in source.splits["train"]] == [
        (20240130, 100),
        (20240130, 101),
    ]


@pytest.mark.parametrize(
    ("name", "field"),
    [("99999999999_c1s1_000001_00.jpg", "pid"), ("0001_c3000000000s1_000001_00.jpg", "camid")],
)
def test_numbers_beyond_32_bits_are_refused(tmp_path, name, field):
    tree = make_tree(tmp_path, PARTS | {"query": [name]})
    with pytest.raises(ValueError, match=f"{name}: {field} is .*; expected -1 to 2147483647"):
        find(tree)


@pytest.mark.parametrize(
    "names",
    [
        ["0001_c9s1_99999999999999999_00.jpg"],
        [f"0001_c9s{s}_{10**200}_00.jpg" for s in range(1, 40)],
    ],
)
def test_times_that_would_lose_their_precision_are_unknown_and_said(tmp_path, names):
    source = find(make_tree(tmp_path, PARTS | {"bounding_box_train": names}))
    assert np.isnan([i.time for i in source.splits["train"]]).all()
    assert f"images without a time: {len(names)} (0001_c9s1" in source.notices[1]


def test_order_is_by_code_point(tmp_path):
    names = ["0010_c1s1_000001_00.jpg", "0009_c1s1_000001_00.jpg", "0009_c1s1_000001_00.JPG"]
    source = find(make_tree(tmp_path, PARTS | {"bounding_box_train": names}))
    assert [i.name for i in source.splits["train"]] == sorted(names)


def test_fingerprint_follows_names_content_and_options(tmp_path):
    tree = make_tree(tmp_path / "a")
    first = find(tree).fingerprint
    assert len(first) == 8
    assert find(make_tree(tmp_path / "b")).fingerprint == first
    assert find(tree, time_rule="corrected").fingerprint != first
    (tree / "query" / QUERY[0]).write_bytes(b"1")
    assert find(tree).fingerprint != first
    (tree / "query" / QUERY[0]).write_bytes(b"")
    assert find(tree).fingerprint == first
    (tree / "query" / QUERY[0]).write_bytes(b"1")
    other = find(tree).fingerprint
    (tree / "query" / QUERY[0]).write_bytes(b"2")  # as many bytes, others
    assert find(tree).fingerprint != other
    (tree / "query" / QUERY[0]).write_bytes(b"")
    (tree / "query" / QUERY[0]).rename(tree / "query" / "0001_c1s1_001052_00.jpg")
    assert find(tree).fingerprint != first


def test_errors_say_what_is_needed(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no folder .*nowhere.* expected .*bounding_box_train"
    ):
        find(tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileNotFoundError, match="it holds photos. Expected .*bounding_box_test"):
        find(tmp_path)
    tree = make_tree(tmp_path / "market")
    with pytest.raises(ValueError, match="unknown time_rule 'correct'; valid: corrected, qaconv"):
        find(tree, time_rule="correct")
    (tree / "query" / "0001_c1s1_copy.jpg").touch()
    with pytest.raises(
        ValueError, match="0001_c1s1_copy.jpg: not a Market-1501 .*0001_c1s1_001051_00.jpg"
    ):
        find(tree)
    for file in (tree / "query").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="query holds no images"):
        find(tree)
    shutil.rmtree(tree / "query")
    with pytest.raises(FileNotFoundError, match="market is not a complete Market-1501: query miss"):
        find(tmp_path)


def test_a_part_of_the_data_set_is_noticed(tmp_path):
    (notice,) = find(make_tree(tmp_path)).notices
    assert "\n" not in notice
    assert "expected train 751 ids / 12,936 images, found 2 / 3" in notice
    assert "gallery 751 ids / 15,913 images, found 3 / 4" in notice


def test_broken_images_are_named(tmp_path):
    whole, cut, text = tmp_path / "whole.jpg", tmp_path / "cut.jpg", tmp_path / "text.jpg"
    write_image(whole)
    check_image(whole)
    cut.write_bytes(whole.read_bytes()[:-60])
    text.write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    for path in (cut, text, tmp_path / "empty.jpg"):
        with pytest.raises(ValueError, match=f"{path.name}: broken image .*Unpack"):
            check_image(path)


def test_distractors_join_the_gallery_without_times_and_are_not_learned(tmp_path):
    tree = make_tree(tmp_path)
    # A name of the gallery, too, and a late frame, which moves no time of the others.
    names = ["-1_c1s1_000001_00.jpg", "0000_c2s9_999999_00.jpg", GALLERY[1]]
    make_tree(tree, {"images": names})
    plain = find(tree)
    source = find(tree, distractors_500k=True)
    gallery = source.splits["gallery"]
    assert gallery[:4] == plain.splits["gallery"]
    assert fields(gallery[4:]) == [(f"images/{names[1]}", 0, 1), (f"images/{GALLERY[1]}", 0, 3)]
    assert np.isnan([i.time for i in gallery[4:]]).all()
    assert {s: source.splits[s] for s in ("train", "query")} == {
        s: plain.splits[s] for s in ("train", "query")
    }
    assert source.fingerprint != plain.fingerprint
    assert "gallery 751 ids / 515,913 images, found 3 / 6" in source.notices[0]
    combined = find(tree, distractors_500k=True, combine_all=True).splits["train"]
    assert fields(combined) == fields(find(tree, combine_all=True).splits["train"])
    shutil.rmtree(tree / "images")
    with pytest.raises(FileNotFoundError, match="complete Market-1501: images missing; it holds"):
        find(tree, distractors_500k=True)


@pytest.mark.golden
@pytest.mark.parametrize("case", ["market", "market_gaps"])
def test_equals_the_original_parser(golden_dir, tmp_path, case):
    stored = json.loads((golden_dir / "datasets.json").read_text())[case]
    source = find(make_tree(tmp_path, stored["files"]), time_rule="qaconv")
    label = {p: i for i, p in enumerate(sorted({i.pid for i in source.splits["train"]}))}
    for split, images in source.splits.items():
        parsed = [
            [i.name, label[i.pid] if split == "train" else i.pid, i.camid, i.time] for i in images
        ]
        assert (
            parsed == stored["parsed"][split]
        )  # times too: the same division of the same integers
