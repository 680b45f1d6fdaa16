"""Weights in a file: one safetensors file holds a model's variables and says what the model is.

Such files are written by `tools/convert_torch.py`; `--config.init_from=FILE` starts from one.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from jaxreid.mesh import check_same_file
from jaxreid.models.model import init_variables, make_model
from jaxreid.runs.files import replace_file
from jaxreid.weights.checkpoint import read_run

FORMAT = "jaxreid 1"
PARTS = ("backbone", "neck", "matcher", "classifier", "memory")


def save_weights(
    path: pathlib.Path, variables: Mapping[str, Any], card: Mapping[str, Any], *, source: str
) -> None:
    """Writes a file of weights.

    Args:
        path: of the file; its directory exists.
        variables: {"params", "batch_stats"}, and perhaps {"memory"}; NumPy arrays.
        card: keywords of `make_model`.
        source: where the weights come from, in words.
    """
    tensors = {
        "/".join(key): np.asarray(value, order="C")
        for key, value in traverse_util.flatten_dict(variables).items()
    }
    metadata = {
        "format": FORMAT,
        "architecture": card["backbone"]["name"],
        "input_size": f"{card['height']}x{card['width']}",
        "mean": json.dumps(card.get("mean", (0.0, 0.0, 0.0))),
        "std": json.dumps(card.get("std", (1.0, 1.0, 1.0))),
        "source": source,
        "model": json.dumps(card),
    }
    replace_file(path, safetensors.numpy.save(tensors, metadata))


def read_card(path: str | pathlib.Path) -> dict[str, Any]:
    """The model in a file of weights, as keywords of `make_model`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is not one of ours.
    """
    with _open(path) as file:
        return _card(file, path)


def load_weights(
    path: str | pathlib.Path | None,
    model: Mapping[str, Any],
    *,
    skip: Sequence[str] = (),
    whole: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """The variables of a file that a model can start from.

    Args:
        path: of the file; None loads nothing.
        model: keywords of `make_model`.
        skip: parts of the file to leave out: "neck", "matcher", "classifier", "memory".
        whole: every variable of the model must be in the file; else parts other than the backbone
            may start as they would without it.

    Returns:
        A tree {"params", "batch_stats"} with some of the model's variables, and {"memory"} if the
        file holds one; and sentences about what was taken and what was not.

    Raises:
        FileNotFoundError, ValueError: no such file, not one of ours, or not for this model.
    """
    if path is None:
        return {}, []
    unknown = set(skip) - set(PARTS[1:])
    if unknown:
        raise ValueError(f"init_skip names {sorted(unknown)}; parts are {', '.join(PARTS[1:])}.")
    path = pathlib.Path(path).expanduser()
    if not path.is_dir():  # runs lie where all processes see them
        check_same_file(path)
    with _open(path) as file:
        card = _card(file, path)
        if (there := card["backbone"]["name"]) != (here := model["backbone"]["name"]):
            raise ValueError(f"{path} holds the backbone {there}; the model asked for has {here}.")
        theirs, ours = make_model(**card), make_model(**model)
        for option in ours.backbone.IDENTITY:  # a name can be given others
            there, here = (getattr(m.backbone, option) for m in (theirs, ours))
            if there != here:
                raise ValueError(f"{path} has {option} {there}; the model asked for has {here}.")
        abstract = jax.eval_shape(lambda: init_variables(ours, 0))
        needed = {
            key: leaf.shape
            for key, leaf in traverse_util.flatten_dict(abstract).items()
            if key[1] not in skip
        }
        offered = {tuple(name.split("/")): file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        # A part of another kind is none: OSNet's neck says nothing to that of QAConv.
        foreign = {p for p in ("neck", "matcher") if card[p]["name"] != model[p]["name"]}
        if card.get("classes", 0) != model.get("classes", 0):
            foreign.add("classifier")
        offered = {key: x for key, x in offered.items() if _part(key) not in foreign.union(skip)}
        given = {key: offered[key] for key in needed if key in offered}
        missing = {key for key in needed if key not in offered}
        absent = {_part(key) for key in missing} - {_part(key) for key in given}
        problems = [
            f"{'/'.join(key)} is {shape} there and {needed[key]} here"
            for key, part in given.items()
            if (shape := tuple(part.get_shape())) != needed[key]
        ] + [
            f"{'/'.join(key)} is not in it"
            for key in sorted(missing)
            if whole or _part(key) == "backbone" or _part(key) not in absent
        ]
        if problems:
            raise ValueError(_misfit(path, problems, card, model, whole=whole))
        memory = {key: part for key, part in offered.items() if key[0] == "memory"}
        variables = {key: file.get_tensor("/".join(key)) for key in given | memory}
    unused = [key for key in offered if key not in variables]
    messages = [f"{path}: {_summary(variables)} loaded"]
    if missing:
        messages.append(f"not in it, and new: {', '.join(sorted(absent))}")
    if unused:
        messages.append(f"in it, and not used: {_summary(dict.fromkeys(unused))}")
    messages += [
        f"its {p} is of another kind ({card[p]['name']}), and not used"
        for p in sorted(foreign - {"classifier"})
    ]
    if classes := card.get("classes"):
        if "classifier" in foreign:
            messages.append(f"its classifier is of {classes} classes, and not used")
        elif any(_part(key) == "classifier" for key in variables):
            messages.append(f"its classifier is used, since it is of as many classes ({classes})")
    for what in ("height", "width", "mean", "std", "interpolation"):
        there = card.get(what, "bicubic")
        here = model.get(what, there)
        if np.any(np.asarray(there) != np.asarray(here)):
            messages.append(f"{what} of its images was {there}, here it is {here}")
    for part in sorted({"neck", "matcher"} & {_part(key) for key in variables}):
        for option, here in json.loads(json.dumps(dict(model[part]))).items():
            if (there := card[part].get(option, here)) != here:
                messages.append(f"{part}.{option} was {there}, here it is {here}")
    return traverse_util.unflatten_dict(variables), messages


class _Shaped:
    """An array that knows its shape as a slice of a safetensors file does."""

    def __init__(self, array: np.ndarray) -> None:
        self._shape = array.shape

    def get_shape(self) -> list[int]:
        """The shape."""
        return list(self._shape)


class _RunAsFile:
    """The newest checkpoint of a run, read as a file of weights is."""

    def __init__(self, path: pathlib.Path) -> None:
        run = read_run(path)
        self._card = run.card
        self._arrays = {
            "/".join(key): np.asarray(value)
            for key, value in traverse_util.flatten_dict(run.variables).items()
        }

    def metadata(self) -> dict[str, str]:
        """As `save_weights` writes them, as far as they are read."""
        return {"format": FORMAT, "model": json.dumps(self._card)}

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self._arrays)

    def get_slice(self, name: str) -> _Shaped:
        """The shape of a tensor."""
        return _Shaped(self._arrays[name])

    def get_tensor(self, name: str) -> np.ndarray:
        """A tensor."""
        return self._arrays[name]


@contextmanager
def _open(path: str | pathlib.Path) -> Iterator[Any]:
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        yield _RunAsFile(path)
        return
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; init_from is a file that `jaxreid convert` or `jaxreid weights` has "
            "written, or the work directory of a run."
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or not all of one: {error}.") from error


def _card(file: Any, path: str | pathlib.Path) -> dict[str, Any]:
    metadata = file.metadata() or {}
    if (known := metadata.get("format")) != FORMAT:
        found = f"is in the format {known!r}" if known else "does not say what model it holds"
        raise ValueError(
            f"{path} {found}; needed is a file ({FORMAT!r}) written by tools/convert_torch.py, "
            "which also reads .safetensors files."
        )
    try:
        card = json.loads(metadata["model"])
        make_model(**card)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe its model as it should ({error}); convert it again."
        ) from error
    return card


def _part(key: tuple[str, ...]) -> str:
    return "memory" if key[0] == "memory" else key[min(1, len(key) - 1)]


def _summary(keys: Mapping[tuple[str, ...], Any]) -> str:
    parts = [_part(key) for key in keys]
    return ", ".join(f"{part} ({parts.count(part)} tensors)" for part in PARTS if part in parts)


def _misfit(
    path: str | pathlib.Path,
    problems: Sequence[str],
    card: Mapping[str, Any],
    model: Mapping[str, Any],
    *,
    whole: bool,
) -> str:
    there, here = (
        traverse_util.flatten_dict(json.loads(json.dumps(dict(keywords))), sep=".")
        for keywords in (card, model)
    )
    differ = [
        f"model.{key} is {there[key]} there and {here[key]} here"
        for key in there
        if key in here and there[key] != here[key]
    ]
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    reason = "; ".join(differ) or "no setting differs: something was skipped in its conversion"
    parts = sorted({problem.split("/")[1] for problem in problems})
    todo = "Use the file's settings"
    if whole:
        todo = "Convert it again as a whole; as it is, it can only start a training"
    elif "backbone" not in parts:
        todo += f', or leave out what does not fit: --config.init_skip="{tuple(parts)}"'
    return f"{path} does not fit the model: {problems[0]}{more}. ({reason}.) {todo}."
