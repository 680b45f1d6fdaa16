"""Sweeps on several devices: a process for each, which sees that one alone, fails and stops."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from jaxreid.runs.signals import StopRequest
from jaxreid.training import sweep_devices
from jaxreid.training.sweep import End, Run, remaining
from jaxreid.training.sweep_devices import (
    answer,
    environment_of,
    run_all_at_once,
    visible_devices,
)

# Stands for a process of a sweep: a run is named by what becomes of it.
STAND_IN = """
import json, os, signal, sys, time
print("started", file=sys.stderr, flush=True)
for line in sys.stdin:
    name, _, seconds = line.strip().partition(" ")
    end = {"state": name, "seconds": 60.0, "error": "why" if name == "failed" else ""}
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "saved":
        def save(*_):
            print(json.dumps(end | {"state": "stopped"}), flush=True)
            sys.exit()
        signal.signal(signal.SIGTERM, save)
    print("training", os.environ["DEVICE"], line, file=sys.stderr, flush=True)
    time.sleep(float(seconds or 0))
    print(json.dumps(end), flush=True)
"""


def ends_of(folder, *names, devices=2):
    environments = [{**os.environ, "DEVICE": f"number {device}"} for device in range(devices)]
    runs = [Run(name, {}, {}) for name in names]
    return run_all_at_once(runs, folder, [sys.executable, "-c", STAND_IN], environments)


def test_every_device_takes_the_next_run_and_none_stops_the_others(tmp_path, capsys):
    names = ("finished .5", "failed", "killed", "skipped", "finished")
    ends = {end.run.name: end for end in ends_of(tmp_path, *names)}
    assert {name: end.state for name, end in ends.items()} == {
        "finished .5": "finished",
        "failed": "failed",
        "killed": "failed",
        "skipped": "skipped",
        "finished": "finished",
    }
    assert ends["finished"].seconds == 60
    assert ends["failed"].error == "why"
    logs = [(tmp_path / f"device{device}.log").read_text() for device in range(2)]
    assert all(f"training number {device} " in text for device, text in enumerate(logs))
    output = capsys.readouterr().out
    assert re.search(r"run 1 of 5 on device \d: finished .5\n", output)
    assert "failed: failed: why" in output


def test_a_process_that_is_killed_is_started_again(tmp_path):
    ends = ends_of(tmp_path, "killed", "finished", devices=1)
    assert [end.state for end in ends] == ["failed", "finished"]
    log = tmp_path / "device0.log"
    assert ends[0].error == f"its process ended with exit status -9; its output is in {log}"
    assert log.read_text().count("started") == 2


def test_what_is_left_is_divided_by_the_devices():
    ended = [End(Run("a", {}, {}), "finished", 60.0), End(Run("b", {}, {}), "failed", 1.0)]
    assert remaining(ended, 6, at_once=2) == ", about 02:00 left"
    assert remaining(ended[1:], 6, at_once=2) == ""


def test_an_error_of_this_process_fails_a_run_alone(tmp_path):
    (tmp_path / "device0.log").mkdir()
    ends = ends_of(tmp_path, "finished", "finished 0", devices=1)
    assert [end.state for end in ends] == ["failed", "failed"]
    assert "IsADirectoryError" in ends[0].error


def test_the_first_process_takes_no_device(tmp_path):
    script = f"""
from jax._src import xla_bridge
from jaxreid.training.sweep import Run
from jaxreid.training.sweep_devices import run_all_at_once
import os, sys
ends = run_all_at_once(
    [Run("finished", {{}}, {{}})], {str(tmp_path)!r}, [sys.executable, "-c", {STAND_IN!r}],
    [os.environ | {{"DEVICE": "0"}}],
)
assert [end.state for end in ends] == ["finished"]
assert not xla_bridge.backends_are_initialized()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["saved 60", "lost 60"])
def test_a_signal_is_passed_on_and_what_waits_is_not_started(name, tmp_path, monkeypatch):
    seen = []

    def sleep(seconds, wait=time.sleep):
        # Once both are training.
        if not seen and all("training" in text for text in map(read, range(2))):
            seen.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        wait(seconds)

    def read(device):
        log = tmp_path / f"device{device}.log"
        return log.read_text() if log.exists() else ""

    monkeypatch.setattr(sweep_devices.time, "sleep", sleep)
    start = time.monotonic()
    ends = ends_of(tmp_path, name, f"{name}.0", "finished")
    assert sorted((end.run.name, end.state) for end in ends) == [
        (name, "stopped"),
        (f"{name}.0", "stopped"),
    ]
    assert time.monotonic() - start < 30


def test_a_signal_that_comes_before_the_process_is_passed_on(tmp_path):
    stop = StopRequest()
    stop.name = "SIGTERM"
    worker = sweep_devices._Worker(
        [sys.executable, "-c", STAND_IN], os.environ | {"DEVICE": "0"}, tmp_path / "log"
    )
    assert worker.train(Run("lost 60", {}, {}), stop).state == "stopped"
    worker.close()


def test_a_process_stops_when_whoever_asks_has_died(monkeypatch):
    ends, (reading, writing) = [], os.pipe()

    def end_of(run, folder):
        with StopRequest() as stop:
            os.close(writing)
            while not stop.name:
                time.sleep(0.01)
        ends.append(run.name)
        return End(run, "stopped")

    monkeypatch.setattr(sweep_devices, "end_of", end_of)
    os.write(writing, b"one\n")
    said = io.StringIO()
    with os.fdopen(reading) as asked:
        monkeypatch.setattr(sys, "stdin", asked)
        answer([Run("one", {}, {}), Run("two", {}, {})], "folder", said)
    assert ends == ["one"]
    assert json.loads(said.getvalue())["state"] == "stopped"


@pytest.mark.parametrize(
    ("backend", "given", "expected"),
    [
        ("gpu", {}, {"CUDA_VISIBLE_DEVICES": "1"}),
        ("gpu", {"CUDA_VISIBLE_DEVICES": "4,6"}, {"CUDA_VISIBLE_DEVICES": "6"}),
        ("gpu", {"HIP_VISIBLE_DEVICES": "2,3"}, {"HIP_VISIBLE_DEVICES": "3"}),
        ("gpu", {"JAX_CUDA_VISIBLE_DEVICES": "all"}, {"CUDA_VISIBLE_DEVICES": "1"}),
        ("gpu", {"JAX_CUDA_VISIBLE_DEVICES": "0,5"}, {"JAX_CUDA_VISIBLE_DEVICES": "5"}),
        ("tpu", {}, sweep_devices._ONE_CHIP | {"TPU_VISIBLE_CHIPS": "1"}),
        (
            "tpu",
            {"TPU_VISIBLE_CHIPS": "2,3"},
            sweep_devices._ONE_CHIP | {"TPU_VISIBLE_CHIPS": "3"},
        ),
        (
            "cpu",
            {"XLA_FLAGS": "--a=1 --xla_force_host_platform_device_count=8"},
            {
                "XLA_FLAGS": "--a=1  --xla_force_host_platform_device_count=1",
                "JAX_NUM_CPU_DEVICES": "1",
            },
        ),
    ],
)
def test_a_process_sees_one_of_the_devices_that_this_one_may_see(backend, given, expected):
    assert environment_of(backend, 1, {"HOME": "/"} | given) == {"HOME": "/"} | given | expected


def test_devices_are_counted_in_another_process(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert visible_devices() == ("cpu", 3)
    monkeypatch.setenv("JAX_PLATFORMS", "unheard")
    assert visible_devices() == ("", 1)
