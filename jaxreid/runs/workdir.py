"""The work directory: write access and identity of its run."""

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxreid.locks import hold
from jaxreid.mesh import all_agree
from jaxreid.places import STORES, is_remote, place, scheme_of
from jaxreid.runs.changes import cures, differences, is_free, refusal
from jaxreid.runs.files import remove_tree
from jaxreid.runs.log import write_json
from jaxreid.runs.record import RECORD, environment, read_record, trainings_of
from jaxreid.runs.settings import with_defaults

LOCK = "lock"
# Weights of a training beside its checkpoints: their average, and the best by a test set.
AVERAGED, BEST = KEPT = ("averaged.safetensors", "best.safetensors")
FILES = {
    LOCK,
    f"{LOCK}.held",
    RECORD,
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
            if read_record(path / RECORD) is None:
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
    reserved = {*re.findall(r"[\[*?\\]|(?:gs|s3):(?=/|$)|\.__lock(?=/|$)", whole)}
    reserved |= {ascii(c)[1:-1] for c in whole if "\ud800" <= c <= "\udfff"}
    if reserved:
        raise ValueError(
            f"work directory {ascii(whole) if not whole.isprintable() else whole}: checkpoints "
            f"cannot be stored below a path with {' or '.join(sorted(reserved))}; expected "
            "letters, digits, spaces, '-', '_' and '.'. Name another --workdir."
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
    record = path / RECORD
    previous = read_record(record)
    if mode == "evaluate" and previous is None and not config.get("init_from"):
        raise FileNotFoundError(
            f"work directory {path} holds no run (no config.json); name the work directory of a "
            "training, or pass a weights file with --config.init_from=FILE."
        )
    if previous is None:
        _check_foreign(path)
    trainings = trainings_of(previous) if previous else []
    if mode == "evaluate" and trainings and not holds_checkpoint(path):
        raise FileNotFoundError(
            f"work directory {path} holds a training that has no checkpoint yet; wait for the "
            "first one, or evaluate a weights file in a --workdir of its own."
        )
    changes = []
    if previous:
        changes = differences(_complete(previous["config"]), _complete(config))
    strict = [change for change in changes if not is_free(*change)]
    held = holds_checkpoint(path)
    if strict and held:
        # A remedy replaces the setting of the run: from now on, this is how it is repeated.
        curable = mode == "train" and trainings and "not_finite" in trainings[-1]
        if not curable or not all(map(cures, strict)):
            raise ValueError(refusal(path, strict))
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
