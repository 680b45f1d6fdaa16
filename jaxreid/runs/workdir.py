"""The work directory: the configuration that it belongs to, and what it has been run with."""

import datetime
import importlib.metadata
import json
import pathlib
import platform
import shutil
import subprocess
from typing import Any

import jax

import jaxreid
from jaxreid.mesh import all_agree
from jaxreid.runs.log import write_json

# Settings that a resumed run may change, because training does not depend on them (but for the last
# bits of the scores in a class graph, which eval's batches and tiles may move).
FREE = (
    "data.dir",
    "data.prepared_dir",
    "data.test",
    "eval",
    "checkpoint",
    "log",
    "sampler.save_graph",
    "init_expects",
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
    """Makes the work directory, or checks that it holds a run of the same configuration.

    Process 0 reads and writes; the others wait for its answer.

    Args:
        workdir: its path.
        config: the resolved configuration, as plain data.
        mode: "train", or "evaluate", which needs a directory with a run, or a file of weights.

    Returns:
        The path; `config.json` in it holds the configuration of the training and a record of every
        start, with the settings in which that start differed.

    Raises:
        FileNotFoundError: there is nothing to evaluate.
        ValueError: the directory belongs to another configuration, or to something else.
    """
    if "://" in workdir:
        raise ValueError(f"work directory {workdir!r}: expected a path of a (shared) file system.")
    path, problem = pathlib.Path(workdir).expanduser(), None
    if jax.process_index() == 0:
        try:
            _open(path, json.loads(json.dumps(config)), mode)  # tuples as lists, as in the file
        except (ValueError, OSError) as error:
            problem = error
    if not all_agree(problem is None):
        raise problem or ValueError("process 0 could not open the work directory; see its message.")
    return path


def holds_checkpoint(workdir: str | pathlib.Path) -> bool:
    """True if there is a whole checkpoint."""
    held = (pathlib.Path(workdir).expanduser() / "checkpoints").glob("[0-9]*")
    return any(path.name.isdigit() for path in held)  # others are not written to the end


def _open(path: pathlib.Path, config: dict[str, Any], mode: str) -> None:
    record = path / "config.json"
    held = _read(record)
    if mode == "evaluate" and held is None and not config.get("init_from"):
        raise FileNotFoundError(
            f"work directory {path} holds no run (no config.json); give the one of a training, or "
            "a file of weights with --config.init_from=FILE."
        )
    if held is None and path.exists():
        foreign = (
            not path.is_dir() or {p.name.removesuffix(".partial") for p in path.iterdir()} - FILES
        )
        if foreign:
            raise ValueError(
                f"work directory {path} exists and is not one of ours (no config.json); use a new "
                "or an empty directory."
            )
    training = held is not None and any(run["mode"] == "train" for run in held["runs"])
    if mode == "evaluate" and training and not holds_checkpoint(path):
        raise FileNotFoundError(
            f"work directory {path} is a training that has no checkpoint yet; wait for its first "
            "one, or evaluate a file of weights in a --workdir of its own."
        )
    changes = _differences(held["config"], config) if held else []
    strict = [change for change in changes if not _is_free(change[0])]
    if strict and holds_checkpoint(path):
        raise ValueError(
            f"work directory {path} holds a run of another configuration:\n"
            + "\n".join(f"  {key}: {old!r} there, {new!r} now" for key, old, new in strict)
            + "\nUse the same configuration to continue it, or another --workdir."
        )
    if strict:  # nothing has been learned yet: begin anew
        held, changes = None, []
        for name in ("metrics.jsonl", "architecture.json", "architecture.png", "trained_on.npz"):
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / "graphs", ignore_errors=True)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"work directory {path} cannot be made: {error.strerror}; use another --workdir."
        ) from error
    start = {"mode": mode, "changed": {key: new for key, _, new in changes}} | environment()
    settings, runs = (held["config"], held["runs"]) if held else (config, [])
    write_json(record, {"config": settings, "seed": settings["seed"], "runs": [*runs, start]})


def _read(record: pathlib.Path) -> dict[str, Any] | None:
    if not record.exists():
        return None
    try:
        held = json.loads(record.read_text())
    except ValueError:
        held = None
    if not isinstance(held, dict) or not held.keys() >= {"config", "seed", "runs"}:
        raise ValueError(
            f"{record} is not one of ours, or damaged; use another --workdir, or repair it."
        )
    return held


def environment() -> dict[str, Any]:
    """When, with which code, packages and devices."""
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
    except importlib.metadata.PackageNotFoundError:  # TFDS comes with jaxreid[train]
        return None


def _git_revision() -> str | None:
    root = pathlib.Path(jaxreid.__file__).resolve().parent.parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")) != root:
            return None  # installed into the environment of some other repository
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in FREE)


def _differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted(old.keys() | new.keys()):
            inner = f"{key}.{name}" if key else name
            found += _differences(old.get(name), new.get(name), inner)
        return found
    return [] if old == new else [(key, old, new)]
