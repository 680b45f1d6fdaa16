"""Models by their place, and evaluation of them: `jaxreid.load` and `jaxreid.evaluate`."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxreid.data.sets import load_sets
from jaxreid.evaluation.results import Result
from jaxreid.processes import lost_processes_named
from jaxreid.reid.loaded import ReID
from jaxreid.runs.workdir import holds_checkpoint, open_workdir
from jaxreid.weights.file import read_card
from jaxreid.weights.source import open_weights


def load(path: str | os.PathLike, *, step: int | None = None) -> ReID:
    """Load a model, ready to use.

    Args:
        path: work directory of a run, one of its steps (`RUN/checkpoints/500`), a weights file
            (.safetensors), or "drawn", the bundled model, which never saw a photograph.
        step: step of a run; the newest checkpoint if None.

    Raises:
        FileNotFoundError, ValueError: `path` holds no model, one that cannot be read, or one of a
            module (`package.module:Class`) that is neither imported nor allowed by the environment
            variable JAXREID_ALLOW.
    """
    weights = open_weights(path, step=step)
    return ReID(
        weights.card,
        weights.variables,
        path=weights.path,
        step=weights.step,
        settings=weights.settings,
        messages=weights.messages,
    )


def evaluate(
    path: str | os.PathLike, test: Sequence[str] | None = None, **settings: Any
) -> dict[str, Result]:
    """Evaluate a model on test sets: `load(path).evaluate(test, **settings)`."""
    return load(path).evaluate(test, **settings)


@lost_processes_named()
def evaluate_run(config: Mapping[str, Any], workdir: str | os.PathLike) -> dict[str, Result]:
    """Evaluate the newest checkpoint of a work directory again, or a weights file into it.

    Args:
        config: resolved configuration; its `init_from` is evaluated if the work directory holds no
            checkpoint. The model is that of the checkpoint or of the file.
        workdir: work directory of a training, or a new one; the results are written there.

    Raises:
        FileNotFoundError: there is neither a checkpoint nor a file.
        ValueError: a setting is invalid.
    """
    config = dict(config)
    held = holds_checkpoint(workdir)
    if config["init_from"] and not held:
        config["model"] = read_card(config["init_from"])
    path = open_workdir(os.fspath(workdir), config, mode="evaluate")
    reid = load(path if held else config["init_from"])
    _, tests = load_sets(**{**config["data"], "train": None})
    return reid.evaluate_on(tests, workdir=path, **config["eval"])
