"""Where weights come from: a file of weights, the work directory of a run, or a step of it."""

import dataclasses
import json
import pathlib
from typing import Any

from jaxreid.weights.checkpoint import read_run
from jaxreid.weights.file import load_weights, read_card


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model's variables, and what they are.

    Attributes:
        card: keywords of `make_model`.
        variables: {"params", "batch_stats"}.
        path: the file or the work directory.
        step: updates of a run; None for a file.
        settings: the resolved configuration of a run; {} for a file.
        messages: sentences about what was read.
    """

    card: dict[str, Any]
    variables: dict[str, Any]
    path: pathlib.Path
    step: int | None
    settings: dict[str, Any]
    messages: tuple[str, ...]


def open_weights(path: str | pathlib.Path, *, step: int | None = None) -> Weights:
    """Reads a model.

    Args:
        path: a .safetensors file, a work directory, or `checkpoints/STEP` in one.
        step: of a run; the newest checkpoint if None.

    Raises:
        FileNotFoundError, ValueError: no model is there, or it cannot be read.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        if path.parent.name == "checkpoints" and path.name.isdigit():
            path, step = path.parent.parent, int(path.name) if step is None else step
        run = read_run(path, step)
        message = f"the checkpoint of step {run.step} in {path}"
        return Weights(run.card, run.variables, path, run.step, _settings(path), (message,))
    if not path.exists():
        raise FileNotFoundError(
            f"no model in {path}: expected the work directory of a run, a step of it "
            "(RUN/checkpoints/500), or a file of weights (.safetensors)."
        )
    if step is not None:
        raise ValueError(f"{path} is a file of weights and has no steps; leave out step={step}.")
    card = read_card(path)
    variables, messages = load_weights(path, card, skip=("memory",), whole=True)
    return Weights(card, variables, path, None, {}, tuple(messages))


def _settings(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((path / "config.json").read_text())["config"]
    except (OSError, ValueError, KeyError):
        return {}  # a copy of the checkpoints alone can be used as well
