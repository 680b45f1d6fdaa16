"""CUHK03-NP in the files of CUHK03 and of the protocol: cells, splits, messages."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from jaxreid.data.sets import cuhk03_np, load

h5py = pytest.importorskip("h5py")

# Cell and person of the protocol, by split: two camera pairs, in which numbers start anew.
SPLITS = {
    "train": {"1_001_1_01.png": 1, "1_001_2_06.png": 1, "2_001_1_02.png": 4},
    "query": {"1_002_1_01.png": 2},
    "gallery": {"1_002_1_02.png": 2, "1_002_2_10.png": 2},
}
CELLS = {cell: pid for part in SPLITS.values() for cell, pid in part.items()}


def pixels_of(cell, boxes):
    """Image of a cell, 12 x 6 with other values in every cell."""
    seed = [*cell.encode(), *boxes.encode()]
    return np.random.default_rng(seed).integers(0, 256, (12, 6, 3), np.uint8)


def make_files(root, *, boxes=("detected", "labeled"), archive="cuhk03_release/cuhk-03.mat"):
    """Write the two kinds of files as MATLAB and the authors do."""
    (root / archive).parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / archive, "w") as file:
        empty = file.create_dataset("#refs#/empty", data=np.zeros(2, np.uint64))
        for kind in boxes:
            pairs = file.create_dataset(kind, (1, 5), h5py.ref_dtype)
            for pair in range(1, 6):
                people = file.create_dataset(f"#refs#/{kind}{pair}", (10, 3), h5py.ref_dtype)
                people[:] = empty.ref
                for cell in CELLS:
                    of, person, _, image = map(int, cell.removesuffix(".png").split("_"))
                    if of == pair:
                        data = pixels_of(cell, kind).T
                        held = file.create_dataset(f"#refs#/{kind}/{cell}", data=data)
                        people[image - 1, person - 1] = held.ref
                pairs[0, pair - 1] = people.ref
    for kind in boxes:
        write_protocol(root / f"cuhk03_new_protocol_config_{kind}.mat")
    return root


def write_protocol(path, splits=SPLITS):
    cells = {cell: pid for part in splits.values() for cell, pid in part.items()}
    numbers = {cell: i for i, cell in enumerate(cells, 1)}
    filelist = np.empty((len(cells), 1), object)
    filelist[:, 0] = list(cells)
    indices = {f"{s}_idx": [[numbers[c]] for c in part] for s, part in splits.items()}
    savemat(path, {"filelist": filelist, "labels": [[p] for p in cells.values()], **indices})


@pytest.mark.parametrize(
    ("inside", "archive"),
    [
        (".", "cuhk03_release/cuhk-03.mat"),
        ("cuhk03", "cuhk03_release/cuhk-03.mat"),
        (".", "cuhk-03.mat"),
    ],
)
@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_cells_become_images_of_the_protocols_splits(tmp_path, inside, archive, boxes):
    make_files(tmp_path / inside, archive=archive)
    source = cuhk03_np.find(tmp_path, boxes=boxes)
    assert len(source) == len(CELLS)
    for split, cells in SPLITS.items():
        records = list(source.splits[split])
        assert {r.name: r.pid for r in records} == cells
        assert [r.camid for r in records] == [int(name.split("_")[2]) - 1 for name in cells]
        for record in records:
            image = Image.open(io.BytesIO(record.image))
            assert image.format == "PNG"
            np.testing.assert_array_equal(image, pixels_of(record.name, boxes))


def test_they_are_loaded_and_combined(tmp_path):
    make_files(tmp_path)
    splits = load("cuhk03_np", tmp_path, prepared_dir=tmp_path / "prepared", combine_all=True)
    names = [f"{split}/{cell}" for split, part in SPLITS.items() for cell in part]
    assert splits["train"].name == sorted(names)
    assert sorted(set(splits["train"].pid)) == [1, 2, 4]
    assert splits["gallery"].name == list(SPLITS["gallery"])


def test_fingerprint_follows_files_and_options(tmp_path):
    make_files(tmp_path)
    first = cuhk03_np.find(tmp_path)
    assert repr(cuhk03_np.find(tmp_path)) == repr(first)
    others = [
        cuhk03_np.find(tmp_path, boxes="labeled"),
        cuhk03_np.find(tmp_path, combine_all=True),
    ]
    protocol = tmp_path / "cuhk03_new_protocol_config_detected.mat"
    write_protocol(protocol, SPLITS | {"query": {"1_002_1_01.png": 3}})
    others.append(cuhk03_np.find(tmp_path))
    assert len({s.fingerprint for s in (first, *others)}) == 4


def test_a_folder_of_images_comes_first(tmp_path):
    make_files(tmp_path)
    for part, name in (
        ("bounding_box_train", "0001_c1_1.png"),
        ("query", "0002_c1_1.png"),
        ("bounding_box_test", "0002_c2_1.png"),
    ):
        (tmp_path / "detected" / part).mkdir(parents=True)
        (tmp_path / "detected" / part / name).touch()
    assert [r.name for r in cuhk03_np.find(tmp_path).splits["train"]] == ["0001_c1_1.png"]
    assert len(cuhk03_np.find(tmp_path, boxes="labeled").splits["train"]) == 3


def test_messages_say_what_is_missing(tmp_path, monkeypatch):
    make_files(tmp_path, boxes=("detected",))
    with pytest.raises(FileNotFoundError, match="no file cuhk03_new_protocol_config_labeled.mat"):
        cuhk03_np.find(tmp_path, boxes="labeled")
    protocol = tmp_path / "cuhk03_new_protocol_config_detected.mat"
    for cell, message in (
        ("1_003_1_01.png", "the cell 1_003_1_01.png of detected is empty; expected an image"),
        ("0001_c1_1.png", "'0001_c1_1.png' is not a cell of .*; expected one like 1_001_1_01.png"),
    ):
        write_protocol(protocol, SPLITS | {"train": {cell: 1}})
        with pytest.raises(ValueError, match=message):
            list(cuhk03_np.find(tmp_path).splits["train"])
    for damage, message in (
        ({"labels": [[2**40]] * 6}, "a label is not a whole number"),
        ({"train_idx": [[0]]}, "does not hold the new protocol .*KeyError: 0"),
        ({"train_idx": [["a"]]}, "does not hold the new protocol"),
        ({"filelist": [[1.0]]}, "does not hold the new protocol .*zip"),
    ):
        write_protocol(protocol)
        held = {name: value for name, value in loadmat(protocol).items() if name[0] != "_"}
        savemat(protocol, held | damage)
        with pytest.raises(ValueError, match=message):
            cuhk03_np.find(tmp_path)
    write_protocol(protocol)
    with h5py.File(tmp_path / "cuhk03_release/cuhk-03.mat", "a") as file:
        people = file[file["detected"][0, 0]]
        # One value for all pixels takes no room.
        large = file.create_dataset("large", (3, 10**6, 10**6), np.uint8, chunks=(3, 10, 10))
        people[0, 0] = large.ref
    with pytest.raises(ValueError, match="1_001_1_01.png of detected cannot be read .*holds 3,000"):
        list(cuhk03_np.find(tmp_path).splits["train"])
    with h5py.File(tmp_path / "cuhk03_release/cuhk-03.mat", "a") as file:
        del file["detected"]
    with pytest.raises(ValueError, match="cuhk-03.mat: detected cannot be read .*KeyError"):
        list(cuhk03_np.find(tmp_path).splits["train"])
    (tmp_path / "cuhk03_release/cuhk-03.mat").write_bytes(b"MATLAB 7.3")
    with pytest.raises(ValueError, match=r"cuhk-03.mat: cannot be read .*Unpack"):
        list(cuhk03_np.find(tmp_path).splits["train"])
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        cuhk03_np.find(tmp_path)
