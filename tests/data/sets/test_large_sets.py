"""DukeMTMC-reID, CUHK03-NP, MSMT17, RandPerson, ClonedPerson: layouts, labels, options."""

import functools
import json
import math
import os
import shutil
from collections.abc import Callable
from typing import NamedTuple

import pytest

from jaxreid.data.sets import clonedperson, cuhk03_np, dukemtmcreid, msmt17, randperson

NAN = math.nan


class Case(NamedTuple):
    """A data set and a small copy of it.

    Attributes:
        find: its function.
        files: path, split, name, pid, camid and time of every image.
        inside: where the copy may be below the user's folder.
        junk: name of an image that is left out.
        lists: text of further files.
    """

    find: Callable
    files: list[tuple]
    inside: tuple[str, ...]
    junk: str = "Thumbs.db"
    lists: dict[str, str] = {}


def labelled(folder, split, *images):
    return [(f"{folder}/{name}", split, name, *labels) for name, *labels in images]


DUKE = Case(
    dukemtmcreid.find,
    [
        *labelled(
            "bounding_box_train",
            "train",
            ("0001_c2_f0046182.jpg", 1, 1, (46182 + 3606) / 59.94),
            ("0005_c5_f0000001.png", 5, 4, 1 / 59.94),
        ),
        *labelled("query", "query", ("0002_c1_f0044158.jpeg", 2, 0, (44158 + 5542) / 59.94)),
        *labelled(
            "bounding_box_test",
            "gallery",
            ("0002_c8_f0000010.jpg", 2, 7, (10 + 46765) / 59.94),
            ("7000_c3_f0000020.bmp", 7000, 2, (20 + 27243) / 59.94),
        ),
    ],
    (
        *(".", "DukeMTMC-reID", "dukemtmc-reid/DukeMTMC-reID", "dukemtmcreid", "duke"),
        *("dukemtmc", "dukemtmc/DukeMTMC-reID"),
    ),
    junk="-1_c1_f0000001.jpg",
)
CUHK = Case(
    cuhk03_np.find,
    [
        *labelled(
            "bounding_box_train",
            "train",
            ("0001_c1_4.png", 1, 0, NAN),
            ("0001_c2_10.jpg", 1, 1, NAN),
        ),
        *labelled("query", "query", ("0002_c1_1.png", 2, 0, NAN)),
        *labelled("bounding_box_test", "gallery", ("0002_c2_7.png", 2, 1, NAN)),
    ],
    (".", "detected", "cuhk03-np/detected", "cuhk03_np/detected", "cuhk03_np_detected"),
    junk="-1_c1_1.png",
)
CUHK_LABELED = Case(
    functools.partial(cuhk03_np.find, boxes="labeled"),
    CUHK.files,
    (".", "labeled", "cuhk03-np/labeled", "cuhk03_np_labeled"),
)
MSMT = Case(
    msmt17.find,
    [
        *labelled(
            "train",
            "train",
            ("0000/0000_000_05_0303morning_0820_1_ex.jpg", 0, 4, NAN),
            ("0001/0001_001_15_0303noon_1765_2.jpg", 1, 14, NAN),
            ("0000/0000_000_07_0303morning_1487_1.jpg", 0, 6, NAN),
        ),
        *labelled("test", "query", ("0000/0000_000_13_0302afternoon_0422_1.jpg", 0, 12, NAN)),
        *labelled(
            "test",
            "gallery",
            ("0000/0000_001_02_0303morning_1669_1.jpg", 0, 1, NAN),
            ("0001/0001_000_01_0303morning_0089_0.jpg", 1, 0, NAN),
        ),
    ],
    (".", "MSMT17_V1", "MSMT17", "msmt17/MSMT17_V1", "msmt17", "msmt"),
    lists={
        "list_train.txt": "0000/0000_000_05_0303morning_0820_1_ex.jpg 0\n"
        "0001/0001_001_15_0303noon_1765_2.jpg 1\n",
        "list_val.txt": "0000/0000_000_07_0303morning_1487_1.jpg 0\n",
        "list_query.txt": "0000/0000_000_13_0302afternoon_0422_1.jpg 0\n",
        "list_gallery.txt": "0000/0000_001_02_0303morning_1669_1.jpg 0\n"
        "0001/0001_000_01_0303morning_0089_0.jpg 1\n",
    },
)
MSMT_V2 = MSMT._replace(
    files=[(f"mask_{path}".replace("/", "_v2/", 1), *rest) for path, *rest in MSMT.files],
    inside=(".", "MSMT17_V2", "msmt17/MSMT17_V2", "MSMT17"),
)
RAND = Case(
    randperson.find,
    labelled(
        ".",
        "train",
        ("000000_s00_c01_f000264.jpg", 0, 1, 264 / 24),
        ("000003_s03_c01_f056375.jpg", 3, 7, (490_000 + 56_375) / 24),
        ("007999_c03_s10_f000024.jpg", 7999, 18, (3_490_000 + 24) / 24),
    ),
    (
        *(".", "randperson_subset", "randperson/randperson_subset", "another_folder/."),
        "randperson_subset/randperson_subset",
    ),
    junk="-1_s00_c00_f000001.jpg",
)
CLONED = Case(
    clonedperson.find,
    [
        *labelled(
            "train",
            "train",
            ("700000_s02_c00_f023389.jpg", 700000, 0, 23389 / 24),
            ("700000_s03_c01_f000048.jpg", 700000, 5, 2.0),
            ("700001_s12_c03_f000024.png", 700001, 23, 1.0),
        ),
        *labelled("test/query", "query", ("705227_s06_c02_f001117.jpg", 705227, 14, 1117 / 24)),
        *labelled("test/gallery", "gallery", ("705227_s10_c00_f000240.jpg", 705227, 16, 10.0)),
    ],
    (".", "clonedperson", "ClonedPerson"),
    junk="-1_s02_c01_f000010.jpg",
)
CASES = {
    "dukemtmcreid": DUKE,
    "cuhk03_np": CUHK,
    "cuhk03_np_labeled": CUHK_LABELED,
    "msmt17": MSMT,
    "msmt17_v2": MSMT_V2,
    "randperson": RAND,
    "clonedperson": CLONED,
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def make_tree(root, paths, lists=None):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    for name, text in (lists or {}).items():
        (root / name).write_text(text)
    return root


def copy_of(case, root):
    return make_tree(root, [path for path, *_ in case.files], case.lists)


def labels(source, split):
    """Name, person, camera and time of a split; None for an unknown time, which equals itself."""
    return [
        (r.name, r.pid, r.camid, None if math.isnan(r.time) else r.time)
        for r in source.splits[split]
    ]


def expected(case, split):
    images = [labels for _, part, *labels in case.files if part == split]
    return [(*known, None if math.isnan(time) else time) for *known, time in images]


@pytest.mark.parametrize(
    ("case", "inside"),
    [(case, inside) for case in CASES.values() for inside in case.inside],
    ids=[f"{name}-{inside}" for name, case in CASES.items() for inside in case.inside],
)
def test_labels_of_every_file_in_every_layout(tmp_path, case, inside):
    # What is not the bare name says nothing.
    top = tmp_path / "9999_c8_s9_f77_c3"
    root = copy_of(case, top / inside)
    # Images of RandPerson may be in a folder of any name, but then in the given one.
    for folder in {str(top), root} if inside != "another_folder/." else {root}:
        source = case.find(folder)
        assert list(source.splits) == list(dict.fromkeys(split for _, split, *_ in case.files))
        for split in source.splits:
            assert labels(source, split) == expected(case, split)


@each_case
def test_what_systems_leave_behind_and_junk_change_nothing(tmp_path, case):
    root = copy_of(case, tmp_path)
    before = case.find(root)
    for part in {(root / path).parent for path, *_ in case.files}:
        (part / "__MACOSX").mkdir()
        for name in ("._0001_c1_1.png", "Thumbs.db", ".DS_Store", "__MACOSX/._1.jpg", case.junk):
            (part / name).write_text("x")
    assert repr(case.find(root)) == repr(before)  # times are NaN


@each_case
def test_a_part_of_the_data_set_is_noticed(tmp_path, case):
    (notice,) = case.find(copy_of(case, tmp_path)).notices
    sizes = {
        dukemtmcreid.find: "train 702 ids / 16,522 images, found 2 / 2",
        CUHK.find: "train 767 ids / 7,365 images, found 1 / 2",
        CUHK_LABELED.find: "train 767 ids / 7,368 images, found 1 / 2",
        msmt17.find: "train 1,041 ids / 32,621 images, found 2 / 3",
        randperson.find: "train 8,000 ids / 132,145 images, found 3 / 3",
        clonedperson.find: "train 4,826 ids / 763,953 images, found 2 / 3",
    }
    assert f"expected {sizes[case.find]}" in notice


@pytest.mark.parametrize(
    ("case", "split", "name"),
    [
        (DUKE, "query", "0001_c9_f0000001.jpg"),
        (DUKE, "train", "0001_c1s1_000151_01.jpg"),
        (CUHK, "gallery", "1_001_1_01.png"),
        (RAND, "train", "000000_s11_c00_f000001.jpg"),
        (RAND, "train", "000000_s01_s01_f000001.jpg"),
        (CLONED, "train", "000000_s13_c00_f000001.jpg"),
        (CLONED, "gallery", "000000_s1_c00.jpg"),
    ],
)
def test_other_names_are_refused(tmp_path, case, split, name):
    root = copy_of(case, tmp_path)
    image = next(path for path, part, *_ in case.files if part == split)
    (root / image).with_name(name).touch()
    with pytest.raises(ValueError, match=rf"{name}: not a .* file name; expected one like .*\("):
        case.find(root)


@each_case
def test_missing_folders_are_named(tmp_path, case):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere.* [Ee]xpected the "):
        case.find(tmp_path / "nowhere")
    root = copy_of(case, tmp_path)
    last = case.files[-1][0].split("/")[0]
    if case is RAND:
        root, last = tmp_path / "other", "it holds images"
        make_tree(root, ["images/subset/000000_s00_c00_f000264.jpg"])
    else:
        shutil.rmtree(root / last)
    with pytest.raises(FileNotFoundError, match=rf"is not (a complete )?\w.*: .*{last}"):
        case.find(root)


@pytest.mark.parametrize("case", [DUKE, CUHK, MSMT, CLONED], ids=lambda case: case.find.__module__)
def test_combine_all_trains_on_all_splits_under_names_of_their_own(tmp_path, case):
    root = copy_of(case, tmp_path)
    source = case.find(root, combine_all=True)
    # The test people of MSMT17 are numbered from 0, too: after the training people 0 and 1.
    offset = 2 if case is MSMT else 0
    assert [(r.name, r.pid, r.camid) for r in source.splits["train"]] == [
        (f"{split}/{name}", pid + offset * (split != "train"), camid)
        for _, split, name, pid, camid, _ in case.files
    ]
    for split in ("query", "gallery"):
        assert labels(source, split) == expected(case, split)
    assert source.fingerprint != case.find(root).fingerprint


@pytest.mark.parametrize(
    ("case", "option", "values", "wrong"),
    [
        (CUHK, "boxes", ("detected", "labeled"), "labelled"),
        (MSMT, "train_split", ("train", "trainval"), "val"),
        (CLONED, "camera_rule", ("scene", "qaconv"), "city"),
    ],
)
def test_options_are_checked_and_part_of_the_fingerprint(tmp_path, case, option, values, wrong):
    root = copy_of(case, tmp_path)
    sources = [case.find(root, **{option: value}) for value in values]
    assert sources[0].fingerprint != sources[1].fingerprint
    for value, source in zip(values, sources, strict=True):
        assert value in source.config
    with pytest.raises(ValueError, match=f"unknown {option} '{wrong}'; valid: .*{values[1]}"):
        case.find(root, **{option: wrong})


def test_qaconv_takes_all_scenes_of_clonedperson_for_one(tmp_path):
    source = clonedperson.find(copy_of(CLONED, tmp_path), camera_rule="qaconv")
    assert [r.camid for split in source.splits.values() for r in split] == [0, 1, 3, 2, 0]


@pytest.mark.parametrize(("boxes", "other"), [("detected", "labeled"), ("labeled", "detected")])
def test_boxes_are_those_of_the_folder(tmp_path, boxes, other):
    root = copy_of(CUHK, tmp_path / other)
    with pytest.raises(ValueError, match=rf"{other} boxes by its name.*cuhk03_np\?boxes={other}"):
        cuhk03_np.find(root, boxes=boxes)
    copy_of(CUHK, tmp_path / boxes)
    for each in (boxes, other):
        source = cuhk03_np.find(tmp_path, boxes=each)
        assert os.path.dirname(source.splits["query"][0].image) == str(tmp_path / each / "query")


def test_msmt17_trains_on_the_lists_that_are_chosen(tmp_path):
    root = copy_of(MSMT, tmp_path)
    train = [labels for labels in expected(MSMT, "train") if "_07_" not in labels[0]]
    source = msmt17.find(root, train_split="train")
    assert labels(source, "train") == train
    assert "expected train 1,041 ids / 30,248 images, found 2 / 2" in source.notices[0]
    (root / "list_val.txt").unlink()
    assert labels(msmt17.find(root, train_split="train"), "train") == train
    with pytest.raises(FileNotFoundError, match=r"no file .*list_val.txt; expected the list"):
        msmt17.find(root)


def test_msmt17_combines_all_lists_whatever_is_trained_on(tmp_path):
    root = copy_of(MSMT, tmp_path)
    sources = [msmt17.find(root, train_split=t, combine_all=True) for t in msmt17.TRAIN_SPLITS]
    assert repr(sources[0]) == repr(sources[1])
    assert len(sources[0].splits["train"]) == 6


@pytest.mark.parametrize("suffix", [".jpeg", ".png"])
def test_copies_of_msmt17_may_have_other_suffixes_and_line_ends(tmp_path, suffix):
    root = copy_of(MSMT_V2, tmp_path)
    for path, *_ in MSMT_V2.files:
        (root / path).rename((root / path).with_suffix(suffix))
    for name, text in MSMT.lists.items():
        lines = text.replace("\n", "\r\n").replace(" ", "\t")
        (root / name).write_bytes(b"\xef\xbb\xbf" + f"{lines}\r\n  \r\n".encode())
    source = msmt17.find(root)
    for split, records in source.splits.items():
        assert labels(source, split) == expected(MSMT, split)
        assert {os.path.splitext(r.image)[1] for r in records} == {suffix}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0000/0000_000_05_0303morning_0820_1.jpg", r"line 2: .*expected the path of an image and"),
        ("0000/0000_000_00_0303morning_0820_1.jpg 0", "line 2: .*expected the path of an image"),
        ("0000/0001_c1_f0000001.jpg 0", "line 2: .*'0000/0000_045_12_0303morning_0006_2.jpg 0'"),
        (MSMT.lists["list_query.txt"], "line 2: .*_13_0302afternoon_0422_1.jpg is listed twice"),
    ],
)
def test_lines_of_msmt17_lists_that_are_not_an_image_and_a_person(tmp_path, line, message):
    root = copy_of(MSMT, tmp_path)
    with (root / "list_query.txt").open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=f"list_query.txt, {message}"):
        msmt17.find(root)


def test_lists_of_msmt17_agree_with_its_folders(tmp_path):
    root = copy_of(MSMT, tmp_path)
    (root / MSMT.files[0][0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images of list_train.txt and list_val"):
        msmt17.find(root)
    (root / MSMT.files[0][0]).touch()
    (root / "list_query.txt").write_text("\n")
    with pytest.raises(ValueError, match="list_query.txt names no images; expected lines like"):
        msmt17.find(root)


def test_two_versions_of_msmt17_are_not_confused(tmp_path):
    copy_of(MSMT, tmp_path / "MSMT17_V1")
    copy_of(MSMT_V2, tmp_path / "MSMT17_V2")
    with pytest.raises(ValueError, match="both versions .*_V1/train and .*/mask_train_v2; exp"):
        msmt17.find(tmp_path)
    first, second = (msmt17.find(tmp_path / name) for name in ("MSMT17_V1", "MSMT17_V2"))
    assert labels(first, "train") == labels(second, "train")
    assert first.fingerprint != second.fingerprint


GOLDEN = {
    "duke": dukemtmcreid.find,
    "cuhk03_np": cuhk03_np.find,
    "randperson": randperson.find,
    "clonedperson": functools.partial(clonedperson.find, camera_rule="qaconv"),
}


def parsed(source, split, timed):
    """Records as the original's lists: training people numbered, 0 for an unknown time."""
    records = source.splits[split]
    number = {pid: i for i, pid in enumerate(sorted({r.pid for r in records}))}
    return [
        [r.name, number[r.pid] if split == "train" else r.pid, r.camid, r.time if timed else 0]
        for r in records
    ]


@pytest.mark.golden
@pytest.mark.parametrize("name", GOLDEN)
def test_equals_the_original_parser(golden_dir, tmp_path, name):
    stored = json.loads((golden_dir / "datasets.json").read_text())[name]
    paths = [f"{part}/{file}" for part, files in stored["files"].items() for file in files]
    source = GOLDEN[name](make_tree(tmp_path, paths))
    for split in source.splits:
        # Times, too: the same division of the same integers.
        original = stored["parsed"][split]
        assert parsed(source, split, stored["parsed"]["has_time_info"]) == original


@pytest.mark.golden
@pytest.mark.parametrize("combine_all", [False, True])
def test_msmt17_equals_the_original_parser(golden_dir, tmp_path, combine_all):
    stored = json.loads((golden_dir / "datasets.json").read_text())["msmt"]
    lists = {name: "\n".join(lines) for name, lines in stored["lists"].items()}
    parts = {"list_train.txt": "train", "list_val.txt": "train"}
    paths = [
        f"{parts.get(name, 'test')}/{line.split()[0]}"
        for name, lines in stored["lists"].items()
        for line in lines
    ]
    source = msmt17.find(make_tree(tmp_path, paths, lists), combine_all=combine_all)
    original = stored[f"parsed_combine_all_{str(combine_all).lower()}"]
    people = stored["parsed_combine_all_false"]["num_train_ids"]
    for split in source.splits:
        ours, theirs = parsed(source, split, timed=False), original[split]
        if combine_all and split == "train":
            # Names begin with the folder there, and with the split here; gallery is before query.
            ours, theirs = (
                sorted([name.partition("/")[2], *rest] for name, *rest in records)
                for records in (ours, theirs)
            )
        elif combine_all:
            # The original also numbers the people of these splits after the training people.
            ours = [[f"test/{name}", pid + people, *rest] for name, pid, *rest in ours]
        assert ours == theirs
