"""Tables, files and pictures of results."""

import dataclasses
import io

import numpy as np
import pytest
from people import draw
from PIL import Image

from jaxreid.data.split import Split
from jaxreid.evaluation import ranked_pages
from jaxreid.evaluation.ranked_pages import chosen_queries, write_pages
from jaxreid.evaluation.ranking import protocol_of, rank_queries, summarize
from jaxreid.evaluation.results import Result, results_of, results_table, write_ranking
from jaxreid.evaluation.run import Evaluation
from jaxreid.evaluation.variants import PLAIN as EXACT
from jaxreid.pictures.canvas import RIGHT, WRONG


def people(pids, camid):
    images = []
    for pid in pids:
        file = io.BytesIO()
        draw(pid, camid, 0).save(file, "JPEG")
        images.append(file.getvalue())
    names = [f"{pid:04d}.jpg" for pid in pids]
    camids = np.full(len(pids), camid)
    return Split(images, names, np.array(pids), camids, np.zeros(len(pids)))


def test_right_images_are_framed_green_and_wrong_ones_red(tmp_path):
    query, gallery = people([1, 2], 0), people([1, 2, 3], 1)
    scores = np.array([[3, 2, 1], [3, 2, 1]], np.float32)  # right, then wrong before right
    ranks = rank_queries(scores, query.pid, query.camid, gallery.pid, gallery.camid)
    top = np.argsort(-scores, kind="stable")
    top_scores = np.take_along_axis(scores, top, 1)
    result = Result(EXACT, summarize(ranks), np.ones(50), ranks, top, top_scores)
    sets = {"tiny": {"query": query, "gallery": gallery}}
    write_ranking(tmp_path / "ranking.png", sets, {"tiny": result}, queries=5)
    with Image.open(tmp_path / "ranking.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)

    def framed(colour):
        return (pixels == colour).all(-1)

    frame = 72 * 136 - 64 * 128
    assert abs(framed(RIGHT).sum() - 2 * frame) < 0.1 * frame  # one right image in each of two rows
    assert abs(framed(WRONG).sum() - 4 * frame) < 0.1 * frame
    # The worst query comes first: its right image stands further to the right.
    rows, columns = np.nonzero(framed(RIGHT))
    middle = (rows.min() + rows.max()) / 2
    assert columns[rows < middle].min() > columns[rows > middle].min()


def test_pages_hold_the_queries_that_were_asked_for(tmp_path, monkeypatch):
    query, gallery = people(range(1, 8), 0), people(range(1, 7), 1)
    scores = np.random.default_rng(0).normal(size=(7, 6))
    scores[3, 3] = 9  # the only one that is sure to be right
    ranks = rank_queries(scores, query.pid, query.camid, gallery.pid, gallery.camid)
    top = np.argsort(-scores, kind="stable")
    result = Result(EXACT, summarize(ranks), np.ones(50), ranks, top, np.sort(scores)[:, ::-1])
    precision = [(ranks.average_precision[q], q) for q in range(6)]  # query 6 has no match
    worst = [q for _, q in sorted(precision)]
    assert chosen_queries(result, "worst:4").tolist() == worst[:4]
    assert worst[-1] == 3
    assert chosen_queries(result, "worst:99").tolist() == worst
    assert chosen_queries(result, "all").tolist() == list(range(6))
    drawn = [chosen_queries(result, "random:3", seed=seed).tolist() for seed in range(9)]
    assert all(d == sorted(set(d)) and len(d) == 3 and max(d) < 6 for d in drawn)
    assert len(set(map(tuple, drawn))) > 1
    assert chosen_queries(result, "random:3", seed=4).tolist() == drawn[4]

    titles = []

    def picture(sections):
        titles.extend((title, [row.title.split()[0] for row in rows]) for title, rows in sections)
        return Image.new("RGB", (2, 2))

    monkeypatch.setattr(ranked_pages, "ranking_picture", picture)
    monkeypatch.setattr(ranked_pages, "_PER_PAGE", 4)
    splits = {"query": query, "gallery": gallery}
    pages = write_pages(tmp_path, "mine:/data?split=1", splits, result, "all")
    assert [str(p.relative_to(tmp_path)) for p in pages] == [
        "ranked/mine_data_split_1/0001.png",
        "ranked/mine_data_split_1/0002.png",
    ]
    assert titles[1] == ("mine:/data?split=1: all, queries 5 to 6 of 6", query.name[4:6])
    write_pages(tmp_path, "mine:/data?split=1", splits, result, "worst:1")
    assert not pages[1].exists()


def test_results_are_told_from_events():
    metrics = dict.fromkeys(("rank1", "rank5", "rank10", "mAP", "mINP"), 0.25)
    events = [
        {"kind": "eval", "step": 0, "time": 1.0, "set": "a", **metrics},
        {"kind": "train", "step": 1, "time": 2.0, "loss": 0.5},
        {"kind": "eval", "step": 5, "time": 3.0, "set": "a", **metrics},
        {"kind": "eval", "step": 9, "time": 4.0, "set": "a", **metrics | {"mAP": 0.5}},
    ]
    rows = results_of(events)
    assert [(row["model"], row["step"], row["mAP"]) for row in rows] == [
        ("untrained", 0, 0.25),
        ("trained", 9, 0.5),
    ]
    assert "50.0" in results_table(rows).splitlines()[-1]


def test_a_variant_of_older_weights_is_not_told():
    metrics = dict.fromkeys(("rank1", "rank5", "rank10", "mAP", "mINP"), 0.25)
    records = [(0, "plain"), (5, "plain"), (5, "rerank"), (9, "plain")]
    events = [
        {"kind": "eval", "step": step, "time": 1.0, "set": "a", "variant": variant, **metrics}
        for step, variant in records
    ]
    assert [(row["step"], row["variant"]) for row in results_of(events)] == [
        (0, "plain"),
        (9, "plain"),
    ]
    assert [row["variant"] for row in results_of(events[:-1])] == ["plain", "plain", "rerank"]


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="tiny has 1 queries and a gallery of 0 images"):
        protocol_of("tiny", people([1], 0), people([], 1))
    with pytest.raises(
        ValueError, match="none of the 2 queries has a match .* 0 have images of the same person"
    ):
        protocol_of("tiny", people([1, 2], 0), people([3], 1))
    gallery = people([1], 0)
    with pytest.raises(
        ValueError, match="1 have images of the same person only from their own camera"
    ):
        protocol_of("tiny", people([1], 0), gallery, "camera")
    gallery.camid[:] = -1
    alike = people([1], 0)
    alike.camid[:] = -1
    with pytest.raises(ValueError, match="Some cameras are unknown: use --config.eval.junk=auto"):
        protocol_of("tiny", alike, gallery, "camera")


def test_people_of_one_camera_each_are_said_before_a_training_with_the_way_out():
    splits = {"query": people([1, 2], 0), "gallery": people([1, 2, 3], 0)}
    for split in splits.values():
        split.camid[1] = 1  # two cameras, but nobody is seen by both
    advice = "own camera.* Every person is seen by one camera alone: use --config.eval.junk=none"
    with pytest.raises(ValueError, match=advice):
        Evaluation().check({"tiny": splits})
    Evaluation(junk="none").check({"tiny": splits})
    splits["gallery"] = people([7], 1)
    with pytest.raises(ValueError, match="Expected people who are both in the queries and in the"):
        Evaluation().check({"tiny": splits})


def test_what_a_test_set_lacks_is_said_before():
    query, gallery = people([1, 2, 3, 9], 0), people([1, 2, 5], 1)
    gallery.camid[1] = 0  # person 2 is seen by one camera only
    rule, messages = protocol_of("tiny", query, gallery)
    assert rule == "camera"
    assert messages == [
        "tiny: 1 of 4 queries have images of the same person only from their own camera.",
        "tiny: 2 of 4 queries have no match in the gallery. They are left out of the averages.",
    ]
    assert protocol_of("tiny", people([1], 0), people([1], 1)) == ("camera", [])
    gallery.camid[:] = -1
    gallery.pid[2] = 3  # the others are the very images of the queries
    rule, messages = protocol_of("tiny", query, gallery)
    assert rule == "same-image"
    assert "for 3 of 7 images: junk rule 'same-image', 2 queries are" in messages[0]
    gallery = dataclasses.replace(gallery, name=["a", "b", "c"])
    assert protocol_of("tiny", query, gallery)[0] == "none"
