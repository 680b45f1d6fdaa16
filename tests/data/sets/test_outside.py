"""Data sets from outside the package, each in one file, and data sets without TensorFlow."""

import io
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from jaxreid.data.sets import SETS, Record, Source, load, load_sets
from jaxreid.data.split import Split

ARRAYS = """
    import numpy as np
    from jaxreid.data.split import Split

    def mine(folder, *, people=3):
        '''Photographs of my street.'''
        def split(first):
            pid = np.repeat(np.arange(first, first + people, dtype=np.int32), 2)
            names = [f"{p}_{i}.ppm" for i, p in enumerate(pid)]
            images = [b"P6 1 1 255 " + bytes([i, people, first]) for i in range(len(pid))]
            return Split(images, names, pid, pid % 2, np.full(len(pid), np.nan))
        return {"train": split(1), "query": split(50), "gallery": split(50)}
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder outside the package with a data set in one file."""
    (tmp_path / "my_street.py").write_text(textwrap.dedent(ARRAYS))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_street", None)


@pytest.fixture
def registered():
    """Names registered by a test; they are gone after it."""
    before = dict(SETS._entries)
    yield SETS.register
    SETS._entries = before


def test_a_data_set_is_one_file_outside_the_package(outside):
    splits = load("my_street:mine", dir="/photos")
    assert [len(split) for split in splits.values()] == [6, 6, 6]
    (origin,) = splits["train"].origins
    assert origin.name == "my_street:mine"
    assert splits["query"].origins == (origin,)
    assert load("my_street:mine", dir="/photos")["train"].origins == (origin,)
    other = load("my_street:mine-people=2", dir="/photos")
    assert other["train"].num_classes == 2
    assert other["train"].origins != (origin,)
    images, tests = load_sets(
        train=("my_street:mine", "my_street:mine-people=2"), test=("my_street:mine",), dir="/p"
    )
    assert images.num_classes == 5
    assert [o.name for o in images.origins] == ["my_street:mine"] * 2
    assert list(tests) == ["my_street:mine"]


def test_a_registered_function_is_a_data_set(outside, registered):
    import my_street

    registered("my-street")(my_street.mine)
    assert load("my-street-people=1", dir="/photos")["train"].num_classes == 1


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("my_street:mine", None, "read from a folder, .* set data.dir .* Photographs of my street"),
        ("my_street:mine/night", "/x", "my_street:mine has no domains"),
        ("my_street:mine-shots=3", "/x", "unknown option of my_street:mine 'shots'; valid: people"),
        ("my_street:yours", "/x", "dataset 'my_street:yours' cannot be imported.*PYTHONPATH"),
        ("no_module:mine", "/x", "cannot be imported: No module named 'no_module'"),
    ],
)
def test_mistakes_with_a_data_set_from_outside_are_explained(outside, name, folder, message):
    with pytest.raises(ValueError, match=message):
        load(name, dir=folder)


def test_what_a_data_set_gives_is_checked(registered):
    registered("nothing")(lambda: None)
    with pytest.raises(
        ValueError, match="'nothing' returned NoneType; expected a Source, or a dict"
    ):
        load("nothing")
    pid = np.zeros(1, np.int32)
    split = Split([b"P6 1 1 255 rgb"], ["a.ppm"], pid, pid, np.zeros(1))
    registered("tests_only")(lambda: {"query": split, "gallery": split})
    assert list(load("tests_only")) == ["query", "gallery"]
    with pytest.raises(
        ValueError, match="data.train names 'tests_only', which has no train split; it has query"
    ):
        load_sets(train=("tests_only",), test=("tests_only",))
    registered("choose")(lambda *, camera: {"query": split})
    with pytest.raises(ValueError, match="needs the option camera: write choose.camera=VALUE"):
        load("choose")


def test_a_source_from_outside_gets_a_prepared_copy(registered, tmp_path, capfd):
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 2, 3), np.uint8)).save(file, "JPEG")
    calls = []

    @registered("dots")
    def dots(domain, *, count=2):
        """Dots."""
        calls.append(domain)
        of_all = {"image": file.getvalue(), "camid": 0}
        records = [Record(name=f"{pid:04d}.jpg", pid=pid, **of_all) for pid in range(count)]
        splits = {"train": records}
        return Source(name="dots", config=f"{domain}-{count}", fingerprint="abc", splits=splits)

    for _ in range(2):
        train = load("dots/red-count=3", prepared_dir=tmp_path)["train"]
        assert train.image == [file.getvalue()] * 3
        assert train.pid.tolist() == [0, 1, 2]
        assert np.isnan(train.time).all()
        assert train.origins[0].name == "dots/red"
    assert calls == ["red"] * 2
    assert (tmp_path / "dots" / "red-3" / "1.0.0").is_dir()
    assert capfd.readouterr().err.count("preparing dots/red (3 images)") == 1


WITHOUT = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "fcntl"):
    sys.modules[name] = None
import pickle
import jaxreid.data
from jaxreid.data.images.pillow import image_batches
from jaxreid.data.sampling.samplers import make_sampler
from jaxreid.data.sets import load
options = {"train_ids": 2, "test_ids": 2, "images_per_id": 4, "distractors": 1}
splits = load("synthetic_people/plaza", **options)
splits["market"] = load("market1501", dir=sys.argv[1])["train"]
train = splits["train"]
assert make_sampler("pk", train.labels, batch_size=4, instances=2, seed=0).order(0).shape[1] == 4
assert next(image_batches(train.image, train.name, height=8, width=4, batch_size=4)).any()
pickle.dump(splits, sys.stdout.buffer)
"""


def test_everything_but_training_works_without_tensorflow(tmp_path):
    import pickle

    from people import market_tree

    market_tree(tmp_path / "raw", train=2, test=1, shots=1)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "raw")], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"reading synthetic_people/plaza (" in done.stderr
    loaded = pickle.loads(done.stdout)
    folders = {"prepared_dir": tmp_path / "prepared"}
    options = {"train_ids": 2, "test_ids": 2, "images_per_id": 4, "distractors": 1}
    expected = load("synthetic_people/plaza", **folders, **options)
    expected["market"] = load("market1501", dir=tmp_path / "raw", **folders)["train"]
    assert loaded.keys() == expected.keys()
    for split, ours in expected.items():
        theirs = loaded[split]
        assert (list(theirs.image), theirs.name) == (list(ours.image), ours.name)
        assert theirs.origins == ours.origins
        for column in ("pid", "camid", "time", "source"):
            left, right = getattr(theirs, column), getattr(ours, column)
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
