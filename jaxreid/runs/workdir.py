"""The work directory: its configuration, and the record of every start."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

import jaxreid
from jaxreid.locks import hold
from jaxreid.mesh import all_agree
from jaxreid.places import STORES, is_remote, place, scheme_of
from jaxreid.runs.files import remove_tree
from jaxreid.runs.log import write_json
from jaxreid.runs.settings import leaves, with_defaults

# Settings that a resumed run may change, because training does not depend on them. Exceptions: the
# batch and tile sizes of eval may change the last bits of the scores in a class graph, and
# augment.on those of a training step: the images are the same to the bit, but the device compiles
# another program.
FREE = (
    "data.dir",
    "data.prepared_dir",
    "data.skip_broken",
    "data.test",
    "eval",
    "checkpoint",
    "log",
    "sampler.save_graph",
    "init_expects",
    "augment.on",
    "remat",
)
# Settings that a run may also change after a loss or weights that were not finite.
REMEDIES = (
    "optim.lr",
    "optim.backbone_lr",
    "optim.clip_norm",
    "optim.weight_decay",
    "optim.eps",
    "precision",
)
LOCK = "lock"
# Weights of a training beside its checkpoints: their average, and the best by a test set.
AVERAGED, BEST = KEPT = ("averaged.safetensors", "best.safetensors")
FILES = {
    LOCK,
    f"{LOCK}.held",
    "config.json",
    "metrics.jsonl",
    "results.json",
    "queries.jsonl",
    "curves.json",
    "ranking.png",
    "checkpoints",
    "graphs",
    "tensorboard",
    "architecture.json",
    "architecture.png",
    "trained_on.npz",
    *KEPT,
}
# Files of a training that starts over, because it had no checkpoint yet.
STARTED = (
    "metrics.jsonl",
    "architecture.json",
    "architecture.png",
    "trained_on.npz",
    *KEPT,
)
# File of Orbax in a complete checkpoint on an object store.
COMPLETE = "commit_success.txt"
# Longest path of a work directory, in bytes: below it are names of checkpoints and of their parts.
LONGEST = (os.pathconf("/", "PC_PATH_MAX") if hasattr(os, "pathconf") else 260) - 200
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
        OSError: the directory cannot be created or written.
    """
    path = place(workdir)
    # Through JSON, so that tuples compare equal to the lists in config.json.
    _in_process_0(path, lambda: _open(path, json.loads(json.dumps(config)), mode))
    return path


@contextlib.contextmanager
def hold_workdir(workdir: str) -> Iterator[None]:
    """Keep other trainings out of a work directory in a context; process 0 holds it for all.

    Raises:
        OSError: another process trains there, or the directory cannot be created or written.
        ValueError: the directory holds foreign files, or its path cannot hold checkpoints.
    """
    path = _storable(workdir)
    with contextlib.ExitStack() as stack:

        def enter() -> None:
            if _read(path / "config.json") is None:
                _check_foreign(path)
            _create(path)
            stack.enter_context(hold(path / LOCK, f"work directory {path}"))

        _in_process_0(path, enter)
        yield


def _in_process_0(path: pathlib.Path, action: Callable[[], None]) -> None:
    """Act on a work directory in process 0; an error there ends the others, too."""
    problem: ValueError | OSError | None = None
    if jax.process_index() == 0:
        try:
            action()
        except (ValueError, OSError) as error:
            problem = error
            if isinstance(error, OSError) and error.filename is not None:
                problem = OSError(
                    f"work directory {path} cannot be used: {error.strerror}: {error.filename}. "
                    "Make room or give access there, or use another --workdir."
                )
                problem.__cause__ = error
    if not all_agree(problem is None):
        raise problem or ValueError("process 0 could not open the work directory; see its error.")


def _storable(workdir: str) -> pathlib.Path:
    """Return the path of a work directory, if checkpoints can be stored below it."""
    # Before the store is asked for anything.
    if (scheme := scheme_of(workdir)) in STORES and scheme != "gs":
        raise ValueError(
            f"work directory {workdir}: Orbax stores checkpoints on gs:// and on file systems "
            "alone. Mount the store as a folder, or name another --workdir; "
            f"`jaxreid weights RUN {scheme}://BUCKET/NAME.safetensors` puts a model there."
        )
    path = place(workdir)
    if is_remote(path):
        return path
    whole = path.resolve().as_posix()
    # Orbax and TensorStore read these as patterns, separators and addresses.
    found = {*re.findall(r"[\[*?\\]|(?:gs|s3):(?=/|$)|\.__lock(?=/|$)", whole)}
    found |= {ascii(c)[1:-1] for c in whole if "\ud800" <= c <= "\udfff"}
    if found:
        raise ValueError(
            f"work directory {ascii(whole) if not whole.isprintable() else whole}: checkpoints "
            f"cannot be stored below a path with {' or '.join(sorted(found))}; expected letters, "
            "digits, spaces, '-', '_' and '.'. Name another --workdir."
        )
    if (size := len(os.fsencode(whole))) > LONGEST:
        raise ValueError(
            f"the path of work directory {whole[:40]}... has {size:,} bytes; expected at most "
            f"{LONGEST:,}, because those of its checkpoints are longer. Name another --workdir."
        )
    return path


def holds_checkpoint(workdir: str | os.PathLike) -> bool:
    """Return whether a work directory holds a complete checkpoint."""
    folder = place(workdir) / "checkpoints"
    if is_remote(folder):
        # Nothing can be renamed there: a file marks what is complete.
        return folder.exists() and any((path / COMPLETE).exists() for path in folder.iterdir())
    # Incomplete checkpoints have a suffix.
    return any(path.name.isdigit() for path in folder.glob("[0-9]*"))


def _open(path: pathlib.Path, config: dict[str, Any], mode: str) -> None:
    record = path / "config.json"
    previous = _read(record)
    if mode == "evaluate" and previous is None and not config.get("init_from"):
        raise FileNotFoundError(
            f"work directory {path} holds no run (no config.json); name the work directory of a "
            "training, or pass a weights file with --config.init_from=FILE."
        )
    if previous is None:
        _check_foreign(path)
    trainings = _trainings(previous) if previous else []
    if mode == "evaluate" and trainings and not holds_checkpoint(path):
        raise FileNotFoundError(
            f"work directory {path} holds a training that has no checkpoint yet; wait for the "
            "first one, or evaluate a weights file in a --workdir of its own."
        )
    changes = []
    if previous:
        changes = _differences(_complete(previous["config"]), _complete(config))
    strict = [change for change in changes if not _is_free(*change)]
    held = holds_checkpoint(path)
    if strict and held:
        # A remedy replaces the setting of the run: from now on, this is how it is repeated.
        curable = mode == "train" and trainings and "not_finite" in trainings[-1]
        if not curable or not all(map(_cures, strict)):
            raise ValueError(_another(path, strict))
        for key, _, new in strict:
            section, _, name = key.rpartition(".")
            (previous["config"][section] if section else previous["config"])[name] = new
    elif strict:
        # Without a checkpoint nothing is lost: start over.
        previous, changes = None, []
        for name in STARTED:
            (path / name).unlink(missing_ok=True)
        remove_tree(path / "graphs")
    _create(path)
    start = {"mode": mode, "changed": {key: new for key, _, new in changes}} | environment()
    settings, runs = (previous["config"], previous["runs"]) if previous else (config, [])
    write_json(record, {"config": settings, "seed": settings["seed"], "runs": [*runs, start]})


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the settings that older ones lack, as from JSON."""
    return json.loads(json.dumps(with_defaults(config)))


def _check_foreign(path: pathlib.Path) -> None:
    """Raise ValueError if a directory without a run holds anything that runs do not write."""
    if not path.exists():
        return
    names = (p.name for p in path.iterdir()) if path.is_dir() else ("",)
    if {re.sub(r"(\.[0-9a-f]{8})?\.partial$", "", name) for name in names} - FILES:
        raise ValueError(
            f"work directory {path} exists and is not a jaxreid run (no config.json); use a "
            "new or empty directory."
        )


def _create(path: pathlib.Path) -> None:
    if is_remote(path):
        # Folders of a store are names: they exist with their first file.
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"work directory {path} cannot be created: {error.strerror}; use another --workdir."
        ) from error


def _another(path: pathlib.Path, changes: list[tuple[str, Any, Any]]) -> str:
    """Return a message on settings that a run with checkpoints cannot change."""
    lines = [f"  {key}: {old!r} in the run, {new!r} now" for key, old, new in changes]
    advice = "Use the same configuration to resume it, or another --workdir."
    if any(key == "epochs" for key, *_ in changes):
        advice = (
            "The learning rate of a run follows from its number of epochs, so a run has no more "
            "of them. Use the same configuration to resume it. To train on from its weights, "
            f"start another run: --workdir=ANOTHER --config.init_from={path}"
        )
    title = f"work directory {path} holds a run with another configuration:"
    return "\n".join([title, *lines, advice])


def note_not_finite(workdir: pathlib.Path) -> None:
    """Record that the last training ended without finite values, so it may change `REMEDIES`."""
    _note(workdir, "not_finite")


def note_finished(workdir: pathlib.Path) -> None:
    """Record that the last training came to its end."""
    _note(workdir, "finished")


def is_finished(workdir: str | os.PathLike, config: dict[str, Any]) -> bool:
    """Return whether a work directory holds a training with these settings that came to its end.

    Raises:
        ValueError: its record is damaged.
    """
    record = _read(place(workdir) / "config.json")
    if record is None or record["config"] != json.loads(json.dumps(config)):
        return False
    trainings = _trainings(record)
    return bool(trainings) and "finished" in trainings[-1]


def _note(workdir: pathlib.Path, end: str) -> None:
    if jax.process_index() == 0:
        path = workdir / "config.json"
        if (record := _read(path)) is not None:
            _trainings(record)[-1][end] = True
            write_json(path, record)


def _trainings(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for run in record["runs"] if run["mode"] == "train"]


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


def _is_free(key: str, old: Any, new: Any) -> bool:
    if key == "data.train":  # the images may have moved
        return without_places(old) == without_places(new)
    return any(key == free or key.startswith(free + ".") for free in FREE)


def trained_with(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a training depends on but for its seed, by path."""
    plain = json.loads(json.dumps(config))
    held = {path: value for path, value in leaves(plain) if path != "seed"}
    if "data.train" in held:
        held["data.train"] = without_places(held["data.train"])
    return {path: value for path, value in held.items() if not _is_free(path, value, None)}


def without_places(names: str | Sequence[str] | None) -> str | list[str] | None:
    """Return names of data sets without their places: "market1501" for "market1501:/data/market".

    What is read there is compared by its digest.
    """
    if names is None or isinstance(names, str):
        return names and re.sub(r"^([^:?]*):[^?]*", r"\1", names)
    return [without_places(name) for name in names]


def _cures(change: tuple[str, Any, Any]) -> bool:
    """Return whether a run may change a setting after values that are not finite."""
    key, old, new = change
    # An optimizer without clipping has a state of another structure.
    return key in REMEDIES and (key != "optim.clip_norm" or bool(old) == bool(new))


def _differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        differences = []
        for name in sorted(old.keys() | new.keys()):
            inner = f"{key}.{name}" if key else name
            differences += _differences(old.get(name), new.get(name), inner)
        return differences
    return [] if old == new else [(key, old, new)]
