"""The command `jaxreid`: its verbs, on a model that is a stand-in, and what they refuse."""

import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from golden import REPOSITORY
from people import CALIBRATION, market_tree
from PIL import Image

import jaxreid
from jaxreid import cli
from jaxreid.evaluation.calibration import Calibration
from jaxreid.reid.hits import Hit, Hits


class Saved:
    def __init__(self, *hits):
        self.hits = hits

    def __iter__(self):
        return iter(self.hits)

    def save(self, path):
        pathlib.Path(path).write_bytes(b"saved")


class Model:
    """As `jaxreid.ReID`: a feature is the mean colour of an image."""

    step, path, asked, searched = 7, pathlib.Path("a run"), {}, {}
    calibration = Calibration.from_json(CALIBRATION)
    explains = True

    def embed(self, images):
        return np.stack([np.asarray(Image.open(image)).mean((0, 1)) for image in images])

    def score(self, query, gallery):
        return -np.abs(query[:, None] - gallery[None]).sum(-1)

    def rank(self, query, gallery, *, top):
        scores = self.score(self.embed([query]), self.embed(gallery))[0]
        hits = [
            types.SimpleNamespace(image=gallery[g], score=scores[g])
            for g in np.argsort(-scores)[:top]
        ]
        return Saved(*hits)

    def search(self, query, gallery, **options):
        self.searched.update(query=query, **options)
        hits = [
            Hit(e.image, i, float(-i), e.name, "door", 5.0) for i, e in enumerate(gallery.entries)
        ]
        return Hits(query, hits, notes=["3 images searched."])

    def check_explains(self):
        pass

    def explain(self, a, b):
        return Saved()

    def save(self, path):
        pathlib.Path(path).write_bytes(b"saved")

    def evaluate(self, test, **settings):
        self.asked.update(test=test, **settings)
        print("a table for people")
        return {"a set": types.SimpleNamespace(metrics={"rank1": 0.5})}


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setattr(jaxreid, "load", lambda path: Model(), raising=False)
    (tmp_path / "people").mkdir()
    for name, grey in (("a", 20), ("b", 200), ("c", 30)):
        path = tmp_path / "people" / f"{name}.png"
        Image.new("RGB", (8, 16), (grey,) * 3).save(path)
    (tmp_path / "people" / "notes.txt").write_text("not an image")
    return tmp_path / "people"


def said(capsys, *arguments, status=0):
    assert cli.main([*map(str, arguments)]) == status
    return capsys.readouterr()


def test_images_are_compared_and_ranked(images, tmp_path, capsys):
    a, page = images / "a.png", tmp_path / "page.png"
    assert "-30.000" in said(capsys, "compare", "run", a, images / "c.png").out
    text = said(capsys, "compare", a, images / "c.png", "--model=run", "--out", page).out
    assert "probability  50%" in text
    assert "calibrated on 9 people and 1,050 pairs of a set" in text
    found = json.loads(said(capsys, "compare", a, a, "--json", "--prior=0.01").out)
    assert found["false_match_rate"] == pytest.approx(0.001)
    assert found["probability"] == pytest.approx(
        float(Model.calibration.probability(0, prior=0.01))
    )
    out = said(capsys, "rank", "run", a, images, "--top=2", "--out", page).out
    assert [line.split()[-1] for line in out.splitlines()[:2]] == [str(a), str(images / "c.png")]
    assert page.exists()
    found = json.loads(said(capsys, "rank", "run", a, images, "--json").out)
    assert [hit["score"] for hit in found["hits"]] == [0, -30, -540]
    said(capsys, "explain", "run", a, images / "b.png", "--out", page)


def test_a_person_is_searched_for(images, tmp_path, capsys):
    a, b = images / "a.png", images / "b.png"
    files = {suffix: tmp_path / f"page.{suffix}" for suffix in ("html", "png", "jsonl")}
    outputs = ["--html", files["html"], "--out", files["png"], "--jsonl", files["jsonl"]]
    out = said(capsys, "search", a, b, images, "--camera=door", "--after=9", *outputs).out
    assert "1.    +0.000  a.png  door  0:00:05.0" in out
    assert "3 images searched." in out
    assert all(path.exists() for path in files.values())
    assert Model.searched["query"] == [a, b]
    assert Model.searched["where"].cameras == ("door",)
    assert Model.searched["where"].after == 9
    found = json.loads(said(capsys, "search", a, images, "--json", "--threshold=fmr:1e-3").out)
    assert [hit["image"] for hit in found["hits"]] == ["a.png", "b.png", "c.png"]
    assert Model.searched["threshold"] == "fmr:1e-3"


def test_features_go_into_a_file(images, tmp_path, capsys):
    out = tmp_path / "features.npz"
    found = json.loads(said(capsys, "embed", "run", images, "--out", out, "--json").out)
    assert found["shape"] == [3, 3]
    with np.load(out) as held:
        assert held["features"].shape == (3, 3)
        assert [pathlib.Path(name).stem for name in held["names"]] == ["a", "b", "c"]


def test_an_evaluation_needs_nothing_but_the_run(images, capsys):
    assert "a table for people" in said(capsys, "evaluate", "run").out
    expected = {"test": None, "workdir": Model.path, "dir": None, "prepared_dir": None}
    assert Model.asked == expected
    more = ["--test", "one", "--test", "two", "--rerank", "--dir=/data", "--json"]
    output = said(capsys, "evaluate", "run", *more)
    assert json.loads(output.out) == {"a set": {"rank1": 0.5}}
    assert "a table for people" in output.err  # JSON stands alone
    assert Model.asked == expected | {"test": ["one", "two"], "rerank": True, "dir": "/data"}
    more = ["--out", images / "out", "--pictures=all", "--save-features", images / "a.npz"]
    said(capsys, "evaluate", "--model=run", "--expand=5", *more)
    written = {"workdir": images / "out", "save_features": images / "a.npz", "ranked": "all"}
    assert Model.asked.items() >= {"expand": 5, **written}.items()


def test_a_run_becomes_a_file_of_weights(images, tmp_path, capsys):
    out = tmp_path / "weights.safetensors"
    assert "start from it with --config.init_from=" in said(capsys, "weights", "run", out).out
    assert out.exists()


def test_data_sets_are_listed_measured_and_drawn(tmp_path, capsys):
    listed = json.loads(said(capsys, "data", "info", "--json").out)["datasets"]
    assert {"market1501", "synthetic_people"} <= set(listed)
    market_tree(tmp_path / "market1501", train=3, test=2)
    folders = ["--dir", tmp_path, "--prepared-dir", tmp_path / "prepared"]
    found = json.loads(said(capsys, "data", "build", "market1501", *folders, "--json").out)
    assert found["splits"]["train"] == {"identities": 3, "images": 18, "cameras": 2}
    out = tmp_path / "sheet.png"
    sheet = ["data", "sheet", "market1501", *folders, "--people", 2, "--out", out]
    assert "2 of 3 people" in said(capsys, *sheet).out
    large = out.stat().st_size
    said(capsys, *sheet, "--colours=256")
    assert out.stat().st_size < large * 0.7
    assert "skips all 3 people" in said(capsys, *sheet, "--first=9", status=1).err


def test_a_folder_is_checked_and_drawn(tmp_path, capsys):
    root, out = tmp_path / "market1501", tmp_path / "sheet.png"
    market_tree(root, train=3, test=2)
    text = said(capsys, "data", "check", root, "--out", out).out
    assert "read as market1501" in text
    assert "Problems: 0." in text
    assert out.exists()
    (next((root / "query").iterdir())).write_bytes(b"broken")
    report = json.loads(said(capsys, "data", "check", f"market1501:{root}", "--json", status=1).out)
    assert report["problems"] == 1
    assert report["findings"][0]["title"].startswith("broken images")


def test_recipes_are_listed_and_explained(capsys):
    assert "gmn" in json.loads(said(capsys, "recipes", "--json").out)
    assert "architecture=FILE" in said(capsys, "recipes", "osnet").out
    assert "valid: gmn" in said(capsys, "recipes", "gmm", status=1).err


def test_every_verb_explains_itself_with_an_example(capsys):
    verbs = [
        "train",
        "plan",
        "evaluate",
        "embed",
        "compare",
        "search",
        "calibrate",
        "rank",
        "explain",
        "weights",
        "convert",
        "crop",
        "group",
        "finetune",
        "sweep",
        "report",
    ]
    for words in [
        *([verb] for verb in [*verbs, "recipes"]),
        *(["data", a] for a in ("info", "check", "sheet", "build", "clean")),
        *(["index", a] for a in ("create", "add", "query", "remove", "info", "optimize")),
    ]:
        with pytest.raises(SystemExit) as end:
            cli.main([*words, "--help"])
        assert end.value.code == 0
        assert f"example: jaxreid {' '.join(words)} " in capsys.readouterr().out


MISTAKES = [
    (["compare", "run", "nothing.png", "other.png"], 1, "no file nothing.png"),
    (["rank", "run", "{images}/a.png", "{images}/.."], 1, "contains no images (.jpg"),
    (["embed", "run", "{images}", "--out=features.csv"], 1, "must end in .npz"),
    (["explain", "run", "a.png", "b.png", "--out=/nowhere/why.png"], 1, "no folder /nowhere"),
    (["weights", "run", "out.pth"], 1, "out.pth must end in .safetensors"),
    (["convert", "nothing.pth", "--arch=resnet18", "--out=out.safetensors"], 1, "no file nothing"),
    (["data", "info", "market1510"], 1, "valid: market1501"),
    (["data", "build", "market1501", "--option", "x"], 1, "write NAME=VALUE"),
    (["rank", "run", "a.png", "b.png", "--top=0"], 2, "a whole number of at least 1, got 0"),
    (["convert", "a.pth", "--arch=x", "--out=b", "--input-size=384"], 2, "such as 384x128"),
    (["evaluate"], 1, "nothing to evaluate: expected a model"),
    (["evaluate", "run", "--metric=cosine"], 1, "--metric belong to a file"),
    (["evaluate", "run", "--save-features=a.npy"], 1, "a.npy must end in .safetensors or .npz"),
    (["evaluate", "--features=a.npz", "--test", "market1501"], 1, "--test belong to images"),
    (["evaluate", "--features=nothing.npz"], 1, "no file nothing.npz; expected features"),
    (["evaluate", "run", "--jsn"], 2, "unknown arguments: --jsn"),
    (["explain", "run", "a.png", "b.png"], 2, "--out"),
    (["compare", "a.png"], 2, "expected two images, got 1"),
    (["search", "a.png"], 2, "expected query photos and a gallery"),
    (["search", "{images}/a.png", "/nowhere"], 1, "expected a folder of images, a table"),
    (["search", "{images}/a.png", "{images}", "--after=noon"], 1, "--after: time is 'noon'"),
    (["search", "{images}/a.png", "{images}", "--html=page.txt"], 1, "must end in .html"),
    (["compare", "a.png", "b.png", "--prior=2"], 2, "a number above 0 and below 1, got 2"),
    (["group", "{images}", "--out=g", "--threshold=high"], 2, "expected a number, got 'high'"),
    (["calibrate", "run", "--out=a.txt"], 1, "a.txt must end in .safetensors"),
    (["plan", "qaconv"], 2, "--topology"),
    (["plan", "qaconv", "--topology=v5x:4"], 1, "valid: v5"),
    (["plan", "qaconv", "--topology=v5e:4", "--chips=1,0"], 2, "at least 1, got 0"),
    (["plan", "qaconv", "--topology=cpu:1", "--config.batchsize=4"], 1, "batch_size"),
    (["evalute", "run"], 2, "invalid choice: 'evalute'"),
    (["data"], 2, "expected info, check, sheet, build or clean"),
    (["index"], 2, "expected create, add, query, remove, info or optimize"),
    (["index", "query", "a", "b.png", "--after=noon"], 2, "expected seconds, or a date"),
    ([], 2, "expected a verb"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "status", "message"), MISTAKES, ids=str)
def test_mistakes_are_explained(images, capsys, arguments, status, message):
    arguments = [argument.replace("{images}", str(images)) for argument in arguments]
    with pytest.raises(SystemExit) as end:
        sys.exit(cli.main(arguments))
    assert end.value.code == status
    output = capsys.readouterr()
    assert message in output.err
    assert "Traceback" not in output.err


@pytest.mark.end_to_end
def test_help_and_recipes_need_no_jax_and_training_passes_settings_on(tmp_path):
    code = (
        "import sys; sys.modules['jax'] = sys.modules['tensorflow'] = None\n"
        "from jaxreid import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    for arguments, expected in (
        (["recipes"], "qaconv_gs"),
        (["train", "gmn:synthetic,mnet", "--config.optim.lr=0.5", "--print_config"], "lr = 0.5 "),
        (["train", "qaconv", "--epochs=3"], "settings are given by their path: --config.epochs=3"),
        (["train", "qaconv"], "--workdir is missing"),
        (["train", "qaconv", f"--workdir={tmp_path}"], "pip install 'jaxreid[train]'"),
    ):
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,  # from any folder
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert expected in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        assert result.returncode == (0 if arguments[-1] in ("recipes", "--print_config") else 1)


def test_recipes_travel_in_the_wheel(tmp_path):
    pytest.importorskip("setuptools")
    built = tmp_path / "lib"
    steps = ["egg_info", "--egg-base", tmp_path, "build_py", "--build-lib", built]
    subprocess.run(
        [sys.executable, "setup.py", "-q", *steps], cwd=REPOSITORY, check=True, capture_output=True
    )
    assert (built / "jaxreid" / "py.typed").exists()
    result = subprocess.run(
        [sys.executable, "-m", "jaxreid.main", "--config=qaconv_gs:market1501", "--print_config"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(built)},
        capture_output=True,
        text=True,
    )
    assert "optim.clip_norm = 8.0" in result.stdout, result.stderr
    assert "# largest norm of the gradient" in result.stdout
