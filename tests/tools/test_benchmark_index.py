"""The benchmark of indexes: whose memory it reports, and which records it draws."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import benchmark_index

    return benchmark_index


def test_memory_is_that_since_the_last_call(benchmark):
    if benchmark._peak_mb() is None:
        pytest.skip("the system does not say")
    ballast = np.ones(2**25)  # 268 MB
    after = benchmark._peak_mb()
    del ballast
    benchmark._peak_mb()
    assert benchmark._peak_mb() < after - 200


def test_memory_is_not_that_of_the_process_that_started_this_one(benchmark):
    if benchmark._peak_mb() is None:
        pytest.skip("the system does not say")
    ballast = np.ones(2**25)
    code = "import benchmark_index; print(benchmark_index._peak_mb())"
    tools = ROOT / "tools"
    peak = subprocess.run([sys.executable, "-c", code], cwd=tools, capture_output=True, text=True)
    del ballast
    assert float(peak.stdout) < 200


def test_records_without_memory_are_drawn(benchmark, tmp_path):
    assert (
        benchmark.main(
            ["--plot", str(ROOT / "benchmarks" / "index.jsonl"), str(tmp_path / "p.png")]
        )
        == 0
    )
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > picture.height
