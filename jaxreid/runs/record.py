"""The record of a run, config.json: its configuration, its starts, and how they ended."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time
from typing import Any

import jax

import jaxreid
from jaxreid.places import place
from jaxreid.runs.log import write_json

RECORD = "config.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def note_not_finite(workdir: pathlib.Path) -> None:
    """Record that the last training ended without finite values, so it may change `REMEDIES`."""
    _note(workdir, {"not_finite": True})


def clocks() -> dict[str, float]:
    """Return the seconds of the clock, and those that processors have spent on this process."""
    return {"seconds": time.monotonic(), "cpu_seconds": time.process_time()}


def note_end(workdir: pathlib.Path, *, start: dict[str, float], finished: bool) -> None:
    """Record how the last training ended, and the seconds it took.

    Args:
        workdir: work directory.
        start: `clocks` at its start.
        finished: whether it came to its end; a signal or an error stopped it otherwise.
    """
    spent = {name: round(now - start[name], 1) for name, now in clocks().items()}
    _note(workdir, spent | ({"finished": True} if finished else {}))


def is_finished(workdir: str | os.PathLike, config: dict[str, Any]) -> bool:
    """Return whether a work directory holds a training with these settings that came to its end.

    Raises:
        ValueError: its record is damaged.
    """
    record = read_record(place(workdir) / RECORD)
    if record is None or record["config"] != json.loads(json.dumps(config)):
        return False
    trainings = trainings_of(record)
    return bool(trainings) and "finished" in trainings[-1]


def _note(workdir: pathlib.Path, end: dict[str, Any]) -> None:
    if jax.process_index() == 0:
        path = workdir / RECORD
        if (record := read_record(path)) is not None:
            trainings_of(record)[-1].update(end)
            write_json(path, record)


def trainings_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the starts of a record that trained."""
    return [run for run in record["runs"] if run["mode"] == "train"]


def read_record(record: pathlib.Path) -> dict[str, Any] | None:
    """Return the content of a config.json; None if the file does not exist.

    Raises:
        ValueError: it is damaged, or not the record of a run.
    """
    if not record.exists():
        return None
    try:
        content = json.loads(record.read_text())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not content.keys() >= {"config", "seed", "runs"}:
        raise ValueError(
            f"{record} is not a jaxreid run record, or is damaged; use another --workdir, or "
            "repair it."
        )
    return content


def environment() -> dict[str, Any]:
    """Return the start time, code revision, package versions and devices."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "started": now,
        "jaxreid": jaxreid.__version__,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "backend": jax.default_backend(),
        "devices": [f"{device.device_kind} {device.id}" for device in jax.devices()],
        "processes": jax.process_count(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # TFDS is installed by jaxreid[train] only.
        return None


def _git_revision() -> str | None:
    root = pathlib.Path(jaxreid.__file__).resolve().parent.parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")) != root:
            # Installed inside another repository, such as in its virtual environment.
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
