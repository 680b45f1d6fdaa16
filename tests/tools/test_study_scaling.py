"""The scaling study: levels are different trainings; what is finished makes a table and a plot."""

import importlib
import json
import pathlib

import pytest
from PIL import Image

from jaxreid.runs.settings import leaves

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)


def finished(path, level, score):
    """Write what a finished training of a level leaves."""
    from study_scaling import TESTS, command

    words = command(level, path, ("market1501:/data",))
    settings = dict(word.removeprefix("--config.").split("=", 1) for word in words[3:])
    names = [*TESTS, "market1501"]
    rows = [
        {"set": name, "variant": "plain", "model": model, "step": 1000, "parameters": 5}
        | {"rank1": score, "mAP": score / 2 if model == "trained" else 0.0}
        for name in names
        for model in ("trained", "averaged")
    ]
    line = {"set": "market1501", "query": "a", "matches": 1, "AP": score / 2, "first_match": 1}
    path.mkdir(parents=True)
    config = {"seed": 0, "batch_size": 32, "data": {"train": settings["data.train"], "test": []}}
    run = {"mode": "train", "finished": True, "seconds": 90.0, "cpu_seconds": 120.0}
    record = {"config": config, "seed": 0, "runs": [run]}
    (path / "config.json").write_text(json.dumps(record))
    (path / "results.json").write_text(json.dumps({"results": rows}))
    (path / "queries.jsonl").write_text(json.dumps(line) + "\n")


def test_levels_of_one_name_are_one_training():
    from study_scaling import AXES, command

    trained = {}
    for axis in AXES:
        assert len({level.label for level in axis.levels}) == len(axis.levels)
        for level in axis.levels:
            words = command(level, pathlib.Path("runs"), ())
            assert trained.setdefault(level.place, words) == words
    assert len({tuple(words) for words in trained.values()}) == len(trained)
    assert all("/" not in place for place in trained)


def test_recipes_have_the_settings_of_their_levels():
    from study_scaling import AXES, BASE

    for axis in AXES:
        for level in axis.levels:
            config = importlib.import_module(f"jaxreid.configs.{level.recipe}").get_config()
            config = config.copy_and_resolve_references()
            changes = {k: v for k, v in (BASE | dict(level.changes)).items() if v is not None}
            config.update_from_flattened_dict(changes)
            assert {k: v for k, v in leaves(config) if k in changes} == changes
            # A quota has a number for each training set.
            assert len(config.sampler.quota) in (0, len(config.data.train))


def test_what_is_finished_makes_a_table_and_a_plot(tmp_path, capsys):
    from study_scaling import AXES, Level, main

    (width,) = (axis for axis in AXES if axis.name == "width")
    assert main([f"--out={tmp_path}", "--axes", "none"]) == 2
    assert "base is not finished" in capsys.readouterr().err
    finished(tmp_path / "base", Level(""), 0.5)
    finished(tmp_path / width.levels[0].place, width.levels[0], 0.25)
    assert main([f"--out={tmp_path}", "--axes", "none"]) == 0
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert [axis["name"] for axis in result["axes"]] == ["width"]
    assert [level["label"] for level in result["axes"][0]["levels"]] == ["8", "16"]
    assert result["base"]["tests"]["market1501"] == {"rank1": 0.5, "mAP": 0.25}
    assert result["base"]["images"] == 32_000
    table = (tmp_path / "scaling.md").read_text().splitlines()
    assert table[-1].startswith("| channels of the first layer | 8 | 25.0 / 12.5 |")
    assert table[-1].endswith("| 32,000 | 5 | 2.0 |")
    with Image.open(tmp_path / "scaling.png") as drawn:
        assert drawn.width > 900
    assert main([f"--out={tmp_path}", "--axes", "widht"]) == 2
    assert "unknown axis 'widht'; valid:" in capsys.readouterr().err
