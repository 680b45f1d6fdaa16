"""Pages of a run and of a comparison: whole without a network, escaped, light and dark."""

import io
import json
import re

import numpy as np
import pytest
from people import draw

from jaxreid import cli, configs
from jaxreid.data.split import Split
from jaxreid.evaluation import comparison_page
from jaxreid.evaluation.comparison import Difference, Group, RunResults, SetResult
from jaxreid.evaluation.run_page import page_of
from jaxreid.pictures.results import FOLDER, assembled
from jaxreid.pictures.self_contained import csp_digest
from jaxreid.runs.settings import resolved

pytest_plugins = ["browsers"]

HOSTILE = "<script>document.title='owned'</script>\"><img src=x onerror=alert(1)>.jpg"


@pytest.fixture
def run(tmp_path):
    """A run that has trained and was tested on a set with a hostile name."""
    path = tmp_path / "run"
    path.mkdir()
    start = {"started": "2026-01-01", "devices": ["cpu 0"], "mode": "train"}
    record = {"config": resolved(configs.get("qaconv")), "seed": 0, "runs": [start]}
    (path / "config.json").write_text(json.dumps(record))
    events = [
        {"kind": "train", "step": s, "loss": 1 / s, "lr": 0.1, "accuracy": 0.5} for s in (1, 2, 3)
    ]
    metrics = dict.fromkeys(("rank1", "rank5", "rank10", "mAP", "mINP"), 0.25)
    for step in (0, 3):
        row = {"kind": "eval", "step": step, "set": HOSTILE, "variant": "plain", **metrics}
        events.append(row | {"cmc": [0.25, 0.5]})
    (path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    top = [{"name": HOSTILE, "score": 0.5, "right": True}]
    line = {"set": HOSTILE, "query": HOSTILE, "matches": 1, "AP": 0.125, "first_match": 8}
    (path / "queries.jsonl").write_text(json.dumps(line | {"top": top}) + "\n")
    draw(1, 0, 0).save(path / "ranking.png")
    return path


def curves(run):
    one = {"false_positive_rate": [0.01, 1], "true_positive_rate": [0.5, 1]}
    one |= {"edges": [0, 1, 2, 3], "same": [0, 0.5, 0.5], "other": [1, 0, 0]}
    (run / "curves.json").write_text(json.dumps({HOSTILE: one}))


def splits():
    def split(camid):
        images = []
        for pid in (1, 2):
            draw(pid, camid, 0).save(file := io.BytesIO(), "JPEG")
            images.append(file.getvalue())
        names, zeros = [HOSTILE, "b.jpg"], np.zeros(2)
        return Split(images, names, np.array([1, 2]), np.full(2, camid), zeros)

    return {"query": split(0), "gallery": split(1)}


def compared():
    """Page of two groups with a query that differs, and images."""
    top = [{"name": "b.jpg", "score": 1.0, "right": False}]
    held = SetResult({}, {HOSTILE: {"top": top}, "b.jpg": {"top": top}})
    groups = [
        Group(name, (RunResults(FOLDER, {"seed": 4}, True, {}, {"mall": held}),))
        for name in (HOSTILE, "b")
    ]
    difference = Difference(
        test="mall",
        names=(HOSTILE, "b"),
        seeds=(1, 1),
        people=2,
        means={"mAP": 0.2},
        intervals={"mAP": (-0.1, 0.3)},
        queries=(HOSTILE, "b.jpg"),
        precisions=np.array([[0.75, 0.5], [0.35, 0.5]]),
    )
    around = {"table": "", "note": "* is <shown>", "missing": "no folder <x>"}
    return comparison_page.page_of(
        groups, differences=[difference], images={"mall": splits()}, **around
    )


def assert_self_contained(page):
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "<script" not in page
    assert "url(" not in page
    assert " style=" not in page
    assert "default-src 'none'" in page
    assert csp_digest(assembled(FOLDER / "report.css")) in page
    page.encode()


def test_the_page_of_a_run_shows_what_its_files_hold(run):
    page = page_of(run)
    assert_self_contained(page)
    titles = ["loss", "learning rate", "accuracy of training batches", "rank-1 of the test sets"]
    for title in [*titles, "queries with a match among the first (CMC)"]:
        assert f"<h3>{title}</h3>" in page
    assert "<td>12.5</td><td>8 of 1</td>" in page
    assert "This run holds no scores of pairs (curves.json): evaluate it again" in page
    curves(run)
    page = page_of(run)
    assert "(ROC)</h3>" in page
    assert ": share of pairs by score</h3>" in page
    assert "evaluate it again" not in page


def test_a_run_that_has_just_begun_has_a_page(run):
    for name in ("metrics.jsonl", "queries.jsonl", "ranking.png"):
        (run / name).unlink()
    page = page_of(run)
    assert "Settings</h2>" in page
    assert "Worst queries" not in page


def test_the_page_of_a_comparison_shows_who_wins_where():
    page = compared()
    assert_self_contained(page)
    assert page.count('class="wrong"') == 2
    assert "* is &lt;shown&gt;" in page
    assert "the list is of seed 4" in page
    assert "<td>75.0</td><td>35.0</td>" in page
    assert "Images are not shown: no folder &lt;x&gt;" in page


def test_reports_are_written_and_mistakes_explained(run, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert cli.main(["report", str(run), f"--html={out}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["html"] == str(out)
    assert out.read_text().startswith("<!doctype html>")
    assert cli.main(["report", str(tmp_path / "nowhere"), f"--html={out}"]) == 1
    assert "is not a run" in capsys.readouterr().err
    (run / "queries.jsonl").write_text("{}\n")
    assert cli.main(["report", str(run), f"--html={out}"]) == 1
    assert f"the files of {run} cannot be read" in capsys.readouterr().err


def test_pages_are_drawn_by_a_browser_in_light_and_dark(browser, run, tmp_path):
    curves(run)
    back = "getComputedStyle(document.body).backgroundColor"
    for name, page in (("run", page_of(run)), ("comparison", compared())):
        path = tmp_path / f"{name}.html"
        path.write_text(page)
        problems, requests, colours = [], [], set()
        for scheme in ("light", "dark"):
            view = browser.new_page(viewport={"width": 800, "height": 600}, color_scheme=scheme)
            view.on("console", lambda message, held=problems: held.append(message.text))
            view.on("pageerror", lambda error, held=problems: held.append(str(error)))
            view.on("request", lambda request, held=requests: held.append(request.url))
            view.goto(path.as_uri())
            colours.add(view.evaluate(back))
            assert view.evaluate("document.documentElement.scrollWidth") <= 800
            line = view.locator("polyline").first
            assert line.bounding_box()["width"] > 100
            assert "owned" not in view.title()
            view.close()
        assert len(colours) == 2
        assert problems == []
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
