"""Search of one person: galleries, filters, several photos, thresholds, and what is written."""

import json
import types

import numpy as np
import pytest
from people import CALIBRATION, draw, market_tree, save_model

import jaxreid
from jaxreid.evaluation.calibration import Calibration
from jaxreid.reid import calibrated
from jaxreid.reid.gallery import Entry, Filter, Images, gallery_of, open_gallery
from jaxreid.reid.hits import Hits
from jaxreid.reid.search import find, score_of

WORTH = Calibration.from_json(CALIBRATION)


class Grey:
    """A model whose feature is the mean grey, and whose score is minus the distance."""

    path, variables, calibration = None, None, WORTH
    model = types.SimpleNamespace(matcher=None)

    def embed(self, images, *, names=None):
        return np.array([[float(np.mean(image))] for image in images], np.float32)

    def score(self, query, gallery):
        return -np.abs(query - gallery.T)


def grey(value):
    return np.full((8, 4, 3), value, np.uint8)


ENTRIES = [
    Entry(grey(20), "a", "door", 10.0),
    Entry(grey(200), "b", "door", 20.0),
    Entry(grey(30), "c", "gate", 30.0),
    Entry(grey(50), "d"),
]


def names(*photos, model=None, **options):
    default = {"top": 9, "threshold": None, "prior": None, "fusion": "mean", "where": Filter()}
    photos = [grey(value) for value in photos]
    hits, _ = find(model or Grey(), photos, Images(ENTRIES), **default | options)
    return "".join(hit.name for hit in hits)


def test_the_best_come_first():
    assert names(20) == "acdb"
    assert names(20, top=2) == "ac"


def test_several_photos_count_together():
    assert names(20, 54) == "acdb"  # equal means: in the order of the gallery
    assert names(22, 54) == "cdab"
    assert names(20, 51, fusion="max") == "adcb"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"cameras": ("door",)}, "ab"),
        ({"cameras": ("door", "gate")}, "acb"),
        ({"after": 20.0}, "cb"),
        ({"before": 20.0}, "ab"),
        ({"after": 15.0, "before": 25.0}, "b"),
    ],
)
def test_cameras_and_times_are_filtered_and_unknown_ones_do_not_pass(where, expected):
    assert names(20, where=Filter(**where)) == expected


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(-15, "ac"), ("score:-5", "a"), ("fmr:1e-2", "ac"), ("prob:0.4", "acd"), ("prob:0.8", "ac")],
)
def test_a_threshold_is_a_score_a_probability_or_a_rate(threshold, expected):
    assert names(20, threshold=threshold, prior=0.5) == expected


def test_hits_say_what_their_scores_are_worth():
    hits, notes = find(
        Grey(),
        [grey(20)],
        Images(ENTRIES),
        top=9,
        threshold=None,
        prior=None,
        fusion="mean",
        where=Filter(),
    )
    # One image of four, or none.
    expected = WORTH.probability(hits[0].score, prior=1 / 5)
    assert hits[0].probability == pytest.approx(expected)
    assert hits[0].false_match_rate == pytest.approx(0.001)
    assert "prior of 20%" in " ".join(notes)
    assert "9 people and 1,050 pairs of a set" in " ".join(notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": "fmr"}, r"expected score:X, prob:0.9 or fmr:1e-3"),
        ({"threshold": "prob:1.5"}, "expected a number between 0 and 1"),
        ({"threshold": "fmr:1e-9"}, "cannot be seen in the pairs of a set"),
        ({"threshold": "prob:0.99"}, "no score reaches a probability of 0.99"),
        ({"prior": 1.0}, "the prior is 1"),
        ({"top": 0}, "top is 0"),
        ({"fusion": "median"}, "valid: mean, max"),
        ({"where": Filter(cameras=("roof",))}, "unknown camera 'roof'; the gallery has door, gate"),
        ({"where": Filter(after=1e6)}, "nothing to search: no image of the gallery passes"),
    ],
)
def test_mistakes_are_answered_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        names(20, **options)


def test_a_threshold_without_a_calibration_says_how_to_get_one():
    with pytest.raises(ValueError, match="jaxreid calibrate MODEL --data=SET"):
        score_of("fmr:1e-3", None)
    assert score_of("score:2.5", None) == 2.5


def test_a_query_does_not_find_itself(tmp_path):
    for name in "ab":
        draw(1, 0, 0).save(tmp_path / f"{name}.png")

    class Same(Grey):
        def embed(self, images, *, names=None):
            return np.zeros((len(images), 1), np.float32)

    hits, notes = find(
        Same(),
        [tmp_path / "a.png"],
        open_gallery(tmp_path),
        top=9,
        threshold=None,
        prior=None,
        fusion="mean",
        where=Filter(),
    )
    assert [hit.name for hit in hits] == ["b.png"]
    assert "Left out, being the query itself: a.png." in notes


def test_galleries_are_folders_tables_and_sets(tmp_path):
    root = tmp_path / "mine"
    for path in ("front.png", "door/1_c1_5.png", "door/1_c2_7.5.png"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        draw(1, 0, 0).save(root / path)
    assert [e.name for e in open_gallery(root).entries] == ["front.png"]
    deep = open_gallery(root, recursive=True)
    assert [e.name for e in deep.entries] == ["front.png", "door/1_c1_5.png", "door/1_c2_7.5.png"]
    with pytest.raises(ValueError, match="unlike the pattern.* 1 of 3 .front.png"):
        open_gallery(f"folder:{root}?pattern={{pid}}_c{{camid}}_{{time}}")
    patterned = open_gallery(f"folder:{root / 'door'}?pattern={{pid}}_c{{camid}}_{{time}}")
    assert [(e.camera, e.time) for e in patterned.entries] == [("1", 5.0), ("2", 7.5)]
    assert patterned.cameras == ["1", "2"]
    table = root / "people.csv"
    table.write_text("path,camera,time\nfront.png,door,2026-11-27T10:00\ndoor/1_c1_5.png,,\n")
    for place in (table, f"table:{table}"):
        first, second = open_gallery(place).entries
        assert (first.camera, first.time) == ("door", 1795773600.0)
        assert second.camera == ""
        assert np.isnan(second.time)
    market_tree(tmp_path / "market1501", train=2, test=2)
    market = open_gallery(f"market1501:{tmp_path / 'market1501'}")
    assert market.cameras == ["c1", "c2"]
    with pytest.raises(ValueError, match="contains no images.*--recursive"):
        open_gallery(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a folder of images, a table"):
        open_gallery(tmp_path / "nothing")


def test_a_gallery_may_be_anything_that_names_candidates():
    gallery = Images(ENTRIES)
    assert gallery_of(gallery) is gallery
    assert [e.name for e in gallery_of([grey(1), grey(2)]).entries] == ["image 0", "image 1"]


def test_results_are_saved_as_picture_page_and_lines(tmp_path):
    hits, notes = find(
        Grey(),
        [grey(20), grey(30)],
        Images(ENTRIES),
        top=2,
        threshold=None,
        prior=None,
        fusion="mean",
        where=Filter(),
    )
    hits = Hits([grey(20), grey(30)], hits, notes=notes)
    for suffix in ("png", "html", "jsonl"):
        hits.save(tmp_path / f"page.{suffix}")
    lines = (tmp_path / "page.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["rank"], first["image"], first["camera"], first["time"]) == (1, "a", "door", 10.0)
    assert second["image"] == "c"
    assert first["path"] is None
    with pytest.raises(ValueError, match=r"must end in .html, .png, .jsonl"):
        hits.save(tmp_path / "page.gif")


@pytest.fixture(scope="module")
def place(tmp_path_factory, one_device):
    root = tmp_path_factory.mktemp("search")
    market_tree(root / "market1501")
    save_model(root / "model.safetensors")
    return root


def test_a_model_is_calibrated_and_its_file_carries_it(place, monkeypatch):
    reid = jaxreid.load(place / "model.safetensors")
    assert reid.calibration is None
    assert "has no calibration" in calibrated.find_calibration(reid.path, reid.variables)[1]
    fitted = reid.calibrate("market1501", dir=place)
    assert fitted.sets[0].name == "market1501"
    assert fitted.own
    reid.save(place / "with.safetensors")
    again = jaxreid.load(place / "with.safetensors")
    assert again.calibration.as_json() == fitted.as_json()
    images = sorted((place / "market1501" / "query").glob("*.jpg"))
    hits = again.search(images[:2], images, top=3, threshold="prob:0.01")
    assert len(hits) <= 3
    assert all(0 < hit.probability < 1 for hit in hits)
    hits.save(place / "page.html")
    assert 'data-links="[[' in (place / "page.html").read_text()
    # Other weights: their scores are others.
    other = save_model(place / "other.safetensors", height=64)
    fitted.save(place / "calibration.json")
    with pytest.raises(ValueError, match="scores of two models cannot be compared"):
        calibrated.read_for(place / "calibration.json", jaxreid.load(other))
