"""CUHK03's first protocol: cells, published splits, one gallery image of each person."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from jaxreid.data.sets.cuhk03 import find

h5py = pytest.importorskip("h5py")

# Images of (camera pair, person), from 1: two views of up to five images each.
PEOPLE = {(1, 1): (1, 6), (1, 2): (1, 2, 6, 7, 8), (2, 1): (3, 10), (2, 2): (1, 6)}
TESTED = [[(1, 2), (2, 1)], [(2, 1)], *([[(1, 1)]] * 18)]


def make_archive(path, testsets=TESTED):
    """Write cuhk-03.mat as MATLAB does: axes in reverse, a reference for each cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        empty = file.create_dataset("#refs#/empty", data=np.zeros(2, np.uint64))
        for boxes in ("labeled", "detected"):
            pairs = file.create_dataset(boxes, (1, 5), h5py.ref_dtype)
            for pair in range(1, 6):
                cells = file.create_dataset(f"#refs#/{boxes}{pair}", (10, 2), h5py.ref_dtype)
                cells[:] = empty.ref
                for (of, person), images in PEOPLE.items():
                    for image in images if of == pair else ():
                        data = np.full((3, 6, 12), 10 * person + image, np.uint8)
                        held = file.create_dataset(
                            f"#refs#/{boxes}/{pair}{person}{image}", data=data
                        )
                        cells[image - 1, person - 1] = held.ref
                pairs[0, pair - 1] = cells.ref
        sets = file.create_dataset("testsets", (1, len(testsets)), h5py.ref_dtype)
        for i, people in enumerate(testsets):
            people = np.array(people, float).T
            sets[0, i] = file.create_dataset(f"#refs#/set{i}", data=people).ref
    return path.parent


def fields(records):
    return [(r.name, r.pid, r.camid) for r in records]


@pytest.mark.parametrize("inside", ["cuhk-03.mat", "cuhk03/cuhk03_release/cuhk-03.mat"])
def test_people_of_the_published_splits_are_tested_from_view_to_view(tmp_path, inside):
    make_archive(tmp_path / inside)
    source = find(tmp_path, gallery="all")
    assert fields(source.splits["train"]) == [
        ("1_001_1_01.png", 10_001, 0),
        ("1_001_2_06.png", 10_001, 1),
        ("2_002_1_01.png", 20_002, 0),
        ("2_002_2_06.png", 20_002, 1),
    ]
    assert fields(source.splits["query"]) == [
        ("1_002_1_01.png", 10_002, 0),
        ("1_002_1_02.png", 10_002, 0),
        ("2_001_1_03.png", 20_001, 0),
    ]
    assert [r.name for r in source.splits["gallery"]] == [
        *("1_002_2_06.png", "1_002_2_07.png", "1_002_2_08.png", "2_001_2_10.png"),
    ]
    query = next(iter(source.splits["query"]))
    np.testing.assert_array_equal(Image.open(io.BytesIO(query.image)), np.full((12, 6, 3), 21))


def test_a_gallery_has_one_drawn_image_of_each_person(tmp_path):
    make_archive(tmp_path / "cuhk-03.mat", [[(1, 2), (2, 1)]] * 20)
    sources = [find(tmp_path, split=split) for split in range(20)]
    names = [[r.name for r in source.splits["gallery"]] for source in sources]
    assert all(len(those) == 2 and those[1] == "2_001_2_10.png" for those in names)
    assert {those[0] for those in names} == {f"1_002_2_0{i}.png" for i in (6, 7, 8)}
    assert [those[0][-5] for those in names[:6]] == list("867878")


def test_splits_boxes_and_combination_have_their_own_copies(tmp_path):
    make_archive(tmp_path / "cuhk-03.mat")
    sources = [
        find(tmp_path, **options)
        for options in ({}, {"split": 1}, {"boxes": "labeled"}, {"gallery": "all"})
    ]
    everybody = find(tmp_path, combine_all=True)
    assert len({source.config for source in (*sources, everybody)}) == 5
    assert {r.pid for r in sources[1].splits["query"]} == {20_001}
    assert len(everybody.splits["train"]) == sum(map(len, PEOPLE.values()))
    assert repr(find(tmp_path)) == repr(sources[0])


def test_mistakes_are_explained(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no cuhk-03.mat in .*expected .*cuhk03_release"):
        find(tmp_path)
    path = make_archive(tmp_path / "cuhk-03.mat") / "cuhk-03.mat"
    for split in (20, -1, "all", True):
        with pytest.raises(ValueError, match=f"split={split}: expected a split from 0 to 19"):
            find(tmp_path, split=split)
    with pytest.raises(ValueError, match="unknown boxes 'hand'; valid"):
        find(tmp_path, boxes="hand")
    with pytest.raises(ValueError, match="unknown gallery 'one'; valid"):
        find(tmp_path, gallery="one")
    with h5py.File(path, "w") as file:
        file["labeled"] = 1
    with pytest.raises(ValueError, match="cuhk-03.mat cannot be read .*expected the HDF5 file"):
        find(tmp_path)
    path.write_bytes(b"MATLAB")
    with pytest.raises(ValueError, match="cuhk-03.mat cannot be read .*Unpack"):
        find(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        find(tmp_path)
