"""The command-line tools on a tiny data set."""

import json
import pathlib
import subprocess
import sys

import pytest
from people import market_tree
from PIL import Image

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"


def run(tool, *arguments):
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_show_dataset_draws_a_row_for_each_person(tmp_path):
    market_tree(tmp_path / "market1501", train=3, test=2)
    folders = ["--dir", tmp_path, "--prepared-dir", tmp_path / "prepared"]
    out = tmp_path / "sheet.png"
    result = run("show_dataset.py", "market1501", *folders, "--people", 2, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "2 of 3 people" in result.stdout
    with Image.open(out) as picture:
        assert picture.height > 2 * 160


@pytest.mark.parametrize("tool", ["show_dataset.py", "build_dataset.py"])
def test_tools_explain_themselves_and_their_errors(tool, tmp_path):
    assert "market1501" in run(tool, "--help").stdout
    result = run(tool, "market1510")
    assert result.returncode != 0
    assert "valid: market1501" in result.stderr
    assert "Traceback" not in result.stderr


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


@pytest.mark.parametrize("benchmark", ["scoring", "step"])
def test_benchmark_compares_matching_with_the_original(tmp_path, benchmark):
    pytest.importorskip("torch")
    path = tmp_path / "records.jsonl"
    small = ["--images", 3, 5, "--maps", "3x2x8", "--types", "float32", "--repeats", 1]
    small += ["--contenders", "ours", "original", "--json", path]
    # Lines are added.
    for others in ([], ["qaconv_ms"]) if benchmark == "scoring" else [None]:
        more = [] if others is None else ["--matchers", *others]
        result = run("benchmark.py", benchmark, *small, *more)
        assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == (2 if benchmark == "scoring" else 1)
    results = {record["problem"]["task"]: record for record in lines[-1]["results"]}
    if benchmark == "scoring":
        matchers = results.pop("matchers")
        assert matchers["times_as_fast"]["QAConv"] == 1
    for record in results.values():
        assert record["difference"]["PyTorch, original"] < 1e-3  # the very same function
        assert record["pairs_per_second"]["jaxreid"] > 0
    table = run("benchmark.py", "table", path)
    assert table.stdout.count("| PyTorch, original |") == len(results)
    assert table.stdout.count("| QAConv-MS |") == (benchmark == "scoring")
    assert f"`benchmark.py {benchmark}`, " in table.stdout


def test_benchmark_compares_forms_of_gmns_scores(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.syspath_prepend(TOOLS)
    import benchmark

    # Each takes a process of its own; the test above has that.
    monkeypatch.setattr(benchmark.benchmark_matching, "memory", lambda *_: None)
    path = tmp_path / "records.jsonl"
    small = ["--images", "3", "5", "--channels", "32", "--repeats", "1", "--json", str(path)]
    assert benchmark.main(["embeddings", *small]) == 0
    for record in json.loads(path.read_text())["results"]:
        assert max(record["difference"].values()) < 1e-4  # the very same function
        assert record["pairs_per_second"]["jaxreid"] > 0
    assert "| GMN, linear, float32 | jaxreid |" in run("benchmark.py", "table", path).stdout


def test_a_file_without_results_makes_no_table(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    for name, message in (("other.jsonl", "contains no results"), ("none.jsonl", "no file")):
        result = run("benchmark.py", "table", tmp_path / name)
        assert result.returncode == 2
        assert message in result.stderr
