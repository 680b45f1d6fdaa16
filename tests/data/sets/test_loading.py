"""Loading data sets by name: contents, preparation that can be killed and shared, messages."""

import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxreid import cli
from jaxreid.data import sets
from jaxreid.data.sets import load, load_sets, parse_options, prepared
from jaxreid.data.split import Split, join
from jaxreid.locks import hold

PARTS = {
    "bounding_box_train": {"train": [(2, 1), (2, 3), (9, 2), (9, 6), (5, 1)]},
    "query": {"query": [(1, 1), (3, 4)]},
    "bounding_box_test": {"gallery": [(0, 2), (1, 2), (1, 3), (3, 5)]},
}
REPOSITORY = pathlib.Path(sets.__file__).parents[3]


def make_tree(root, images_per_pair=1):
    """A small Market-1501; returns its files by split."""
    g = np.random.default_rng(0)
    files = {}
    for part, split in PARTS.items():
        (root / part).mkdir(parents=True)
        for name, pairs in split.items():
            files[name] = []
            for pid, camera in pairs:
                for i in range(images_per_pair):
                    path = root / part / f"{pid:04d}_c{camera}s1_{100 * camera + i:06d}_00.jpg"
                    Image.fromarray(g.integers(0, 256, (16, 8, 3), np.uint8)).save(path)
                    files[name].append(path)
            files[name].sort()
    return files


def start(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def contents(splits):
    return {k: (s.name, s.image, s.pid.tolist(), s.time.tolist()) for k, s in splits.items()}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"tried to reach the network: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_market1501_from_a_folder(tmp_path, no_network, capfd, caplog):
    files = make_tree(tmp_path / "raw")
    splits = load("market1501", dir=tmp_path / "raw", prepared_dir=tmp_path / "prepared")
    assert list(splits) == ["train", "query", "gallery"]
    for name, split in splits.items():
        assert split.name == [f.name for f in files[name]]
        assert split.image == [f.read_bytes() for f in files[name]]
        assert split.pid.tolist() == [int(f.name[:4]) for f in files[name]]
        assert split.camid.tolist() == [int(f.name[6]) - 1 for f in files[name]]
        assert split.time.tolist() == [int(f.name[9:16].strip("_")) / 25 for f in files[name]]
        assert (split.pid.dtype, split.camid.dtype, split.time.dtype) == (
            np.int32,
            np.int32,
            np.float64,
        )
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "preparing market1501 (11 images) into" in captured.err
    assert [r.message for r in caplog.records if "expected train 751 ids" in r.message]

    again = load("market1501", dir=tmp_path / "raw", prepared_dir=tmp_path / "prepared")
    assert contents(again) == contents(splits)
    assert capfd.readouterr() == ("", "")
    left = [p.name for p in (tmp_path / "prepared").rglob("*") if "incomplete" in p.name]
    assert left == []
    assert not (tmp_path / "prepared" / "downloads").exists()


def test_labels_are_places_among_the_sorted_ids():
    pid = np.array([9, 2, 5, 2], np.int32)
    split = Split([b""] * 4, list("abcd"), pid, pid * 0, np.full(4, np.nan))
    assert split.labels.tolist() == [2, 0, 1, 0]
    assert split.labels.dtype == np.int32
    assert split.num_classes == 3
    assert len(split) == 4


def make_split(pid, letters):
    pid = np.array(pid, np.int32)
    files = [letter.encode() for letter in letters]
    return Split(files, [f"{c}.jpg" for c in letters], pid, pid % 3, pid / 2)


def test_the_summary_of_one_data_set_is_that_of_older_checkpoints():
    split = make_split([9, 2, -1, 2], "abcd")
    assert split.summary == {"identities": 3, "images": 4, "digest": "eb02fcd502c8b2e1"}
    assert not split.source.any()
    assert (split.source.dtype, split.source.shape) == (np.int32, (4,))


def test_joined_data_sets_keep_their_people_apart():
    plaza, mall, hall = (
        make_split([9, 2, 9], "abc"),
        make_split([2, 9, -1], "abd"),
        make_split([1], "a"),
    )
    both = join({"set/plaza": plaza, "set/mall": mall, "hall": hall})
    assert both.source.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert both.source.dtype == both.labels.dtype == np.int32
    assert both.pid.tolist() == [9, 2, 9, 2, 9, -1, 1]
    assert both.labels.tolist() == [1, 0, 1, 3, 4, 2, 5]
    assert both.num_classes == 6
    assert both.camid.tolist() == [0, 2, 0, 2, 0, 2, 1]
    assert both.time.tolist() == [4.5, 1, 4.5, 1, 4.5, -0.5, 0.5]
    assert both.image == [b"a", b"b", b"c", b"a", b"b", b"d", b"a"]
    assert both.name[2:5] == ["set/plaza/c.jpg", "set/mall/a.jpg", "set/mall/b.jpg"]
    assert len(set(both.name)) == len(both)
    part = both.select(both.pid == 9)
    assert part.source.tolist() == [0, 0, 1]
    assert part.labels.tolist() == [0, 0, 1]
    assert both.take(np.array([4, 0])).source.tolist() == [1, 0]
    with pytest.raises(ValueError, match="both is already joined: join all splits at once"):
        join({"plaza": plaza, "both": both})
    with pytest.raises(ValueError, match="nothing to join"):
        join({})
    assert join({"plaza": plaza}) is plaza


def test_the_summary_tells_sources_apart():
    columns = {"image": [b""] * 3, "name": list("abc"), "pid": np.array([1, 2, 3], np.int32)}
    columns |= {"camid": np.zeros(3, np.int32), "time": np.zeros(3)}
    sources = (None, [0, 0, 1], [0, 1, 1], [0, 1, 2])
    digests = {
        Split(**columns, source=source and np.array(source, np.int32)).summary["digest"]
        for source in sources
    }
    assert len(digests) == len(sources)


def test_a_changed_folder_and_another_option_get_their_own_copies(tmp_path, capfd):
    files = make_tree(tmp_path / "raw")
    args = {"dir": tmp_path / "raw", "prepared_dir": tmp_path / "prepared"}
    load("market1501", **args)
    load("market1501", time_rule="corrected", **args)
    files["train"][0].unlink()
    smaller = load("market1501", **args)
    assert smaller["train"].name == [f.name for f in files["train"][1:]]
    copies = sorted(p.parent.name for p in (tmp_path / "prepared" / "market1501").glob("*/1.0.0"))
    assert [c.partition("-")[0] for c in copies] == ["corrected", "qaconv", "qaconv"]
    assert len(set(copies)) == 3


def test_a_prepared_copy_may_be_read_only(tmp_path, capfd, monkeypatch):
    make_tree(tmp_path / "raw")
    args = {"dir": tmp_path / "raw", "prepared_dir": tmp_path / "prepared"}
    load("market1501", **args)
    assert (tmp_path / "prepared" / "market1501").is_dir()
    monkeypatch.setattr(prepared, "hold", None)  # reading takes no lock and writes nothing
    load("market1501", **args)


def test_a_broken_image_stops_the_preparation(tmp_path, capfd):
    files = make_tree(tmp_path / "raw")
    args = {"dir": tmp_path / "raw", "prepared_dir": tmp_path / "prepared"}
    whole = files["gallery"][1].read_bytes()
    files["gallery"][1].write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=f"{files['gallery'][1].name}: broken image"):
        load("market1501", **args)
    assert not list((tmp_path / "prepared").glob("market1501/qaconv-*/*"))
    files["gallery"][1].write_bytes(whole)
    assert len(load("market1501", **args)["gallery"]) == 4


def test_a_damaged_copy_is_named_or_replaced(tmp_path, capfd):
    make_tree(tmp_path / "raw")
    args = {"dir": tmp_path / "raw", "prepared_dir": tmp_path / "prepared"}
    before = contents(load("market1501", **args))
    (copy,) = (tmp_path / "prepared").glob("market1501/*/1.0.0")
    (record,) = copy.glob("*train.tfrecord*")
    record.write_bytes(record.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"1\.0\.0 is damaged .*Delete that folder"):
        load("market1501", **args)
    (copy / "dataset_info.json").unlink()  # now nothing says that it was ever finished
    assert contents(load("market1501", **args)) == before


KILLED = """
import os, signal, sys
from PIL import Image
from jaxreid.data import sets
opened, seen = Image.open, []
def deadly(*args, **options):
    seen.append(args)
    if len(seen) == 7:  # train is written, query is not
        os.kill(os.getpid(), signal.SIGKILL)
    return opened(*args, **options)
Image.open = deadly
sets.load("market1501", dir=sys.argv[1], prepared_dir=sys.argv[2])
"""


def test_a_killed_preparation_is_done_again(tmp_path, capfd):
    files = make_tree(tmp_path / "raw")
    prepared = tmp_path / "prepared"
    code, _, err = finish(start(KILLED, tmp_path / "raw", prepared))
    assert code == -signal.SIGKILL, err
    assert list(prepared.glob("market1501/*/incomplete.*"))
    splits = load("market1501", dir=tmp_path / "raw", prepared_dir=prepared)
    assert [len(s) for s in splits.values()] == [len(f) for f in files.values()]
    assert not list(prepared.glob("market1501/*/incomplete.*"))
    assert "removing an unfinished copy" in capfd.readouterr().err


SLOW = """
import sys, time
from PIL import Image
from jaxreid.data import sets
opened = Image.open
def slowly(*args, **options):
    time.sleep(0.1)
    return opened(*args, **options)
Image.open = slowly
sets.prepared.import_tensorflow()
print("ready", flush=True)
sys.stdin.readline()
splits = sets.load("market1501", dir=sys.argv[1], prepared_dir=sys.argv[2])
print(sum(map(len, splits.values())))
"""


def test_processes_that_start_together_prepare_once(tmp_path):
    make_tree(tmp_path / "raw")
    processes = [start(SLOW, tmp_path / "raw", tmp_path / "prepared") for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [finish(p) for p in processes]
    errors = "".join(err for _, _, err in results)
    assert [(code, out) for code, out, _ in results] == [(0, "11\n")] * 2, errors
    assert errors.count("\npreparing market1501") == 1, errors
    assert errors.count("\nwaiting: the prepared copy of market1501") == 1, errors


def test_names_that_do_not_exist(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'market'; valid: market1501, "):
        load("market", dir=tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder; .* as in folder:{tmp_path} "):
        load(f"{tmp_path}")
    with pytest.raises(ValueError, match="market1501 has no domains; write 'market1501'"):
        load("market1501/query", dir=tmp_path)
    with pytest.raises(
        ValueError, match="'synthetic_people/plasa'; valid: synthetic_people/plaza, "
    ):
        load("synthetic_people/plasa")
    with pytest.raises(ValueError, match="'synthetic_people'; valid: .*synthetic_people/plaza"):
        load("synthetic_people")
    assert "market1501" in sets.available()


def test_options_may_follow_the_name(tmp_path):
    make_tree(tmp_path / "raw")
    folders = {"dir": tmp_path / "raw", "prepared_dir": tmp_path}
    named = load("market1501?time_rule=corrected", **folders)
    np.testing.assert_array_equal(
        named["train"].time, load("market1501", time_rule="corrected", **folders)["train"].time
    )
    with pytest.raises(ValueError, match="unknown option of market1501 'time'; valid: time_rule"):
        load("market1501?time=corrected", **folders)
    with pytest.raises(ValueError, match="unknown option of synthetic_people/plaza 'sed'"):
        load("synthetic_people/plaza?sed=3", prepared_dir=tmp_path)


def test_options_are_names_and_values():
    assert parse_options(["seed=3", "time_rule=corrected"]) == {"seed": 3, "time_rule": "corrected"}
    for text in ("seed", "=3", "a b=3"):
        with pytest.raises(ValueError, match=f"option '{text}' of a data set: write NAME=VALUE"):
            parse_options([text])


def test_the_sets_of_a_run(tmp_path):
    make_tree(tmp_path / "raw")
    folders = {"dir": tmp_path / "raw", "prepared_dir": tmp_path}
    whole = load("market1501", **folders)
    images, tests = load_sets(train="market1501", test=("market1501",), **folders)
    assert images.name == whole["train"].name
    assert {k: v.name for k, v in tests["market1501"].items()} == {
        k: whole[k].name for k in ("query", "gallery")
    }
    few, tests = load_sets(train="market1501", test=("market1501",), identities=2, **folders)
    assert few.num_classes == 2
    people = {k: set(v.pid) for k, v in tests["market1501"].items()}
    assert people["query"] == people["gallery"] == {1, 3}
    assert few.summary != images.summary
    nobody, _ = load_sets(train=None, test=("market1501",), **folders)
    assert nobody is None
    with pytest.raises(ValueError, match="tuple of one or more"):
        load_sets(train="market1501", test="market1501", **folders)
    with pytest.raises(ValueError, match="unknown data set 'market1502'"):
        load_sets(train="market1501", test=("market1502",), **folders)


def test_several_sets_to_learn_from(tmp_path, capfd):
    make_tree(tmp_path / "raw")
    size = "train_ids=4&test_ids=2&images_per_id=4&distractors=1"
    plaza, mall = (f"synthetic_people/{domain}?{size}" for domain in ("plaza", "mall"))
    folders = {"dir": tmp_path / "raw", "prepared_dir": tmp_path}
    names = (mall, "market1501", plaza)  # in the order given, not in that of the alphabet
    images, tests = load_sets(train=names, test=(plaza,), **folders)
    alone = [load_sets(train=(name,), test=(plaza,), **folders)[0] for name in names]
    assert list(tests) == [plaza]
    assert images.name == [
        f"{n}/{file}" for n, split in zip(names, alone, strict=True) for file in split.name
    ]
    assert images.num_classes == sum(split.num_classes for split in alone) == 4 + 3 + 4
    assert np.bincount(images.source).tolist() == [len(split) for split in alone]
    few, _ = load_sets(train=names, test=(plaza,), identities=2, **folders)
    for source, split in enumerate(alone):
        kept = set(few.pid[few.source == source])
        assert kept == set(np.unique(split.pid)[:2])
    as_text, _ = load_sets(train=plaza, test=(plaza,), **folders)
    assert as_text.summary == alone[2].summary
    assert as_text.name == alone[2].name
    assert images.summary["digest"] not in [split.summary["digest"] for split in alone]
    with pytest.raises(ValueError, match=re.escape(f"data.train names '{plaza}' more than once")):
        load_sets(train=(plaza, mall, plaza), test=(plaza,), **folders)
    with pytest.raises(ValueError, match=r"data.train is \(\); expected a tuple of one or more"):
        load_sets(train=(), test=(plaza,), **folders)
    with pytest.raises(ValueError, match="unknown data set 'market1502'"):
        load_sets(train=(plaza, "market1502"), test=(plaza,), **folders)


def test_training_sets_of_the_same_images_are_refused(tmp_path, capfd):
    make_tree(tmp_path / "raw")
    folders = {"dir": tmp_path / "raw", "prepared_dir": tmp_path}
    names = ("market1501", "market1501?time_rule=corrected")
    with pytest.raises(ValueError, match="share 5 of 5 images .*Name one of the sets"):
        load_sets(train=names, test=("market1501",), **folders)


def test_two_folders_are_two_sets(monkeypatch, caplog):
    made = {"a": make_split([1, 2], "ab"), "b": make_split([1, 2], "cd")}
    monkeypatch.setitem(
        sets.SETS._entries,
        "mine",
        (lambda folder: dict.fromkeys(("train", "query", "gallery"), made[folder]), {}),
    )
    monkeypatch.setattr(sets.Found, "read", lambda found: dict(found.content))
    both = ("mine:a", "mine:b")
    images, tests = load_sets(train=both, test=both)
    assert images.num_classes == 4
    assert images.name[::2] == ["mine[1]/a.jpg", "mine[2]/c.jpg"]
    assert list(tests) == ["mine[1]", "mine[2]"]
    # The same, by a list of folders.
    listed, listed_tests = load_sets(train=("mine",), test=("mine",), dir="a, b")
    assert listed.name == images.name
    assert list(listed_tests) == list(tests)
    images, tests = load_sets(train="mine:a", test=("mine:b",))
    assert (images.name[0], list(tests)) == ("a.jpg", ["mine[2]"])
    made["b"] = make_split([1, 2, 3], "abe")
    assert load_sets(train=both, test=("mine",), dir="a")[0].num_classes == 5
    assert "mine[1] and mine[2] share 2 of 2 images (a.jpg)" in caplog.records[-1].getMessage()
    made["b"] = made["a"]
    with pytest.raises(ValueError, match=r"mine\[1\] and mine\[2\] share 2 of 2 images"):
        load_sets(train=both, test=both)


def test_a_place_comes_from_the_name_the_setting_or_the_environment(monkeypatch):
    places = []
    alike = make_split([1, 2], "ab")

    def mine(folder):
        places.append(folder)
        return {"query": alike, "gallery": alike}

    monkeypatch.setitem(sets.SETS._entries, "mine", (mine, {}))
    monkeypatch.setattr(sets.Found, "read", lambda found: dict(found.content))
    monkeypatch.setenv("JAXREID_DATA", "variable")
    load("mine")
    load("mine", "argument")
    load("mine:/name")
    load_sets(train=None, test=("mine", "mine:~/here"), dir="setting")
    assert places == ["variable", "argument", "/name", "setting", "~/here"]
    with pytest.raises(ValueError, match="'mine:a' names a place, and dir is 'b'; expected one"):
        load("mine:a", "b")
    with pytest.raises(ValueError, match="plaza' does not read a folder: write 'synthetic_people"):
        load("synthetic_people/plaza", "b")
    monkeypatch.delenv("JAXREID_DATA")
    with pytest.raises(ValueError, match="none is given: name it as in 'mine:FOLDER', or set"):
        load("mine")


def test_splits_of_a_set_warn_once(monkeypatch, caplog):
    alike = make_split([1, 2], "ab")

    def mine(split=0):
        parts = {"name": "mine", "config": str(split), "fingerprint": str(split)}
        return sets.Source(**parts, splits={}, notices=("all splits", f"split {split}"))

    monkeypatch.setitem(sets.SETS._entries, "mine", (mine, {}))
    monkeypatch.setattr(sets.Found, "read", lambda found: {"query": alike, "gallery": alike})
    load_sets(train=None, test=("mine?split=0..1",))
    assert [r.getMessage() for r in caplog.records] == ["all splits", "split 0", "split 1"]


def test_a_range_of_splits_is_several_test_sets(monkeypatch):
    alike = make_split([1, 2], "ab")
    given = []

    def mine(split=0, seed=0):
        given.append((split, seed))
        return {"query": alike, "gallery": alike}

    monkeypatch.setitem(sets.SETS._entries, "mine", (mine, {}))
    monkeypatch.setattr(sets.Found, "read", lambda found: dict(found.content))
    _, tests = load_sets(train=None, test=("mine?split=8..10&seed=3",))
    assert list(tests) == [f"mine?split={i}&seed=3" for i in (8, 9, 10)]
    assert given == [(8, 3), (9, 3), (10, 3)]
    with pytest.raises(ValueError, match="names 1,000,000,000 test sets; expected at most 1,000"):
        load_sets(train=None, test=("mine?split=0..999999999",))
    with pytest.raises(ValueError, match=r"mine\?split=3..1: the range 3..1 is empty; write 1..3"):
        load_sets(train=None, test=("mine?split=3..1",))


def test_nobody_to_tell_apart_is_refused(monkeypatch):
    one, two, other = make_split([1, 1], "ab"), make_split([1, 2], "cd"), make_split([7], "e")
    made = {"train": one, "query": two, "gallery": two}
    monkeypatch.setattr(sets.Found, "read", lambda found: dict(made))
    monkeypatch.setitem(sets.SETS._entries, "mine", (lambda: made, {}))
    with pytest.raises(ValueError, match="2 images of 1 person; expected at least two people"):
        load_sets(train="mine", test=("mine",))
    made |= {"train": two, "gallery": other}
    assert load_sets(train="mine", test=("mine",))[0].num_classes == 2
    with pytest.raises(ValueError, match="first 2 people of the queries .*data.identities=0"):
        load_sets(train="mine", test=("mine",), identities=2)


def test_one_file_with_two_labels_is_said(monkeypatch, caplog):
    images = make_split([1, 2, 2], "aab")
    made = {"train": images, "query": images, "gallery": images}
    monkeypatch.setattr(sets.Found, "read", lambda found: dict(made))
    monkeypatch.setitem(sets.SETS._entries, "mine", (lambda: made, {}))
    load_sets(train="mine", test=("mine",))
    assert "images of two people: 1 (a.jpg)" in caplog.records[-1].getMessage()


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="pid holds 1 to 4294967297; expected 32-bit integers"):
        Split([b""] * 2, ["a", "b"], np.array([1, 2**32 + 1]), np.zeros(2, int), np.zeros(2))


def test_a_disk_that_is_full_during_preparation_is_said(tmp_path):
    make_tree(tmp_path / "raw")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    folders = {"dir": tmp_path / "raw", "prepared_dir": tmp_path / "prepared"}
    with pytest.raises(OSError, match=r"cannot be written .*File too large.*Make room"):  # noqa: PT012
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
            load("market1501", **folders)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(load("market1501", **folders)["train"]) == 5


def test_a_place_for_prepared_copies_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    make_tree(tmp_path / "raw")
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "prepared"
    with pytest.raises(OSError, match=r"file.*cannot be written .*--config.data.prepared_dir=DIR"):
        load("market1501", dir=tmp_path / "raw", prepared_dir=below)

    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "expanduser", no_home)
    with pytest.raises(ValueError, match="no home folder .*data.prepared_dir=DIR"):
        sets.prepared_copies()


def test_old_copies_are_found_and_others_left_alone(tmp_path, capfd):
    files = make_tree(tmp_path / "raw")
    args = {"dir": tmp_path / "raw", "prepared_dir": tmp_path / "prepared"}
    load("market1501", **args)
    (old,) = sets.prepared_copies(prepared_dir=tmp_path / "prepared")
    assert sets.prepared_copies("market1501", **args) == []
    files["train"][0].unlink()
    (tmp_path / "prepared" / "mnist" / "a" / "1.0.0").mkdir(parents=True)
    (tmp_path / "prepared" / "mnist" / "a" / "1.0.0" / "features.json").write_text("{}")
    assert sets.prepared_copies("market1501", **args) == [old]
    verb = ["data", "clean", "market1501", f"--dir={args['dir']}"]
    verb.append(f"--prepared-dir={args['prepared_dir']}")
    assert cli.main(verb) == 0
    assert old.path.is_dir()
    # As a removal that was interrupted leaves it.
    old.path.with_name("incomplete.removed").mkdir()
    assert cli.main([*verb, "--remove"]) == 0
    assert not old.path.exists()
    assert not old.path.with_name("incomplete.removed").exists()
    assert (tmp_path / "prepared" / "mnist" / "a" / "1.0.0").is_dir()
    # What a kill left is removed too, once no process prepares it.
    unfinished = old.path.with_name("incomplete.abc_1.0.0")
    unfinished.mkdir()
    with hold(unfinished.parent.with_name(unfinished.parent.name + ".lock"), "the copy"):
        assert cli.main([*verb, "--remove"]) == 1
    assert unfinished.is_dir()
    assert cli.main([*verb, "--remove"]) == 0
    assert not unfinished.exists()
    (tmp_path / "prepared" / "mnist" / "a" / "incomplete.abc_1.0.0").mkdir()
    assert sets.prepared_copies("market1501", **args) == []
    assert cli.main(["data", "clean", "--remove"]) == 1
    captured = capfd.readouterr()
    assert captured.out.count(str(old.path)) == 2
    assert "--remove needs a data set" in captured.err


def test_folders_and_options_that_make_no_sense(tmp_path, monkeypatch):
    make_tree(tmp_path / "raw")
    with pytest.raises(
        ValueError, match="'market1501' is read from a folder, .* set data.dir .* archive"
    ):
        load("market1501")
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        load("market1501", dir=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="does not read a folder: write .synthetic_people.plaza"):
        load("synthetic_people/plaza", dir=tmp_path)
    with pytest.raises(ValueError, match="unknown option of market1501 'time'; valid: time_rule"):
        load("market1501", dir=tmp_path / "raw", time="qaconv")
    with pytest.raises(
        ValueError, match="unknown option of synthetic_people/plaza 'sed'; valid: seed"
    ):
        load("synthetic_people/plaza", sed=1)
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/data")
    with pytest.raises(ValueError, match="'gs://bucket/data' .*local folder"):
        load("market1501", dir=tmp_path / "raw")


def test_mistakes_are_found_before_tensorflow_is_imported(tmp_path):
    code = (
        "import sys\n"
        "from jaxreid.data.sets import load\n"
        "for name, dir in [('x', None), ('market1501', None), ('market1501', sys.argv[1]),\n"
        "                  ('synthetic_people/x', None)]:\n"
        "    try:\n"
        "        load(name, dir=dir)\n"
        "    except (ValueError, FileNotFoundError):\n"
        "        print('tensorflow' in sys.modules)\n"
    )
    assert finish(start(code, tmp_path)) == (0, "False\n" * 4, "")


def test_a_small_synthetic_domain(tmp_path, no_network, capfd):
    options = {"train_ids": 4, "test_ids": 3, "images_per_id": 4, "distractors": 2}
    splits = load("synthetic_people/plaza", prepared_dir=tmp_path, **options)
    assert splits["train"].num_classes == 4
    for split in splits.values():
        assert split.name == sorted(split.name)
        assert all(image.startswith(b"\xff\xd8") for image in split.image)  # JPEG
    again = load("synthetic_people/plaza", prepared_dir=tmp_path, **options)
    assert contents(again) == contents(splits)


def test_command_line(tmp_path, capfd):
    make_tree(tmp_path / "raw")
    options = ["--prepared_dir", tmp_path / "prepared", "--option", "time_rule=corrected"]
    build = ["data", "build", "market1501", "--dir", tmp_path / "raw", *options]
    assert cli.main([*map(str, build)]) == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert rows[:4] == [
        ["split", "ids", "images", "cameras"],
        ["train", "3", "5", "4"],
        ["query", "2", "2", "2"],
        ["gallery", "3", "4", "3"],
    ]
    assert cli.main(["data", "build", "market"]) == 1
    said = capfd.readouterr().err
    assert said.startswith("error: unknown data set 'market'; valid: market1501, ")
