"""The work directory: its configuration, and the record of every start."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
from typing import Any

import jax

import jaxreid
from jaxreid.mesh import all_agree
from jaxreid.runs.log import write_json

# Settings that a resumed run may change, because training does not depend on them. Exception: the
# batch and tile sizes of eval may change the last bits of the scores in a class graph.
FREE = (
    "data.dir",
    "data.prepared_dir",
    "data.test",
    "eval",
    "checkpoint",
    "log",
    "sampler.save_graph",
    "init_expects",
)
FILES = {
    "config.json",
    "metrics.jsonl",
    "results.json",
    "queries.jsonl",
    "ranking.png",
    "checkpoints",
    "graphs",
    "tensorboard",
    "architecture.json",
    "architecture.png",
    "trained_on.npz",
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def open_workdir(workdir: str, config: dict[str, Any], *, mode: str) -> pathlib.Path:
    """Create the work directory, or check that it holds a run of the same configuration.

    Process 0 reads and writes; the other processes wait for the outcome.

    Args:
        workdir: path of the work directory.
        config: resolved configuration, as plain data.
        mode: "train", or "evaluate", which requires an existing run or `init_from`.

    Returns:
        The path. Its `config.json` holds the training configuration and a record of every start
        with the settings that differed.

    Raises:
        FileNotFoundError: nothing to evaluate.
        ValueError: the directory holds a run of another configuration, or foreign files.
        OSError: the directory cannot be created.
    """
    if "://" in workdir:
        raise ValueError(f"work directory {workdir!r}: expected a path on a (shared) file system.")
    path, problem = pathlib.Path(workdir).expanduser(), None
    if jax.process_index() == 0:
        try:
            # Through JSON, so that tuples compare equal to the lists in config.json.
            _open(path, json.loads(json.dumps(config)), mode)
        except (ValueError, OSError) as error:
            problem = error
    if not all_agree(problem is None):
        raise problem or ValueError("process 0 could not open the work directory; see its error.")
    return path


def holds_checkpoint(workdir: str | os.PathLike) -> bool:
    """Return whether a work directory holds a complete checkpoint."""
    candidates = (pathlib.Path(workdir).expanduser() / "checkpoints").glob("[0-9]*")
    # Incomplete checkpoints have a suffix.
    return any(path.name.isdigit() for path in candidates)


def _open(path: pathlib.Path, config: dict[str, Any], mode: str) -> None:
    record = path / "config.json"
    previous = _read(record)
    if mode == "evaluate" and previous is None and not config.get("init_from"):
        raise FileNotFoundError(
            f"work directory {path} holds no run (no config.json); name the work directory of a "
            "training, or pass a weights file with --config.init_from=FILE."
        )
    if previous is None and path.exists():
        foreign = (
            not path.is_dir() or {p.name.removesuffix(".partial") for p in path.iterdir()} - FILES
        )
        if foreign:
            raise ValueError(
                f"work directory {path} exists and is not a jaxreid run (no config.json); use a "
                "new or empty directory."
            )
    training = previous is not None and any(run["mode"] == "train" for run in previous["runs"])
    if mode == "evaluate" and training and not holds_checkpoint(path):
        raise FileNotFoundError(
            f"work directory {path} holds a training that has no checkpoint yet; wait for the "
            "first one, or evaluate a weights file in a --workdir of its own."
        )
    changes = _differences(previous["config"], config) if previous else []
    strict = [change for change in changes if not _is_free(change[0])]
    if strict and holds_checkpoint(path):
        raise ValueError(
            f"work directory {path} holds a run with another configuration:\n"
            + "\n".join(f"  {key}: {old!r} in the run, {new!r} now" for key, old, new in strict)
            + "\nUse the same configuration to resume it, or another --workdir."
        )
    if strict:
        # Without a checkpoint nothing is lost: start over.
        previous, changes = None, []
        for name in ("metrics.jsonl", "architecture.json", "architecture.png", "trained_on.npz"):
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / "graphs", ignore_errors=True)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"work directory {path} cannot be created: {error.strerror}; use another --workdir."
        ) from error
    start = {"mode": mode, "changed": {key: new for key, _, new in changes}} | environment()
    settings, runs = (previous["config"], previous["runs"]) if previous else (config, [])
    write_json(record, {"config": settings, "seed": settings["seed"], "runs": [*runs, start]})


def _read(record: pathlib.Path) -> dict[str, Any] | None:
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


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in FREE)


def _differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        differences = []
        for name in sorted(old.keys() | new.keys()):
            inner = f"{key}.{name}" if key else name
            differences += _differences(old.get(name), new.get(name), inner)
        return differences
    return [] if old == new else [(key, old, new)]
