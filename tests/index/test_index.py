"""An index on disk: found is what an exact ranking finds, and nothing breaks it."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from golden import REPOSITORY
from people import draw, save_model

import jaxreid
from jaxreid import cli
from jaxreid.index import index as module
from jaxreid.index import shortlist
from jaxreid.index import store as store_module
from jaxreid.index.encoding import (
    decode,
    encode,
    pooled,
    pooled_scores,
    pooled_shape,
    vectors,
)
from jaxreid.index.shortlist import shortlisted
from jaxreid.reid.gallery import Entry, Filter

pytest.importorskip("lancedb")
pytestmark = pytest.mark.usefixtures("one_device")
EMBEDDING = {"neck": {"name": "pooled"}, "matcher": {"name": "embedding"}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("index")
    (root / "photos").mkdir()
    for pid in range(12):
        for shot in range(3):
            draw(pid, shot % 2, shot).save(root / "photos" / f"{pid:02d}_{shot}.png")
    return root


@pytest.fixture(scope="module")
def photos(place):
    return sorted((place / "photos").iterdir())


@pytest.fixture(scope="module")
def reid(place, one_device):
    return jaxreid.load(save_model(place / "qaconv.safetensors"))


@pytest.fixture(scope="module")
def embeddings(place, one_device):
    return jaxreid.load(save_model(place / "embedding.safetensors", **EMBEDDING))


@pytest.fixture(scope="module")
def made(place, reid, photos):
    """An index of all photographs, to be copied and not to be changed."""
    index = jaxreid.Index.create(place / "made", reid)
    cameras = [f"c{photo.stem[-1]}" for photo in photos]
    assert index.add(photos, {"camera": cameras, "time": range(len(photos))}) == len(photos)
    return index


@pytest.fixture
def copied(made, reid, place, tmp_path):
    shutil.copytree(place / "made", tmp_path / "copy")
    return jaxreid.Index.open(tmp_path / "copy", reid)


def features_of(reid, count, seed=0):
    maps = np.random.default_rng(seed).standard_normal((count, *reid.feature_shape))
    return np.float32(maps / np.linalg.norm(maps, axis=-1, keepdims=True))


def test_a_search_finds_what_an_exact_ranking_finds(made, reid, photos):
    hits, exact = made.search(photos[4], top=8), reid.rank(photos[4], photos, top=8)
    assert hits[0].path == str(photos[4])
    # The maps on disk are rounded to 8 bits.
    np.testing.assert_allclose([h.score for h in hits], [h.score for h in exact], atol=0.02)
    assert [hit.index for hit in hits] == list(range(8))
    every = made.search(photos[4], top=8, shortlist=0)
    assert [hit.id for hit in every] == [hit.id for hit in hits]
    short = made.search(photos[4], top=3, shortlist=5)
    assert short[0].id == hits[0].id
    assert photos[4].name in repr(hits)


def test_large_maps_are_scored_a_few_at_a_time(made, photos, monkeypatch):
    at_once, sizes = made.search(photos[0], top=12), []
    score = jaxreid.ReID.score

    def noted(self, query, gallery):
        sizes.append(len(gallery))
        return score(self, query, gallery)

    monkeypatch.setattr(jaxreid.ReID, "score", noted)
    monkeypatch.setattr(shortlist, "_VALUES", 5 * math.prod(made.about.shape))
    in_parts = made.search(photos[0], top=12)
    assert max(sizes) == 5
    assert [hit.path for hit in in_parts] == [hit.path for hit in at_once]
    np.testing.assert_allclose([h.score for h in in_parts], [h.score for h in at_once], rtol=1e-6)


def test_several_photographs_of_a_person_count_together(made, reid, photos):
    hits = made.search(photos[3:6], top=5)
    scores = reid.score(reid.embed(photos[3:6]), reid.embed([hits[0].path]))
    assert hits[0].score == pytest.approx(scores.mean(), abs=0.02)


def test_searches_keep_to_cameras_and_times(made, photos):
    hits = made.search(photos[0], top=50, camera="c1", after=6, before="20")
    assert {hit.camera for hit in hits} == {"c1"}
    assert sorted(hit.time for hit in hits) == [7, 10, 13, 16, 19]
    assert not made.search(photos[0], camera='it\'s "another"')


def test_an_index_is_a_gallery_of_searches(made, reid, photos):
    where = Filter(cameras=("c1",), after=4)
    entries = [
        Entry(p, p.name, f"c{p.stem[-1]}", float(i)) for i, p in enumerate(photos)
    ]  # as in the index
    found, exact = (reid.search(photos[3:5], g, top=6, where=where) for g in (made, entries))
    assert [hit.name for hit in found] == [hit.name for hit in exact]
    np.testing.assert_allclose([h.score for h in found], [h.score for h in exact], atol=0.02)
    assert found[0].camera == "c1"
    assert found.notes[0].startswith("10 images searched")
    with pytest.raises(ValueError, match="unknown camera 'c7'; the gallery has c0, c1, c2"):
        reid.search(photos[0], made, where=Filter(cameras=("c7",)))


def test_embeddings_are_searched_by_their_own_distances(place, embeddings, photos, tmp_path):
    index = jaxreid.Index.create(tmp_path / "index", embeddings)
    index.add(photos)
    hits, exact = index.search(photos[7], top=6), embeddings.rank(photos[7], photos, top=6)
    assert [hit.path for hit in hits] == [str(hit.image) for hit in exact]
    np.testing.assert_allclose([h.score for h in hits], [h.score for h in exact], atol=2e-3)


@pytest.mark.parametrize("suffix", [".jsonl", ".html", ".png"])
def test_what_is_found_is_saved_also_where_its_time_is_unknown(copied, tmp_path, suffix):
    draw(40, 0, 0).save(tmp_path / "new.png")
    copied.add([tmp_path / "new.png"])
    hits = copied.search(tmp_path / "new.png", top=3)
    assert math.isnan(hits[0].time)
    hits.save(tmp_path / f"page{suffix}")
    assert (tmp_path / f"page{suffix}").stat().st_size


def test_an_image_is_one_entry_however_often_it_is_added(copied, photos, tmp_path):
    shutil.copy(photos[0], tmp_path / "again.png")
    assert copied.add([*photos[:5], tmp_path / "again.png", photos[0].read_bytes()]) == 0
    assert copied.add([np.asarray(draw(40, 0, 0))] * 2) == 1
    assert len(copied) == len(photos) + 1


def test_features_are_added_with_what_is_known_of_them(copied, reid, photos):
    features = features_of(reid, 30)
    known = {"id": [f"n{i}" for i in range(30)], "camera": "gate", "person": ["x"] * 30}
    assert copied.add((features, known | {"time": "2026-11-27T08:00:00"})) == 30
    assert copied.add(features, known) == 0
    (hit,) = copied.search(features[7], top=1, after="2026-11-27")
    assert (hit.id, hit.camera, hit.person, hit.path) == ("n7", "gate", "x", "")
    assert copied.remove(camera="gate") == 30


def test_removed_images_are_found_no_more_and_can_be_erased(copied, place, photos, tmp_path):
    secret = np.full((1, *copied.about.shape), 0.25, np.float32)
    copied.add(secret, {"path": "/nowhere/secret", "person": "somebody"})

    def on_disk():
        files = (path for path in (tmp_path / "copy").rglob("*") if path.is_file())
        return any(b"somebody" in path.read_bytes() for path in files)

    assert on_disk()
    assert copied.remove(path="/nowhere") == 1
    assert copied.remove(path=str(photos[0]), erase=True) == 1
    assert not on_disk()
    assert len(copied) == len(photos) - 1
    assert str(photos[0]) not in {hit.path for hit in copied.search(photos[0], top=99)}


def test_an_object_store_holds_an_index_too(reid, tmp_path):
    uri = f"file-object-store://{tmp_path / 'bucket'}"
    features = features_of(reid, 9)
    index = jaxreid.Index.create(uri, reid, dtype="float16")
    index.add(features, {"id": [str(i) for i in range(9)]})
    again = jaxreid.Index.open(uri, reid)
    assert again.search(features[3], top=1)[0].id == index.search(features[3], top=1)[0].id
    assert again.remove(id="3") == 1
    assert len(again) == 8
    with pytest.raises(FileNotFoundError, match="no index in file-object-store"):
        jaxreid.Index.open(uri + "/another")


def test_many_small_additions_are_merged_and_the_recall_is_measured(copied, monkeypatch):
    monkeypatch.setattr(store_module.Store, "is_slow", lambda store: store.state()[1] > 3)
    for seed in range(4):
        copied.add(features_of(copied.reid, 2, seed))
    info = copied.info()
    assert info["parts"] <= 2
    assert info["images"] == len(copied) == 44
    assert info["recall"] >= 0.99
    assert info["measured"]["compared"] >= 42
    assert jaxreid.Index.open(info["place"]).about.recall == copied.about.recall


def test_large_indexes_are_searched_in_cells(copied, monkeypatch):
    monkeypatch.setattr(store_module, "LARGE", 500)
    monkeypatch.setattr(store_module, "_CELL", 50)
    features = features_of(copied.reid, 600)
    monkeypatch.setattr(module.Index, "measure", lambda index: {})
    copied.add(features)
    assert copied.info()["in_cells"] > 500
    found = [copied.search(features[i], top=1)[0].id for i in range(9)]
    assert found[:2] == [copied.search(features[i], top=1, shortlist=0)[0].id for i in range(2)]
    assert len(set(found)) == 9
    assert len(copied.search(features[0], top=40, camera="c1")) == 12


def test_a_shortlist_has_the_most_similar_pooled_maps_of_the_nearest_vectors(copied):
    about, store, features = copied.about, copied._store, features_of(copied.reid, 90)
    copied.add(features, {"id": [f"{i}" for i in range(90)], "camera": "gate"})
    apart = np.float32(about.vectors(features)) - np.float32(about.vectors(features[7:8]))
    near = np.argsort((apart**2).sum(1), kind="stable")[:30]
    alike = about.pooled_scores(features[7], about.content(features[near])["pooled"])
    expected = [str(i) for i in near[np.argsort(-alike, kind="stable")]][:12]
    where = {"where": "camera = 'gate'", "longlist": 30}
    rows = store.read(lambda s: s.take(shortlisted(s, about, features[7], 12, **where)))
    assert rows.columns["id"] == expected
    np.testing.assert_array_equal(
        rows.feature, about.content(features[[int(i) for i in expected]])["feature"]
    )


def test_pooled_maps_are_means_and_compared_by_their_best_matches(reid):
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((3, 10, 3, 5)).astype(np.float32)
    small = pooled(maps)
    assert small.shape == (3, *pooled_shape(maps.shape[1:])) == (3, 8, 3, 5)
    rows = np.linspace(0, 10, 9).round().astype(int)
    for k, (a, b) in enumerate(zip(rows[:-1], rows[1:], strict=True)):
        for column in range(3):
            mean = maps[1, a:b, column].mean(0)
            np.testing.assert_allclose(small[1, k, column], mean / np.linalg.norm(mean), atol=1e-6)
    scores = pooled_scores(small[0], small)
    for n in range(3):
        one, other = small[0].reshape(-1, 5), small[n].reshape(-1, 5)
        match = [[float(a @ b) for b in other] for a in one]
        best = [max(row) for row in match], [max(column) for column in zip(*match, strict=True)]
        assert scores[n] == pytest.approx(np.mean(best[0]) + np.mean(best[1]), abs=1e-5)


def test_maps_are_rounded_by_less_than_half_a_step(reid):
    features = features_of(reid, 3)
    for dtype, step in (("int8", np.abs(features).max() / 127), ("float16", 1e-3)):
        back = decode(encode(features, dtype), reid.feature_shape, dtype)
        np.testing.assert_allclose(back, features, atol=step / 2 * 1.001)
    assert vectors(features, unit=False).shape == (3, 2 * 4 * 4)


ADDING = """
import sys, numpy as np, jaxreid
place, model, first, last = sys.argv[1:]
index = jaxreid.Index.open(place, jaxreid.load(model))
print("ready", flush=True)
for seed in range(int(first), int(last)):
    maps = np.random.default_rng(seed).standard_normal((20, *index.about.shape))
    maps /= 10 * np.linalg.norm(maps, axis=-1, keepdims=True)
    index.add(np.float32(maps), {"camera": f"run{seed}"})
    print(seed, flush=True)
"""


def adding(index, first, last):
    return subprocess.Popen(
        [sys.executable, "-c", ADDING, index.info()["place"], index.about.model, first, last],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.end_to_end
def test_readers_see_whole_additions_and_a_kill_leaves_them(copied, photos):
    """One process adds and is killed; threads of another one read meanwhile."""
    before, states, stop = len(copied), set(), threading.Event()
    place = copied.info()["place"]
    readers = [jaxreid.Index.open(place, copied.reid) for _ in range(2)]

    def read(index):
        while not stop.is_set():
            states.add(len(index))
            assert index.search(photos[0], top=1)[0].path == str(photos[0])

    threads = [threading.Thread(target=read, args=(index,)) for index in readers]
    with adding(copied, "0", "1000") as process:
        assert process.stdout.readline() == "ready\n"
        for thread in threads:
            thread.start()
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    stop.set()
    for thread in threads:
        thread.join()
    assert {(state - before) % 20 for state in states} == {0}
    index = jaxreid.Index.open(place, copied.reid)
    assert len(index) >= before + 60
    assert (len(index) - before) % 20 == 0
    assert index.add(features_of(index.reid, 5)) == 5  # the lock ended with the process


def test_the_command_goes_from_photographs_to_a_ranked_list(place, photos, tmp_path, capsys):
    def said(*words, status=0):
        assert cli.main(["index", *map(str, words)]) == status
        return capsys.readouterr()

    index, model = tmp_path / "people", place / "qaconv.safetensors"
    assert "fill it" in said("create", index, f"--model={model}").out
    table = tmp_path / "table.csv"
    rows = [f"{photo},door,{i},p{photo.stem[:2]}" for i, photo in enumerate(photos[:6])]
    table.write_text("\n".join(["path,camera,time,person", *rows]))
    assert "6 images added" in said("add", index, table).out
    added = json.loads(said("add", index, place / "photos", "--camera=hall", "--json").out)
    assert (added["added"], added["there"]) == (30, 6)
    # The verb search takes the index, with its model; another one is refused.
    assert cli.main(["search", str(photos[1]), str(index), "--top=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hits"][0]["camera"] in ("door", "hall")
    assert cli.main(["search", str(photos[1]), str(index), "--model=drawn"]) == 1
    assert "was made with the model" in capsys.readouterr().err
    page = tmp_path / "page.png"
    found = said("query", index, photos[1], "--camera=door", "--top=2", "--out", page, "--json").out
    hits = json.loads(found)["hits"]
    assert hits[0] | {"score": 0, "id": ""} == {
        "score": 0, "id": "", "path": str(photos[1]), "camera": "door", "time": 1.0, "person": "p00"
    }  # fmt: skip
    assert page.exists()
    assert "recall@10 1.000" in said("optimize", index).out
    assert "36 images, " in said("info", index).out
    assert "6 images removed; 30 left" in said("remove", index, "--camera=door").out
    assert "no images selected" in said("remove", index, status=1).err


def damaged(index, tmp_path, name):
    place = tmp_path / "damaged"
    shutil.copytree(index.info()["place"], place)
    for path in sorted((place / name).rglob("*")):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:20] + b"\xff" * 40)
    return place


@pytest.mark.parametrize("name", ["about.lance", "entries.lance/data", "entries.lance/_versions"])
def test_a_damaged_index_is_refused_in_words(made, reid, photos, tmp_path, name):
    with pytest.raises((ValueError, OSError), match="index .* (cannot be used|is damaged)"):
        jaxreid.Index.open(damaged(made, tmp_path, name), reid).search(photos[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "jaxreid index 9"}, "has the format 'jaxreid index 9'; expected"),
        ({"shape": [1 << 40, 8, 64]}, "has an unreadable description"),
        ({"shape": [8, 4, 8]}, "does not hold features of .8, 4, 8."),
        ({"shortlist": -3}, "shortlist -3"),
        ({"dtype": "pickle"}, "dtype 'pickle'"),
        ({"recall": []}, "is damaged"),
        ({"more": 1}, "is damaged"),
    ],
    ids=str,
)
def test_an_index_that_says_something_else_is_refused(copied, change, message):
    store = copied._store
    store.write_about(copied.about.as_dict() | change)
    with pytest.raises(ValueError, match=message):
        jaxreid.Index.open(store.place)


def test_mistakes_are_answered_in_words(made, copied, reid, embeddings, place, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    maps = features_of(reid, 2)
    for call, message in (
        (lambda: jaxreid.Index.open(tmp_path / "none"), "no index in .*jaxreid index create"),
        (lambda: jaxreid.Index.open(place / "made", embeddings), "made with the model"),
        (lambda: jaxreid.Index.create(place / "made", reid), "holds an index already"),
        (lambda: jaxreid.Index.create(tmp_path / "full", reid), "is not empty"),
        (lambda: jaxreid.Index.create(tmp_path / "new", reid, dtype="int4"), "int8"),
        (lambda: jaxreid.Index.open(place / "made").search(maps), "opened without its model"),
        (lambda: copied.add(["nowhere.jpg"]), "cannot read image nowhere.jpg"),
        (lambda: copied.add(maps[:, :3]), r"expected \[N, 8, 4"),
        (lambda: copied.add(maps * np.nan), "not all finite"),
        (lambda: copied.add(maps, {"colour": "red"}), "metadata 'colour'|colour"),
        (lambda: copied.add(maps, {"camera": ["a"]}), "1 values for 2 images"),
        (lambda: copied.add(maps, {"time": "noon"}), "expected seconds, or a date"),
        (lambda: copied.search(maps, top=0), "top is 0"),
        (lambda: copied.search(maps, after=float("nan")), "a finite number"),
        (lambda: copied.search(maps, camera=[]), "no camera given"),
        (lambda: copied.remove(), "no images selected"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            call()
    assert not (tmp_path / "none").exists()
    assert len(copied) == 36


def test_an_index_without_its_library_says_what_to_install(reid, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxreid\[index\]'"):
        jaxreid.Index.create(tmp_path / "index", reid)


def test_numbers_that_the_disk_cannot_hold_are_refused(copied, embeddings, tmp_path):
    for index in (jaxreid.Index.create(tmp_path / "index", embeddings), copied):
        with pytest.raises(ValueError, match="features reach 1e.30; expected at most 65504"):
            index.add(np.full((1, *index.about.shape), 1e30, np.float32))
