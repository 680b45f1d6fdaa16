"""Sweeps on several devices: a process for each, which trains one run after the other on it alone.

A process is the command of the sweep itself with --worker, which sees one device. It reads names of
runs from its input, a line each, and answers how they ended, in JSON.
"""

import contextlib
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

from jaxreid.programs import sharing
from jaxreid.runs.signals import StopRequest
from jaxreid.training.sweep import End, Run, end_of, remaining, say

# Sees what JAX would, and leaves the devices free.
_ASK = "import jax; print(jax.default_backend(), jax.local_device_count())"
_ONE_CHIP = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
# Variables that select the visible devices, by backend; the first that is set counts.
_VISIBLE = {
    "gpu": ("JAX_CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    "tpu": ("TPU_VISIBLE_CHIPS",),
}
_VIRTUAL = "--xla_force_host_platform_device_count"


def visible_devices() -> tuple[str, int]:
    """Return the backend and the number of devices of this host, as another process sees them.

    Without an answer the backend is "".
    """
    command = [sys.executable, "-c", _ASK]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    words = asked.stdout.split()
    return (words[-2], int(words[-1])) if asked.returncode == 0 else ("", 1)


def environment_of(
    backend: str, device: int, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the environment of a process that sees one device of this host.

    Args:
        backend: "gpu", "tpu" or "cpu".
        device: number of the device among those that this process may see.
        environment: of this process.
    """
    if backend not in _VISIBLE:
        flags = re.sub(rf"{_VIRTUAL}=\d+", "", environment.get("XLA_FLAGS", ""))
        virtual = {"XLA_FLAGS": f"{flags} {_VIRTUAL}=1".strip(), "JAX_NUM_CPU_DEVICES": "1"}
        return {**environment, **virtual}
    names = _VISIBLE[backend]
    name = next((name for name in names if environment.get(name, "all") != "all"), names[-1])
    seen = [one.strip() for one in environment.get(name, "all").split(",")]
    changed = {name: str(device) if seen == ["all"] else seen[device]}
    return {**environment, **changed, **(_ONE_CHIP if backend == "tpu" else {})}


def run_all_at_once(
    runs: Sequence[Run],
    folder: str | os.PathLike,
    command: Sequence[str],
    environments: Sequence[Mapping[str, str]],
) -> list[End]:
    """Train runs in work directories below a folder, in as many processes as environments.

    Finished, stopped and failed runs are handled as in `run_all`. A process that ends by itself
    fails its run and is started again for the next one.

    Args:
        runs: runs to train.
        folder: of the work directories, and of the processes' output, in device0.log.
        command: that starts a process, which calls `answer`.
        environments: of the processes.

    Returns:
        Outcomes of the runs that were started, in the order in which they ended.

    Raises:
        OSError: the folder cannot be created.
    """
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    waiting: queue.SimpleQueue[tuple[int, Run]] = queue.SimpleQueue()
    for numbered in enumerate(runs, 1):
        waiting.put(numbered)
    ends: list[End] = []
    workers = [
        _Worker(command, environment, pathlib.Path(folder) / f"device{device}.log")
        for device, environment in enumerate(environments)
    ]

    def work(device: int, stop: StopRequest) -> None:
        while not stop.name:
            try:
                number, run = waiting.get_nowait()
            except queue.Empty:
                return
            left = remaining(ends, len(runs), at_once=len(workers))
            say(f"run {number} of {len(runs)} on device {device}: {run.name}{left}")
            try:
                end = workers[device].train(run, stop)
            except Exception as error:
                end = End(run, "failed", error=f"{type(error).__name__}: {error}")
            ends.append(end)
            say(f"{run.name}: {end.state}{': ' + end.error if end.error else ''}")

    with StopRequest() as stop:
        threads = [
            threading.Thread(target=work, args=(device, stop), daemon=True)
            for device in range(len(workers))
        ]
        try:
            for thread in threads:
                thread.start()
            signalled = False
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.1)
                if stop.name and not signalled:
                    signalled = True
                    for worker in workers:
                        worker.stop()
        except BaseException:
            for worker in workers:
                worker.kill()
            raise
        finally:
            for worker in workers:
                worker.close()
    return ends


def answer(runs: Sequence[Run], folder: str | os.PathLike, output: IO[str]) -> None:
    """Train the runs whose names come as lines of the input; answer their outcomes in JSON.

    The end of the input, when the parent process has died, stops a run like a signal.

    Args:
        runs: of the sweep.
        folder: of the work directories.
        output: stream of the answers.
    """
    by_name = {run.name: run for run in runs}
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    training = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            asked.put(line.rstrip("\n"))
        asked.put("")
        if training.is_set():
            signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()
    with sharing():
        while name := asked.get():
            training.set()
            end = end_of(by_name[name], folder)
            training.clear()
            answered = {"state": end.state, "seconds": end.seconds, "error": end.error}
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps(answered), file=output, flush=True)


class _Worker:
    """A process that trains runs on one device."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: pathlib.Path
    ) -> None:
        self._command, self._environment, self._log = command, environment, log
        self._process: subprocess.Popen[str] | None = None

    def train(self, run: Run, stop: StopRequest) -> End:
        """Train a run and return its outcome; start the process if there is none."""
        start = time.perf_counter()
        process = self._start()
        if stop.name:
            # It came before there was a process to pass it on to.
            process.terminate()
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{run.name}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if line:
            answered: dict[str, Any] = json.loads(line)
            return End(run, answered["state"], answered["seconds"], answered["error"])
        self.close()
        seconds = time.perf_counter() - start
        if stop.name:
            return End(run, "stopped", seconds)
        status = f"its process ended with exit status {process.returncode}"
        return End(run, "failed", seconds, f"{status}; its output is in {self._log}")

    def stop(self) -> None:
        """Ask the process to save what it trains and to end."""
        if (process := self._process) is not None:
            process.terminate()

    def kill(self) -> None:
        """End the process at once."""
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """Wait for the end of the process, which has no more runs to expect."""
        if (process := self._process) is not None:
            self._process = None
            # Its input may be closed already, by its end.
            with contextlib.suppress(BrokenPipeError), process:
                pass

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    env=self._environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    # Ctrl-C is for this process, which passes it on.
                    start_new_session=True,
                )
        return self._process
