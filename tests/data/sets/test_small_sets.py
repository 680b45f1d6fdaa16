"""Small sets and those of domain generalisation: layouts, cameras, halves, lists of splits."""

import json
import math

import numpy as np
import pytest
from scipy.io import savemat

from jaxreid.data.sets import (
    cuhk01,
    cuhk02,
    cuhksysu,
    grid,
    ilids,
    load,
    prid2011,
    sensereid,
    viper,
)

SETS = {
    "viper": viper.find,
    "prid2011": prid2011.find,
    "cuhk01": cuhk01.find,
    "ilids": ilids.find,
}
# A name of each set by (person, camera).
NAMES = {
    "viper": lambda pid, camid: f"cam_{'ab'[camid]}/{pid:03d}_{90 * camid}.bmp",
    "prid2011": lambda pid, camid: f"cam_{'ab'[camid]}/person_{pid:04d}.png",
    "cuhk01": lambda pid, camid: f"campus/{pid:04d}{1 + 2 * camid:03d}.png",
    "ilids": lambda pid, camid: f"Persons/{pid:04d}{1 + camid:03d}.jpg",
}


def make_tree(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def make_set(root, name, people=range(1, 13)):
    return make_tree(root, [NAMES[name](pid, camid) for pid in people for camid in (0, 1)])


def fields(records):
    return [(r.name, r.pid, r.camid) for r in records]


def people(source):
    return {part: {r.pid for r in records} for part, records in source.splits.items()}


# Layouts


def test_viper_names_say_person_and_folders_camera(tmp_path):
    source = viper.find(make_set(tmp_path, "viper", [0, 873]), split="all")
    assert fields(source.splits["query"]) == [
        ("cam_a/000_0.bmp", 0, 0),
        ("cam_a/873_0.bmp", 873, 0),
    ]
    assert fields(source.splits["gallery"]) == [
        ("cam_b/000_90.bmp", 0, 1),
        ("cam_b/873_90.bmp", 873, 1),
    ]
    assert all(math.isnan(r.time) for records in source.splits.values() for r in records)


def test_viper_in_metabins_folders(tmp_path):
    names = {
        "train": ["p000_c1_d045.png", "p000_c2_d090.png"],
        "query": ["p001_c2_d000.png"],
        "gallery": ["p001_c1_d090.png"],
    }
    make_tree(tmp_path, [f"viper/split_10d/{p}/{n}" for p, those in names.items() for n in those])
    source = viper.find(tmp_path, split="10d")
    assert fields(source.splits["train"]) == list(zip(names["train"], [0, 0], [0, 1], strict=True))
    assert fields(source.splits["query"]) == [("p001_c2_d000.png", 1, 1)]
    assert fields(source.splits["gallery"]) == [("p001_c1_d090.png", 1, 0)]
    assert source.config.startswith("split10d-")
    with pytest.raises(FileNotFoundError, match="split_1a/train.* missing; it holds viper"):
        viper.find(tmp_path, split="1a")
    with pytest.raises(FileNotFoundError, match="cam_a, cam_b missing.* with viper.split=1a"):
        viper.find(tmp_path)
    with pytest.raises(
        ValueError, match="viper.split=11a: expected a split from 0 .*split=1a to 10d"
    ):
        viper.find(tmp_path, split="11a")


def test_prid_people_from_201_on_never_train_and_only_wait_in_the_gallery(tmp_path):
    make_set(tmp_path, "prid2011", [1, 2, 199, 200])
    make_tree(tmp_path, ["cam_a/person_0201.png", "cam_b/person_0201.png", "cam_b/person_0749.png"])
    source = prid2011.find(tmp_path)
    trained, tested = people(source)["train"], people(source)["query"]
    assert len(trained) == len(tested) == 2
    assert trained | tested == {1, 2, 199, 200}
    assert people(source)["gallery"] == tested | {201, 749}
    assert all(r.camid == 1 for r in source.splits["gallery"])
    assert {r.camid for r in source.splits["train"]} == {0, 1}
    assert all(r.camid == 0 for r in source.splits["query"])
    everybody = prid2011.find(tmp_path, combine_all=True)
    assert people(everybody)["train"] == {1, 2, 199, 200}
    assert len(everybody.splits["train"]) == 8


def test_cuhk01_images_three_and_four_are_from_the_other_camera(tmp_path):
    make_tree(tmp_path, [f"campus/0971{image:03d}.png" for image in (1, 2, 3, 4)])
    source = cuhk01.find(tmp_path, split="all")
    assert fields(source.splits["query"]) == [("0971001.png", 971, 0), ("0971002.png", 971, 0)]
    assert fields(source.splits["gallery"]) == [("0971003.png", 971, 1), ("0971004.png", 971, 1)]


def test_ilids_draws_two_images_of_each_tested_person(tmp_path):
    names = [f"Persons/{pid:04d}{shot:03d}.jpg" for pid in range(1, 6) for shot in range(1, 5)]
    sources = [ilids.find(make_tree(tmp_path, names), split=split) for split in range(10)]
    for source in sources:
        assert len(source.splits["train"]) == 2 * 4
        assert people(source)["query"] == people(source)["gallery"]
        assert len(source.splits["query"]) == len(source.splits["gallery"]) == 3
        pairs = zip(source.splits["query"], source.splits["gallery"], strict=True)
        assert all(a.pid == b.pid and a.camid != b.camid for a, b in pairs)
    assert {r.camid for source in sources for r in source.splits["query"]} == {0, 1, 2, 3}
    # images that were not drawn train, too
    everything = ilids.find(tmp_path, combine_all=True)
    assert len(everything.splits["train"]) == len(names)
    assert fields(everything.splits["train"])[5] == ("0002002.jpg", 2, 1)
    assert len(ilids.find(tmp_path, split="all").splits["query"]) == 5


def test_cuhk02_numbers_people_and_cameras_through_all_pairs(tmp_path):
    names = [f"P{p}/cam{c}/001_0{i}.png" for p in range(1, 6) for c in (1, 2) for i in (1, 2)]
    source = cuhk02.find(make_tree(tmp_path, names))
    assert fields(source.splits["train"])[::2] == [
        (f"P{pair}/cam{camera}/001_01.png", pair * 1_000_000 + 1, 2 * pair + camera - 3)
        for pair in range(1, 5)
        for camera in (1, 2)
    ]
    assert {(r.pid, r.camid) for r in source.splits["query"]} == {(5_000_001, 8)}
    assert {(r.pid, r.camid) for r in source.splits["gallery"]} == {(5_000_001, 9)}
    everybody = cuhk02.find(tmp_path, combine_all=True)
    assert len(everybody.splits["train"]) == 20
    assert len(people(everybody)["train"]) == 5


@pytest.mark.parametrize(
    ("names", "camids"),
    [
        (["cropped_images/p11422_s16929_1.jpg", "cropped_images/p2_s3_2.jpg"], [0, 0]),
        (
            [
                "CUHK-SYSU/cropped_image/p00001_n01_s00007_hard0.png",
                "CUHK-SYSU/cropped_image/p00001_n02_s18184_hard1.png",
            ],
            [7, 18184],
        ),
    ],
)
def test_cuhksysu_counts_one_camera_or_each_scene(tmp_path, names, camids):
    source = cuhksysu.find(make_tree(tmp_path, names))
    assert list(source.splits) == ["train"]
    assert [r.camid for r in source.splits["train"]] == camids
    assert {r.pid for r in source.splits["train"]} <= {1, 2, 11422}
    assert "expected train 11,934 ids / 34,574 images" in source.notices[0]


@pytest.mark.parametrize("probe", ["test_probe", "test_prob"])
def test_sensereid_in_both_spellings(tmp_path, probe):
    make_tree(tmp_path / "SenseReID" / probe, ["00001_0.jpg"])
    make_tree(tmp_path / "SenseReID" / "test_gallery", ["00001_1.jpg", "00002_3.jpg"])
    source = sensereid.find(tmp_path)
    assert fields(source.splits["query"]) == [("00001_0.jpg", 1, 0)]
    assert fields(source.splits["gallery"]) == [("00001_1.jpg", 1, 1), ("00002_3.jpg", 2, 3)]
    assert list(source.splits) == ["query", "gallery"]
    assert people(sensereid.find(tmp_path, combine_all=True))["train"] == {1, 2}


# GRID


def make_grid(root, splits=10):
    """Four people on two cameras, two images of others, and splits of two people each."""
    names = [f"probe/000{pid}_{pid}_25_1_2_3_4.jpeg" for pid in range(1, 5)]
    names += [f"gallery/000{pid}_8_26_1_2_3_4.jpeg" for pid in range(1, 5)]
    names += ["gallery/0000_5_27_1_2_3_4.jpeg", "gallery/0000_6_27_1_2_3_4.jpeg"]
    make_tree(root, names)
    cells = np.empty((1, splits), object)
    for split in range(splits):
        trained = np.array([[1 + split % 4, 1 + (split + 1) % 4]])
        cells[0, split] = {"set": "train", "kind": "id", "people": trained}
    savemat(root / "features_and_partitions.mat", {"trainIdxAll": cells})
    return root


def test_grid_reads_its_published_splits_and_others_never_train(tmp_path):
    source = grid.find(make_grid(tmp_path / "underground_reid"), split=3)
    assert people(source) == {"train": {1, 4}, "query": {2, 3}, "gallery": {0, 2, 3}}
    assert fields(source.splits["query"])[0] == ("probe/0002_2_25_1_2_3_4.jpeg", 2, 1)
    assert [r.camid for r in source.splits["gallery"]] == [4, 5, 7, 7]
    assert [r.name.split("/")[0] for r in source.splits["train"]] == ["probe"] * 2 + ["gallery"] * 2
    assert people(grid.find(tmp_path, combine_all=True))["train"] == {1, 2, 3, 4}
    assert "expected train 125 ids / 250 images, found 2 / 4" in source.notices[0]


def test_grid_without_its_splits(tmp_path):
    path = make_grid(tmp_path) / "features_and_partitions.mat"
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="features_and_partitions.mat does not hold the splits"):
        grid.find(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no file .*mat, .* use grid.split=all"):
        grid.find(tmp_path)
    source = grid.find(tmp_path, split="all")
    assert people(source) == {"query": {1, 2, 3, 4}, "gallery": {0, 1, 2, 3, 4}}


# Halves


@pytest.mark.parametrize("name", SETS)
def test_half_of_the_people_train_and_the_others_are_tested(tmp_path, name):
    make_set(tmp_path, name)
    drawn = set()
    for split in range(10):
        source = SETS[name](tmp_path, split=split)
        trained, tested = people(source)["train"], people(source)["query"]
        assert len(trained) == len(tested) == 6
        assert trained | tested == set(range(1, 13))
        assert people(source)["gallery"] == tested
        assert len(source.splits["train"]) == 12
        drawn.add(frozenset(trained))
    assert len(drawn) == 10
    assert people(SETS[name](tmp_path, split="all")) == {
        part: set(range(1, 13)) for part in ("query", "gallery")
    }


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("viper", {4, 6, 7, 9, 10, 12}),
        ("prid2011", {2, 4, 7, 8, 10, 11}),
        ("cuhk01", {3, 4, 5, 6, 9, 10}),
        ("ilids", {1, 2, 6, 8, 9, 12}),
    ],
)
def test_draws_stay_as_they_are(tmp_path, name, trained):
    source = SETS[name](make_set(tmp_path, name), split=3)
    assert people(source)["train"] == trained


@pytest.mark.parametrize("name", SETS)
def test_combine_all_trains_on_everybody(tmp_path, name):
    source = SETS[name](make_set(tmp_path, name), combine_all=True)
    assert people(source)["train"] == set(range(1, 13))
    assert len({r.name for r in source.splits["train"]}) == 24
    assert source.fingerprint != SETS[name](tmp_path).fingerprint


@pytest.mark.parametrize("split", [10, -1, "first", True])
@pytest.mark.parametrize("find", [*SETS.values(), grid.find])
def test_a_split_that_does_not_exist_is_named(tmp_path, find, split):
    name = find.__module__.rpartition(".")[2]
    root = make_set(tmp_path, name) if name in NAMES else make_grid(tmp_path)
    with pytest.raises(
        ValueError, match=f"{name}.split={split}: expected a split from 0 to 9, or all"
    ):
        find(root, split=split)


@pytest.mark.parametrize("name", [*SETS, "grid"])
def test_every_split_has_its_own_prepared_copy(tmp_path, name):
    root = make_set(tmp_path, name) if name in NAMES else make_grid(tmp_path)
    find = SETS.get(name, grid.find)
    sources = [find(root, split=split) for split in (0, 1, "all")]
    assert len({source.config for source in sources}) == 3
    assert repr(find(root, split=1)) == repr(sources[1])  # times are NaN


def test_splits_of_other_sizes_than_published_are_noticed(tmp_path):
    (notice,) = SETS["viper"](make_set(tmp_path, "viper")).notices
    assert "expected train 316 ids / 632 images, found 6 / 12, query 316 ids / 316 images" in notice
    (notice,) = SETS["cuhk01"](make_set(tmp_path, "cuhk01"), split="all").notices
    assert "expected query 971 ids / 1,942 images, found 12 / 12, gallery" in notice


def complete(name):
    """Return the images of a complete data set."""
    if name == "cuhk01":
        return [f"campus/{pid:04d}00{i}.png" for pid in range(1, 972) for i in range(1, 5)]
    if name == "cuhk02":
        sizes = (971, 306, 107, 193, 239)
        folders = [(f"P{p}/cam{c}", n) for p, n in enumerate(sizes, 1) for c in (1, 2)]
        return [f"{f}/{pid:03d}_0{i}.png" for f, n in folders for pid in range(n) for i in (1, 2)]
    if name == "grid":
        people = [f"{f}/{pid:04d}_1_2.jpeg" for pid in range(1, 251) for f in ("probe", "gallery")]
        return people + [f"gallery/0000_1_{i}.jpeg" for i in range(775)]
    if name == "prid2011":
        both = {"cam_a": 385, "cam_b": 749}
        return [f"{f}/person_{pid:04d}.png" for f, n in both.items() for pid in range(1, n + 1)]
    people = range(632 if name == "viper" else 119)
    return [NAMES[name](pid, camid) for pid in people for camid in (0, 1)]


@pytest.mark.parametrize("name", [*SETS, "grid", "cuhk02"])
def test_complete_sets_have_the_published_sizes(tmp_path, monkeypatch, name):
    monkeypatch.setattr("jaxreid.data.sets.files.digests_of", lambda paths, _: [""] * len(paths))
    make_tree(tmp_path, complete(name))
    if name == "cuhk02":
        assert cuhk02.find(tmp_path).notices == ()
        return
    find = SETS.get(name, grid.find)
    assert find(tmp_path, split="all").notices == ()
    if name == "grid":
        cell = {"set": "train", "kind": "id", "people": np.arange(1, 126)}
        cells = np.empty((1, 10), object)
        cells[0, :] = [cell] * 10
        savemat(tmp_path / "features_and_partitions.mat", {"trainIdxAll": cells})
    assert find(tmp_path).notices == ()


# Lists of splits


def write_splits(path, name, splits):
    """Write splits as torchreid does: absolute paths, and labels that start anew."""
    path.write_text(
        json.dumps(
            [
                {part: [[f"/home/x/{n}", 0, 0] for n in names] for part, names in split.items()}
                | {"num_train_pids": 1}
                for split in splits
            ]
        )
    )
    return path


@pytest.mark.parametrize("name", SETS)
def test_splits_of_torchreid_are_repeated_by_the_end_of_paths(tmp_path, name):
    of = NAMES[name]
    splits = [
        {"train": [of(2, 0), of(2, 1)], "query": [of(1, 0)], "gallery": [of(1, 1)]},
        {"train": [of(1, 1), of(1, 0)], "query": [of(2, 1)], "gallery": [of(2, 0)]},
    ]
    root, file = make_set(tmp_path, name), write_splits(tmp_path / "splits.json", name, splits)
    source = SETS[name](root, splits=file, split=1)
    found = {p: [(r.pid, r.camid) for r in those] for p, those in source.splits.items()}
    assert found == {"train": [(1, 1), (1, 0)], "query": [(2, 1)], "gallery": [(2, 0)]}
    assert source.config != SETS[name](root, splits=file, split=0).config
    write_splits(file, name, [splits[0], splits[0]])
    assert source.config != SETS[name](root, splits=file, split=1).config


def test_lists_of_windows_are_read(tmp_path):
    split = {"train": [], "query": [], "gallery": [[r"D:\viper\VIPeR\cam_b\003_90.bmp", 0, 1]]}
    (tmp_path / "splits.json").write_text(json.dumps([split]))
    source = viper.find(make_set(tmp_path, "viper"), splits=tmp_path / "splits.json")
    assert list(source.splits) == ["gallery"]
    assert fields(source.splits["gallery"]) == [("cam_b/003_90.bmp", 3, 1)]


def test_lists_that_do_not_fit_are_explained(tmp_path):
    root, file = make_set(tmp_path, "viper"), tmp_path / "splits.json"
    with pytest.raises(FileNotFoundError, match="no file .*splits.json.*of torchreid"):
        viper.find(root, splits=file)
    for content in (
        "{",
        "[" * 100_000,
        "{}x",
        '{"train": 3}',
        "[3]",
        '[{"train": []}]',
        '[{"train": [[]]}]',
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match="splits.json is not a file of splits"):
            viper.find(root, splits=file)
    parts = {"train": ["cam_a/001_0.bmp"], "query": ["cam_a/999_0.bmp"], "gallery": []}
    write_splits(file, "viper", [parts])
    with pytest.raises(ValueError, match=r"not in the folder: 1 \(cam_a/999_0.bmp\). Expected"):
        viper.find(root, splits=file)
    for split in (1, "all", "1a", True):
        with pytest.raises(ValueError, match=f"split={split}: .* has 1 splits; expected 0 to 0"):
            viper.find(root, splits=file, split=split)


# Folders


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        *(("viper", i) for i in (".", "VIPeR", "viper", "viper/VIPeR")),
        *(("prid2011", i) for i in (".", "single_shot", "prid_2011/single_shot")),
        ("prid2011", "prid2011/prid_2011/single_shot"),
        *(("cuhk01", i) for i in (".", "CUHK01", "cuhk01")),
        *(("ilids", i) for i in (".", "i-LIDS_Pedestrian", "ilids/i-LIDS_Pedestrian")),
    ],
)
def test_usual_folders_are_found(tmp_path, name, inside):
    make_set(tmp_path / inside, name)
    given = {tmp_path, tmp_path / inside, (tmp_path / inside / NAMES[name](1, 0)).parent}
    if name in ("viper", "prid2011"):
        given = {tmp_path, tmp_path / inside}
    sources = [SETS[name](folder, split="all") for folder in given]
    for source in sources:
        assert repr(source.splits) == repr(sources[0].splits)
        assert len(source) == 24


def test_what_systems_leave_behind_is_ignored(tmp_path):
    for name, find in SETS.items():
        folder = (make_set(tmp_path / name, name) / NAMES[name](1, 0)).parent
        before = find(tmp_path / name)
        for rubbish in ("._0001001.png", "Thumbs.db", ".DS_Store", "README.txt"):
            (folder / rubbish).write_text("x")
        (folder / "__MACOSX").mkdir()
        assert repr(find(tmp_path / name)) == repr(before)
    # a folder of such files alone is not the one with the images
    make_tree(tmp_path / "mixed", ["campus/._0001001.png", "cuhk01/0001001.png"])
    assert len(cuhk01.find(tmp_path / "mixed", split="all")) == 1


def test_other_suffixes_are_read(tmp_path):
    names = ["campus/0001001.bmp", "campus/0001003.JPEG", "campus/0002001.jpg"]
    source = cuhk01.find(make_tree(tmp_path, names), split="all")
    assert len(source) == 3


@pytest.mark.parametrize(
    ("find", "name"),
    [
        (viper.find, "cam_a/person.bmp"),
        (prid2011.find, "cam_b/0001.png"),
        (cuhk01.find, "campus/001001.png"),
        (cuhk01.find, "campus/0001000.png"),
        (ilids.find, "Persons/0001.jpg"),
        (grid.find, "probe/0001.jpeg"),
        (cuhk02.find, "P1/cam1/a.png"),
        (cuhksysu.find, "cropped_images/0001.jpg"),
        (sensereid.find, "test_probe/0001.jpg"),
    ],
)
def test_other_names_are_named_with_an_example(tmp_path, find, name):
    set_name = find.__module__.rpartition(".")[2]
    if set_name in NAMES:
        make_set(tmp_path, set_name)
    elif set_name == "grid":
        make_grid(tmp_path)
    make_tree(tmp_path, [name, "test_gallery/0001_1.jpg"])
    make_tree(tmp_path, [f"P{p}/cam{c}/001_01.png" for p in range(1, 6) for c in (1, 2)])
    bad = name.rpartition("/")[2]
    with pytest.raises(ValueError, match=f"{bad}: not a .* file name; expected one like"):
        find(tmp_path)


@pytest.mark.parametrize(
    "find", [*SETS.values(), grid.find, cuhk02.find, cuhksysu.find, sensereid.find]
)
def test_other_folders_are_explained(tmp_path, find):
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileNotFoundError, match="it holds photos. Expected the .*Unpack"):
        find(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere.*xpected"):
        find(tmp_path / "nowhere")


def test_names_with_options_load(tmp_path):
    from PIL import Image

    make_set(tmp_path, "cuhk01", [1, 2])
    for path in (tmp_path / "campus").iterdir():
        Image.new("RGB", (4, 8), (int(path.name[3]) * 50, int(path.name[6]) * 50, 0)).save(path)
    splits = load(f"cuhk01:{tmp_path}?split=all", prepared_dir=tmp_path / "prepared")
    assert splits["query"].pid.tolist() == splits["gallery"].pid.tolist() == [1, 2]
    assert splits["gallery"].camid.tolist() == [1, 1]
