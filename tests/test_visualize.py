"""Ranked lists as pictures."""

import dataclasses
import io

import numpy as np
from people import draw
from PIL import Image

from jaxreid.evaluate import Result
from jaxreid.ranking import rank_queries, summarize
from jaxreid.report import protocol_of, results_of, results_table, write_ranking
from jaxreid.visualize import RIGHT, WRONG


@dataclasses.dataclass
class People:
    pid: np.ndarray
    camid: np.ndarray
    image: list
    name: list


def people(pids, camid):
    images = []
    for pid in pids:
        file = io.BytesIO()
        draw(pid, camid, 0).save(file, "JPEG")
        images.append(file.getvalue())
    names = [f"{pid:04d}.jpg" for pid in pids]
    return People(np.array(pids), np.full(len(pids), camid), images, names)


def test_right_images_are_framed_green_and_wrong_ones_red(tmp_path):
    query, gallery = people([1, 2], 0), people([1, 2, 3], 1)
    scores = np.array([[3, 2, 1], [3, 2, 1]], np.float32)  # right, then wrong before right
    ranks = rank_queries(scores, query.pid, query.camid, gallery.pid, gallery.camid)
    top = np.argsort(-scores, kind="stable")
    result = Result(summarize(ranks), ranks, top, np.take_along_axis(scores, top, 1))
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


def test_what_a_test_set_lacks_is_said_before():
    query, gallery = people([1, 2, 3, 9], 0), people([1, 2, 5], 1)
    gallery.camid[1] = 0  # person 2 is seen by one camera only
    rule, told = protocol_of("tiny", query, gallery)
    assert rule == "camera"
    assert told == [
        "tiny: 1 of 4 queries have matches only in their own camera.",
        "tiny: 2 of 4 queries have no match in the gallery. They are left out of the averages.",
    ]
    assert protocol_of("tiny", people([1], 0), people([1], 1)) == ("camera", [])
    gallery.camid[:] = -1
    rule, told = protocol_of("tiny", query, gallery)
    assert rule == "same-image"
    assert "3 of 7 images have no camera: junk rule 'same-image', 2 queries are" in told[0]
    gallery.name = ["a", "b", "c"]
    assert protocol_of("tiny", query, gallery)[0] == "none"
