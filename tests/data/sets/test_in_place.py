"""Images of a folder are read where they are: as from a copy, checked once, later by name alone."""

import numpy as np
import pytest
from people import market_tree
from PIL import Image

from jaxreid.data import pipeline
from jaxreid.data.images import pillow
from jaxreid.data.images.on_disk import ImageFiles
from jaxreid.data.sets import digests, files, load, load_sets
from jaxreid.data.split import join


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_SETTLED", -10.0)
    market_tree(tmp_path / "raw", train=3, test=2, shots=1)
    return tmp_path / "raw"


def decoded(monkeypatch):
    """Names of the files that are decoded to check them."""
    names, check = [], files.check_file
    monkeypatch.setattr(files, "check_file", lambda data: names.append(len(data)) or check(data))
    return names


def test_a_folder_is_read_as_its_copy_is(tree, tmp_path):
    here, copy = load("market1501", tree), load("market1501", tree, prepared_dir=tmp_path / "copy")
    for split, held in here.items():
        assert isinstance(held.image, ImageFiles)
        other = copy[split]
        assert (held.name, list(held.image)) == (other.name, list(other.image))
        assert (held.fingerprint, held.origins) == (other.fingerprint, other.origins)
        np.testing.assert_array_equal(held.digests, other.digests)
        half = np.arange(len(held))[::2]
        assert list(held.take(half).image) == list(other.take(half).image)
        assert held.image.size.tolist() == [
            list(pillow.read_image(b).shape[:2]) for b in held.image
        ]


def test_images_are_decoded_once_and_again_when_they_change(tree, monkeypatch, capfd):
    seen = decoded(monkeypatch)
    splits = load("market1501", tree)
    assert len(seen) == sum(map(len, splits.values()))
    assert f"checking market1501 ({len(seen)} images)" in capfd.readouterr().err
    seen.clear()
    load("market1501", tree)
    assert (seen, capfd.readouterr().err) == ([], "")
    Image.new("RGB", (20, 40)).save(splits["train"].image.paths[0])
    load("market1501", tree)
    assert len(seen) == 1


def test_a_broken_image_is_named_every_time_and_the_others_are_known(tree, monkeypatch):
    file = next((tree / "query").iterdir())
    file.write_bytes(b"broken")
    seen = decoded(monkeypatch)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"market1501: .*{file.name}: broken image"):
            load("market1501", tree)
    assert len(seen) == len(list(tree.rglob("*.jpg"))) + 1


def test_broken_images_are_left_out_where_that_is_asked_for(tree, tmp_path, caplog):
    file = next((tree / "bounding_box_train").iterdir())
    file.write_bytes(b"broken")
    with pytest.raises(ValueError, match="broken image.*To leave broken images out: --config.data"):
        load("market1501", tree)
    copy = {"prepared_dir": tmp_path / "copy"}
    for kind in ({}, copy):
        splits = load("market1501", tree, skip_broken=True, **kind)
        assert file.name not in splits["train"].name
        total = sum(len(split) for split in splits.values()) + 1
        said = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
        assert said[-1].startswith(f"market1501: broken images: 1 of {total if kind else 1}, left")
        with pytest.raises(ValueError, match="broken image"):  # a copy without it is another one
            load("market1501", tree, **kind)


@pytest.mark.parametrize("what", ["[1]", '{"a": 1}', '{"a": [1]}', "no JSON", None])
def test_what_is_known_may_be_damaged_or_impossible_to_keep(tree, tmp_path, what):
    load("market1501", tree)
    cache = tmp_path / "cache" / "jaxreid"
    for memory in (cache / "images").iterdir():
        memory.write_text(what or "")
    for memory in (cache / "digests").iterdir():
        memory.write_text(what or "")
    if what is None:
        for folder in (cache / "images", cache / "digests"):
            for memory in folder.iterdir():
                memory.unlink()
            folder.rmdir()
            folder.touch()
    assert len(load("market1501", tree)["train"]) == len(
        list((tree / "bounding_box_train").iterdir())
    )


def test_batches_are_those_of_images_in_memory(tree, tmp_path):
    there = load("market1501", tree)["train"]
    store = pipeline.ImageStore(there.image, there.name)
    memory = pipeline.ImageStore(list(there.image), there.name)
    assert (store.size, store.plain) == (memory.size, memory.plain)
    order = np.arange(len(there), dtype=np.int32)[None]
    form = {"height": 64, "width": 32, "augment": None, "seed": 0, "epoch": 0}
    (one,), (other,) = (
        list(pipeline.train_batches(each, there.labels, order, **form)) for each in (store, memory)
    )
    np.testing.assert_array_equal(one["image"], other["image"])


def test_a_file_that_vanishes_or_breaks_during_a_run_names_itself(tree):
    there = load("market1501", tree)["train"]
    store = pipeline.ImageStore(there.image, there.name)
    order = np.arange(len(there), dtype=np.int32)[None]
    form = {"height": 64, "width": 32, "augment": None, "seed": 0, "epoch": 0}
    file = tree / "bounding_box_train" / there.name[1]
    file.write_bytes(b"broken")
    with pytest.raises(ValueError, match=f"{there.name[1]}"):
        next(pipeline.train_batches(store, there.labels, order, **form))
    file.unlink()
    with pytest.raises(ValueError, match=f"cannot read .*{there.name[1]}: No such file.*Restore"):
        next(pipeline.train_batches(store, there.labels, order, **form))
    with pytest.raises(FileNotFoundError, match=f"cannot read .*{there.name[1]}"):
        there.image[1]


def test_joined_with_images_in_memory_all_are_in_memory(tree, tmp_path):
    there = load("market1501", tree)["train"]
    drawn = "synthetic_people/plaza?train_ids=2&test_ids=2&images_per_id=4&distractors=1"
    both, _ = load_sets(
        train=("market1501", drawn), test=(drawn,), dir=tree, prepared_dir=tmp_path / "copy"
    )
    plaza = load(drawn, prepared_dir=tmp_path / "copy")["train"]
    mixed = join({"market1501": there, "plaza": plaza})
    assert list(mixed.image) == list(both.image) == [*there.image, *plaza.image]
    doubled = join({"a": there, "b": there})
    assert isinstance(doubled.image, ImageFiles)
    assert list(doubled.image) == [*there.image, *there.image]
    np.testing.assert_array_equal(doubled.digests, np.tile(there.digests, 2))
