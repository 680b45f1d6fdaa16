"""Loading a model from a weights file, a work directory, or one step of a run."""

import dataclasses
import json
import os
import pathlib
from typing import Any

from jaxreid.weights.bundled import NAMES, located
from jaxreid.weights.checkpoint import read_run, run_of
from jaxreid.weights.file import read_card
from jaxreid.weights.loading import load_weights


@dataclasses.dataclass(frozen=True)
class Weights:
    """Variables of a model, with their origin.

    Attributes:
        card: keywords of `make_model`.
        variables: {"params", "batch_stats"}.
        path: weights file or work directory.
        step: updates of a run; None for a file.
        settings: resolved configuration of a run; {} for a file.
        messages: messages on what was loaded.
    """

    card: dict[str, Any]
    variables: dict[str, Any]
    path: pathlib.Path
    step: int | None
    settings: dict[str, Any]
    messages: tuple[str, ...]


def open_weights(path: str | os.PathLike, *, step: int | None = None) -> Weights:
    """Load a model.

    Args:
        path: .safetensors file, work directory, `checkpoints/STEP` in one, or the name of a bundled
            model.
        step: step of a run; None for the newest checkpoint.

    Raises:
        FileNotFoundError, ValueError: `path` holds no model, or one that cannot be loaded.
    """
    path = located(path)
    if path.is_dir():
        run = read_run(path, step)
        path, _ = run_of(path)
        message = f"the checkpoint of step {run.step} in {path}"
        return Weights(run.card, run.variables, path, run.step, _settings(path), (message,))
    if not path.exists():
        raise FileNotFoundError(
            f"no model in {path}: expected the work directory of a run, a step of it "
            "(RUN/checkpoints/500), a weights file (.safetensors), or the name of a bundled model "
            f"({', '.join(NAMES)})."
        )
    if step is not None:
        raise ValueError(f"{path} is a weights file and has no steps; leave out step={step}.")
    card = read_card(path)
    variables, messages = load_weights(path, card, skip=("memory",), whole=True)
    return Weights(card, variables, path, None, {}, tuple(messages))


def _settings(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((path / "config.json").read_text())["config"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # A copy of the checkpoints without config.json is usable, too.
        return {}
