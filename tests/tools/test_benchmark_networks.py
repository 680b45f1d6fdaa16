"""Both sides of `benchmark.py backbones` compute the same, again in the next step."""

import sys

import numpy as np
import pytest
from golden import REPOSITORY

pytest.importorskip("torch")
sys.path.insert(0, str(REPOSITORY / "tools"))

import benchmark_networks  # noqa: E402
from benchmark_networks import EMBEDDED, OURS, STEP  # noqa: E402

IMAGES = np.random.default_rng(0).standard_normal((4, 3, 32, 16), np.float32)


@pytest.fixture(scope="module")
def network():
    return benchmark_networks.make(EMBEDDED)


def test_outputs_and_gradients_are_those_of_pytorch(network):
    def once(contenders, repeats, progress):
        return {name: {"median": 1.0} for name in contenders}

    passes = benchmark_networks.PASSES
    records = benchmark_networks.compare(network, IMAGES, passes, 1, once, None)
    assert [record["pass"] for record in records] == list(passes)
    assert max(record["difference"] for record in records) < 1e-4


def test_steps_learn_as_in_pytorch_and_compile_once(network, monkeypatch):
    monkeypatch.setattr(benchmark_networks, "RATE", 0.1)
    compiled = []
    compile_ = benchmark_networks._compiled

    def noted(*arguments, **options):
        compiled.append(compile_(*arguments, **options))
        return compiled[-1]

    monkeypatch.setattr(benchmark_networks, "_compiled", noted)
    contenders = benchmark_networks.make_contenders(network, IMAGES, STEP)
    losses = {name: [run() for _ in range(3)] for name, run in contenders.items()}
    (step,) = compiled
    assert step._cache_size() == 1
    assert losses[OURS][2] < losses[OURS][0]
    for theirs in losses.values():
        np.testing.assert_allclose(losses[OURS], theirs, rtol=1e-4)
