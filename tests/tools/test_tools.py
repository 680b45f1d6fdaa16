"""The command-line tools on a tiny data set."""

import importlib.util
import json
import pathlib
import runpy
import subprocess
import sys
import types

import numpy as np
import pytest
from people import market_tree
from PIL import Image

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"


def run(tool, *arguments):
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_show_dataset_draws_a_row_for_each_person(tmp_path, monkeypatch, capsys):
    market_tree(tmp_path / "market1501", train=3, test=2)
    folders = ["--dir", tmp_path, "--prepared-dir", tmp_path / "prepared"]
    out = tmp_path / "sheet.png"
    words = ["show_dataset.py", "market1501", *folders, "--people", 2, "--out", out]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(TOOLS / "show_dataset.py"), run_name="__main__")
    assert "2 of 3 people" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.height > 2 * 160


@pytest.mark.parametrize("tool", ["show_dataset.py", "build_dataset.py"])
def test_tools_explain_themselves_and_their_errors(tool, tmp_path):
    assert "market1501" in run(tool, "--help").stdout
    result = run(tool, "market1510")
    assert result.returncode != 0
    assert "valid: market1501" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.full
def test_benchmark_compares_the_same_network_with_pytorch(tmp_path):
    pytest.importorskip("torch")
    small = ["--arch", "resnet18", "--size", "64x32", "--batch", 2, "--repeats", 1]
    result = run("benchmark.py", "backbones", *small, "--json", tmp_path / "records.jsonl")
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "records.jsonl").read_text())
    forward, backward = record["results"]
    assert forward["difference"] < 1e-4  # the very same function
    assert backward["difference"] < 1e-2
    assert set(forward["ms"]) == {"jaxreid", "PyTorch", "PyTorch channels_last"}
    assert result.stdout.count("resnet18") == 2
    wrong = run("benchmark.py", "backbones", "--arch", "resnet19")
    assert wrong.returncode != 0
    assert "valid: resnet18" in wrong.stderr


def test_benchmark_compares_rankings_with_plain_loops(tmp_path):
    small = ["--images", 40, 160, "--repeats", 1]
    result = run("benchmark.py", "ranking", *small, "--json", tmp_path / "records.jsonl")
    assert result.returncode == 0, result.stderr
    records = json.loads((tmp_path / "records.jsonl").read_text())["results"]
    names = ["metrics", "evaluation", "rerank", "rerank streamed", "tlift"]
    assert [record["what"] for record in records] == names
    for record in records:
        if record["what"] == "rerank streamed":  # nothing to compare it with
            assert record["ratio"] is None
            assert set(record["peak_bytes"]) == {"jaxreid"}
            continue
        assert record["difference"] < 1e-5  # the very same numbers
        assert record["ratio"] > 0
        assert set(record["peak_bytes"]) == {"jaxreid", "plain"}


@pytest.fixture
def benchmark(monkeypatch):
    """The benchmark in this process, without peak memory, which takes a process per contender."""
    pytest.importorskip("torch")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.syspath_prepend(TOOLS)
    import benchmark

    monkeypatch.setattr(benchmark.benchmark_matching, "memory", lambda *_: None)
    return benchmark.main


MATCHING = ["--images", "3", "5", "--maps", "3x2x8", "--types", "float32", "--repeats", "1"]
MATCHING += ["--contenders", "ours", "original", "--json"]


def check_matching(results):
    for record in results:
        assert record["difference"]["PyTorch, original"] < 1e-3  # the very same function
        assert record["pairs_per_second"]["jaxreid"] > 0


@pytest.mark.full
def test_benchmark_compares_scoring_with_the_original(tmp_path, benchmark, capsys):
    path = tmp_path / "records.jsonl"
    path.write_text("another line\n")
    assert benchmark(["scoring", *MATCHING, str(path), "--matchers", "qaconv_ms"]) == 0
    _, line = path.read_text().splitlines()  # lines are added
    path.write_text(line)
    results = {record["problem"]["task"]: record for record in json.loads(line)["results"]}
    assert results.pop("matchers")["times_as_fast"]["QAConv"] == 1
    check_matching(results.values())
    capsys.readouterr()
    assert benchmark(["table", str(path)]) == 0
    table = capsys.readouterr().out
    assert table.count("| PyTorch, original |") == len(results)
    assert table.count("| QAConv-MS |") == 1
    assert "`benchmark.py scoring`, " in table


@pytest.mark.full
def test_benchmark_compares_steps_with_the_original(tmp_path, benchmark):
    path = tmp_path / "records.jsonl"
    path.write_text("another line\n")
    assert benchmark(["step", *MATCHING, str(path)]) == 0
    _, line = path.read_text().splitlines()  # lines are added
    check_matching(json.loads(line)["results"])


def ones(name, problem):
    return lambda: np.ones(2**20 * problem.queries)


@pytest.mark.full
def test_benchmark_measures_peak_memory_in_a_process_of_its_own(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    from benchmark_matching import Problem, memory

    problem = Problem(5, 3, 3, 2, 8)
    assert memory("ones", problem, None, ones) == pytest.approx(5 * 2**23, rel=0.1)


@pytest.mark.full
def test_benchmark_compares_forms_of_gmns_scores(tmp_path, benchmark, capsys):
    path = tmp_path / "records.jsonl"
    small = ["--images", "3", "5", "--channels", "32", "--repeats", "1", "--json", str(path)]
    assert benchmark(["embeddings", *small]) == 0
    for record in json.loads(path.read_text())["results"]:
        assert max(record["difference"].values()) < 1e-4  # the very same function
        assert record["pairs_per_second"]["jaxreid"] > 0
    assert benchmark(["table", str(path)]) == 0
    assert "| GMN, linear, float32 | jaxreid |" in capsys.readouterr().out


@pytest.mark.full
def test_benchmark_lets_a_device_wait_for_training_batches(tmp_path, benchmark, capsys):
    path = tmp_path / "records.jsonl"
    small = ["--size", "128x64", "--batch", "4", "--steps", "2", "--repeats", "1"]
    assert benchmark(["input", *small, "--json", str(path)]) == 0
    (record,) = json.loads(path.read_text())["results"]
    assert set(record["images_per_second"]) == set(record["waits"]) == set(record["bytes"])
    assert all(0 <= share < 1 for share in record["waits"].values())
    assert benchmark(["table", str(path)]) == 0
    assert "| 4x128x64 | host |" in capsys.readouterr().out


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_device_check_keeps_what_a_failing_part_found(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(TOOLS)
    import device_check

    def part(small):
        yield {"what": "begun", "error": 0.5}
        raise RuntimeError("no such device")

    monkeypatch.setitem(sys.modules, "broken", types.SimpleNamespace(part=part))
    monkeypatch.setitem(device_check.PARTS, "kernel", ("broken:part", 60))
    path = tmp_path / "device_check.jsonl"
    assert not device_check.run_part("kernel", path, True)
    assert "no such device" in capsys.readouterr().err
    first, second = rows_of(path)
    assert first == {"part": "kernel", "what": "begun", "error": 0.5}
    assert "no such device" in second["failed"]


def test_the_device_check_stops_a_part_in_time_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(TOOLS)
    import device_check

    monkeypatch.setitem(device_check.PARTS, "golden", ("device_numbers:golden", 0.01))
    parts = ["--parts", "golden", "torch_scoring"]
    assert device_check.main([str(tmp_path), "--small", *parts]) == 1
    packages, stopped, *measured = rows_of(tmp_path / "device_check.jsonl")
    assert packages["is"]["jax"]
    assert (stopped["part"], stopped["failed"]) == ("golden", "stopped after 0 s")
    assert [row["part"] for row in measured] == ["torch_scoring"] * 3
    assert "pairs_per_second" in capsys.readouterr().out.splitlines()[-1]
    assert device_check.main([str(tmp_path), "--seconds", "5", "--parts", "kernel"]) == 1
    assert "not begun" in rows_of(tmp_path / "device_check.jsonl")[-1]["failed"]


def test_packages_that_stand_in_are_found_like_installed_ones(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    import device_common

    name = "package_that_is_not_installed"
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    device_common.stand_in(name, answer=42)
    assert sys.modules[name].answer == 42
    assert importlib.util.find_spec(name)  # PyTorch asks so for tqdm


def test_a_file_without_results_makes_no_table(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    for name, message in (("other.jsonl", "contains no results"), ("none.jsonl", "no file")):
        result = run("benchmark.py", "table", tmp_path / name)
        assert result.returncode == 2
        assert message in result.stderr
