"""The verb group: a table and a page of people, and the table that a person has corrected."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import jaxreid
from jaxreid import cli
from jaxreid.data import sets
from jaxreid.data.sets.photos import photos_at
from jaxreid.pictures.groups import groups_page
from jaxreid.reid.groups import make_groups

pytest_plugins = ["browsers"]
GREYS = {"a": (20, 24, 30), "b": (120, 126), "c": (220,)}


class Model:
    """As `jaxreid.ReID`: a feature is the mean colour of an image."""

    def embed(self, images):
        return np.stack([np.asarray(Image.open(image)).mean((0, 1)) for image in images])

    def score(self, query, gallery):
        return -np.abs(query[:, None] - gallery[None]).mean(-1)

    def group(self, images, **options):
        return make_groups(self, images, **options)


class Sure:
    """A calibration: 1 for equal images, 0 from a difference of 20 grey values on."""

    def probability(self, scores):
        return np.clip(1 + scores / 20, 0, 1)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxreid, "load", lambda path: Model(), raising=False)
    folder = tmp_path / "crops"
    folder.mkdir()
    for person, greys in GREYS.items():
        for shot, grey in enumerate(greys):
            name = f"{person}_door_t{shot}.5_{grey}.png"
            Image.new("RGB", (8, 16), (grey,) * 3).save(folder / name)
    return folder


NAMED = "folder:{place}?pattern={{pid}}_{{camid}}_t{{time}}_*"


def said(capsys, *arguments, status=0):
    assert cli.main([*map(str, arguments)]) == status
    return capsys.readouterr()


def rows(path):
    with path.open(newline="") as file:
        return [(row["path"], row["person"]) for row in csv.DictReader(file)]


def test_people_are_grouped_into_a_table_and_a_page_that_people_can_correct(
    place, tmp_path, capsys
):
    out, data = tmp_path / "out", NAMED.format(place=place)
    text = said(capsys, "group", data, "--threshold=-30", "--out", out, "--labels").out
    assert "6 images of 3 people (joined from a score of -30.0), 1 of them on one image" in text
    assert "ARI 1.000, NMI 1.000; pairs: precision 1.000, recall 1.000, F1 1.000" in text
    table = out / "people.csv"
    assert [person for _, person in rows(table)] == ["p001"] * 3 + ["p002"] * 2 + ["p003"]
    photos = sets.load(f"table:{table}?split=none")["gallery"]
    assert sorted(photos.time.tolist()) == [0.5, 0.5, 0.5, 1.5, 1.5, 2.5]
    page = (out / "people.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert "http" not in page.replace("http-equiv", "")
    # As the page saves it: the worst of p001 is another person, and p003 nobody.
    corrected = tmp_path / "corrected.csv"
    held = [line.split(",") for line in table.read_text().splitlines()]
    for line in held[1:]:
        line[0] = str((out / line[0]).resolve())
        line[1] = {"_30.png": "Zoë / 2", "220.png": "-1"}.get(line[0][-7:], line[1])
    corrected.write_text("\n".join(map(",".join, held)))
    apply = ["group", f"--apply={corrected}", "--out", out, "--folders=copy"]
    assert "5 images of 3 people, 2 of them on two or more; 1 set aside" in said(capsys, *apply).out
    names = sorted(p.relative_to(out).as_posix() for p in out.glob("people/*/*/*"))
    assert names == [
        "people/Zoë - 2/door/a_door_t2.5_30.png",
        "people/p001/door/a_door_t0.5_20.png",
        "people/p001/door/a_door_t1.5_24.png",
        "people/p002/door/b_door_t0.5_120.png",
        "people/p002/door/b_door_t1.5_126.png",
    ]
    assert len(rows(table)) == 6
    assert "holds people already" in said(capsys, *apply, status=1).err
    links = ["group", f"--apply={corrected}", "--out", tmp_path / "links", "--folders=link"]
    said(capsys, *links)
    assert next((tmp_path / "links" / "people" / "p002" / "door").iterdir()).is_symlink()


def test_groups_come_from_a_threshold_a_number_or_a_calibration(place, tmp_path, capsys):
    images = sorted(place.iterdir())
    model = Model()
    assert len(asked := model.group(images, people=2)) == 2
    assert "as many as requested" in asked.page()
    sure = model.group(images, calibration=Sure())
    assert (sure.kind, sure.threshold) == ("probability", 0.3)
    assert sure.group.tolist() == [0, 0, 0, 1, 1, 2]
    assert sure.fit[:3] == pytest.approx([0.65, 0.75, 0.6])
    assert np.isnan(sure.fit[5])
    assert sure.near[0][0] == 1
    assert "6 images of 3 people, 1 of them on one image" in repr(sure)
    # One camera at one moment: nobody joins.
    apart = model.group(images, camera=["x"] * 6, time=[0] * 6, people=1)
    assert (len(apart), apart.separate) == (6, 15)
    assert len(model.group(images, camera=["x"] * 6, time=[0] * 6, people=1, keep_apart=False)) == 1
    with pytest.raises(ValueError, match="probability of 0 to 1"):
        model.group(images, calibration=Sure(), threshold=3)
    with pytest.raises(ValueError, match="one of the two"):
        model.group(images, people=2, threshold=0.5)
    with pytest.raises(ValueError, match="got 1 cameras"):
        model.group(images, people=2, camera=["x"])
    asked = said(capsys, "group", place, "--out", tmp_path / "x", status=1).err
    assert "no calibration; expected a threshold" in asked
    assert "--threshold=" in asked
    assert not (tmp_path / "x").exists()


def test_photos_of_folders_tables_and_data_sets_keep_their_names(place, tmp_path):
    photos, _ = photos_at(NAMED.format(place=place))
    assert {(p.person, p.camera) for p in photos} == {(n, "door") for n in GREYS}
    assert {photo.person for photo in photos_at(place)[0]} == {""}
    table = tmp_path / "t.csv"
    table.write_text(f"path,camera\n{place}/c_door_t0.5_220.png,hall\n")
    assert [(p.person, p.camera) for p in photos_at(table)[0]] == [("", "hall")]
    assert photos_at(f"table:{table}?split=none")[0] == photos_at(str(table))[0]
    with pytest.raises(ValueError, match="unknown option of folder 'fpz'; valid: fps"):
        photos_at(f"folder:{place}?fpz=3")
    with pytest.raises(FileNotFoundError, match="no folder or table 'nowhere'"):
        photos_at("nowhere")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--out=x"], 2, "expected a folder or table to group, or --apply"),
        (["{place}", "--out=x", "--labels"], 1, "names no people"),
        (["{place}", "--out=x", "--people=9"], 1, "people is 9; expected 1 to 6"),
        (["{place}/nobody", "--out=x"], 1, "no folder or table '{place}/nobody'"),
        (["--apply=none.csv", "--out=x"], 1, "no file 'none.csv'"),
        (["{place}", "--out={place}/c_door_t0.5_220.png"], 1, "is a file; expected a folder"),
    ],
)
def test_mistakes_in_grouping_are_explained(place, capsys, arguments, status, message):
    try:
        ended = cli.main(["group", *(a.replace("{place}", str(place)) for a in arguments)])
    except SystemExit as end:
        ended = end.code
    assert ended == status
    assert message.replace("{place}", str(place)) in capsys.readouterr().err


SCRIPT = """
<script>
move([0, 1], "p002"); undo(); move([2], newName()); move([0], "a, b"); move([3], ASIDE);
const count = name => document.querySelectorAll(name).length;
const answer = table() + count("section") + " " + count("figure");
document.body.append(make("pre", { id: "answer", textContent: answer }));
</script>
"""


def test_the_page_works_in_a_browser(browser, place, tmp_path):
    images = sorted(place.iterdir())[:4]
    row = {"group": 0, "camera": "<b>door", "doubt": False, "title": "</script><script>evil()"}
    shown = [row | {"path": str(i), "name": i.name, "time": float(n)} for n, i in enumerate(images)]
    shown[3]["time"] = float("nan")
    people = [
        {"name": "p001", "near": 1, "alike": "0.2"},
        {"name": "p002", "near": None, "alike": ""},
    ]
    page = tmp_path / "page.html"
    page.write_text(groups_page(images, people, shown, how="a test") + SCRIPT)
    view = browser.new_page()
    view.goto(page.as_uri())
    document = view.content()
    view.close()
    answer = document.partition('<pre id="answer">')[2].partition("</pre>")[0].splitlines()
    assert answer[0] == "path,person,camera,time"
    assert [line.split(",")[-3] for line in answer[2:5]] == ["p001", "p003", "-1"]
    assert answer[1] == f'{images[0]},"a, b",&lt;b&gt;door,0.000'
    assert answer[4].endswith(",")
    assert answer[5] == "4 4"
    assert json.dumps("evil()") not in document
