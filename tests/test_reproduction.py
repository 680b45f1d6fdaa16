"""Published tables: every command is understood, missing data are said, results are read."""

import json
import types

import pytest
from people import market_tree

from jaxreid import cli, configs
from jaxreid.cli import reproduction
from jaxreid.cli.published import TABLES, WITHDRAWN
from jaxreid.cli.reproduction import cells_of
from jaxreid.data.sets import SETS
from jaxreid.data.sets.naming import parse_name


@pytest.mark.parametrize("table", TABLES)
def test_every_published_training_is_a_recipe_with_its_sets(table):
    for cell in cells_of(table, None):
        data = configs.get(f"{cell.recipe}:{cell.argument}").data
        names = {parse_name(name, SETS.names).base for name in (*data.train, *data.test)}
        assert names <= set(SETS.names)
        tested = {parse_name(name, SETS.names).base for name in data.test}
        assert {parse_name(name, SETS.names).base for name in cell.training.values} <= tested
        # On sets of other cameras, or on those that were trained on alone.
        assert not set(data.train) & set(data.test) or data.train == data.test
        assert all(0 < value < 100 for pair in cell.training.values.values() for value in pair)


def test_what_is_not_there_is_said_and_not_tested(tmp_path):
    market_tree(tmp_path / "market1501")
    market_tree(tmp_path / "duke")
    (from_market,) = cells_of("qaconv_gs", str(tmp_path), ["M"])
    assert from_market.tests == ()
    assert [line.partition(":")[0] for line in from_market.missing] == ["cuhk03_np", "msmt17"]
    own, _, duke = cells_of("osnet", str(tmp_path), ["M", "MS", "M, ain"])
    assert own.argument == "market1501->market1501"
    assert own.tests == ("market1501",)
    assert duke.tests == ()  # names of another pattern
    assert duke.missing[0].startswith(f"{WITHDRAWN[0]} (withdrawn by its authors): ")


def test_a_protocol_without_one_of_its_sets_names_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduction, "_lack", lambda name, _: "no" * name.startswith("ilids"))
    (cell,) = cells_of("gmn", str(tmp_path), ["p1"])
    assert cell.missing == ("no",)
    assert configs.get(f"gmn:{cell.argument}").data.test == cell.tests
    assert "ilids" not in cell.argument


def test_trainings_run_one_after_the_other_and_are_compared(tmp_path, monkeypatch, capsys):
    market_tree(tmp_path / "market1501")
    ran = []

    def run(words, check):
        ran.append(words[3:])
        workdir = tmp_path / "out" / "osnet_M"
        workdir.mkdir(parents=True)
        row = {"set": "market1501", "variant": "plain", "model": "trained"}
        row |= {"mAP": 0.801, "rank1": 0.912}
        (workdir / "results.json").write_text(json.dumps({"results": [row]}))
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(reproduction.subprocess, "run", run)
    words = ["reproduce", "osnet", f"--data={tmp_path}", f"--out={tmp_path / 'out'}"]
    words += ["--weights=w.safetensors", "--config.epochs=3"]
    assert cli.main([*words, "--run"]) == 0
    assert ran == [
        [
            *("train", "osnet:market1501->market1501", f"--workdir={tmp_path / 'out'}/osnet_M"),
            *(f"--config.data.dir={tmp_path}", "--config.init_from=w.safetensors"),
            "--config.epochs=3",
        ]
    ]
    printed = capsys.readouterr().out
    assert "osnet/M: done" in printed
    line = next(line for line in printed.splitlines() if line.startswith("osnet/M "))
    assert line.split() == ["osnet/M", "market1501", "82.6", "/", "94.2", "80.1", "/", "91.2"]
    assert cli.main([*words, "--json"]) == 0
    (cell, *_) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["found"] == {"market1501": pytest.approx([80.1, 91.2])}


def test_means_over_splits_are_what_is_compared(tmp_path):
    (cell,) = cells_of("gmn", None, ["p1"])
    (tmp_path / cell.workdir).mkdir()
    row = {"set": "viper", "variant": "plain", "model": "trained", "mAP": 0.7, "rank1": 0.6}
    written = {"results": [], "means": [row, row | {"set": None}]}
    (tmp_path / cell.workdir / "results.json").write_text(json.dumps(written))
    lines = reproduction.text_of([cell], tmp_path).splitlines()
    assert lines[-1].split() == ["gmn/p1", "viper", "77.7", "/", "69.0", "70.0", "/", "60.0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["qaconv_gz"], "unknown table 'qaconv_gz'; valid: qaconv_gs"),
        (["qaconv_gs", "X"], "unknown training of qaconv_gs 'X'; valid: "),
        (["qaconv_gs", "--run"], "--run needs --data=DIR"),
        (["qaconv_gs", "--wieghts=x"], "unknown arguments: --wieghts=x; expected --data"),
    ],
)
def test_mistakes_are_explained(words, message, capsys):
    assert cli.main(["reproduce", *words]) == 1
    assert message in capsys.readouterr().err


def test_tables_are_listed(capsys):
    assert cli.main(["reproduce"]) == 0
    assert all(name in capsys.readouterr().out for name in ("transmatcher",))
    assert cli.main(["reproduce", "transmatcher"]) == 0
    printed = capsys.readouterr().out
    assert "jaxreid train 'transmatcher:msmt17->cuhk03_np+market1501' --workdir=" in printed
