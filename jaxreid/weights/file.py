"""Weights files: one safetensors file with the variables of a model and its card.

`jaxreid convert` writes such files; `--config.init_from=FILE` starts from one. A digest of card and
tensors is stored with them and checked when they are read; files without one stay readable.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from jaxreid.mesh import check_same_file
from jaxreid.models.model import abstract_variables, make_model
from jaxreid.runs.files import local_copy, replace_file
from jaxreid.weights.bundled import located
from jaxreid.weights.cards import model_of
from jaxreid.weights.checkpoint import read_run
from jaxreid.weights.formats import SAFETENSORS, TORCH_FORMATS, format_of

FORMAT = "jaxreid 1"
EXPECTED = (
    "expected a weights file of jaxreid (.safetensors), which `jaxreid convert CHECKPOINT "
    "--arch=NAME --out=FILE.safetensors` writes from PyTorch weights and `jaxreid weights RUN "
    "FILE.safetensors` from a run"
)
PARTS = ("backbone", "neck", "matcher", "classifier", "memory")


@dataclasses.dataclass(frozen=True)
class Selection:
    """The test by which weights were chosen among those of a training.

    Attributes:
        set: test set.
        metric: metric of its results.
        value: its value, a fraction.
        step: updates of the chosen weights.
    """

    set: str
    metric: str
    value: float
    step: int

    @property
    def sentence(self) -> str:
        """The choice as part of a sentence."""
        return f"chosen by {self.metric} of {self.set}, {self.value:.1%} at step {self.step}"


def save_weights(
    path: pathlib.Path,
    variables: Mapping[str, Any],
    card: Mapping[str, Any],
    *,
    source: str,
    calibration: Mapping[str, Any] | None = None,
    selection: Selection | None = None,
) -> None:
    """Write a weights file.

    Args:
        path: path of the file; its directory must exist.
        variables: {"params", "batch_stats"}, and optionally {"memory"}; NumPy arrays.
        card: keywords of `make_model`.
        source: origin of the weights, as a sentence for people.
        calibration: what scores of the model are worth, plain data (`evaluation.calibration`).
        selection: the test by which the weights were chosen, if they were.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    tensors = {
        "/".join(key): np.asarray(value, order="C")
        for key, value in traverse_util.flatten_dict(variables).items()
    }
    _check_finite(tensors, f"{path} was not written")
    model = json.dumps(card)
    metadata = {
        "format": FORMAT,
        "architecture": card["backbone"]["name"],
        "input_size": f"{card['height']}x{card['width']}",
        "mean": json.dumps(card.get("mean", (0.0, 0.0, 0.0))),
        "std": json.dumps(card.get("std", (1.0, 1.0, 1.0))),
        "source": source,
        "model": model,
        "sha256": _digest(model, sorted(tensors.items())),
    }
    if calibration is not None:
        metadata["calibration"] = json.dumps(calibration, allow_nan=False)
    if selection is not None:
        metadata["selection"] = json.dumps(dataclasses.asdict(selection))
    replace_file(path, _in_order(safetensors.numpy.save(tensors, metadata)))


def _in_order(content: bytes) -> bytes:
    """Sort the metadata of a file, so that the same weights are the same bytes.

    safetensors writes metadata in the order of a hash table, another one each time.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    size = -(-len(text) // 8) * 8  # tensors are aligned
    return b"".join((size.to_bytes(8, "little"), text.ljust(size), memoryview(content)[start:]))


def read_card(path: str | pathlib.Path) -> dict[str, Any]:
    """Read the keywords of `make_model` from a weights file.

    Raises:
        FileNotFoundError, ValueError: the file does not exist or is not a weights file of jaxreid.
    """
    with _open(path) as file:
        return _card(file, path)


def read_calibration(path: str | pathlib.Path) -> str | None:
    """Read the calibration of a weights file, as it was written; None without one.

    Raises:
        FileNotFoundError, ValueError: as `read_card`.
    """
    with _open(path) as file:
        return (file.metadata() or {}).get("calibration")


def read_selection(path: str | pathlib.Path) -> Selection | None:
    """Read the test by which the weights of a file were chosen; None if nothing says so.

    Raises:
        FileNotFoundError, ValueError: as `read_card`.
    """
    with _open(path) as file:
        return _selection(file)


def load_weights(
    path: str | pathlib.Path | None,
    model: Mapping[str, Any],
    *,
    skip: Sequence[str] = (),
    whole: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Load the variables of a weights file that fit a model.

    Args:
        path: path of the file; None loads nothing.
        model: keywords of `make_model`.
        skip: parts of the file to leave out: "neck", "matcher", "classifier", "memory".
        whole: require every variable of the model; otherwise parts other than the backbone may
            keep their initial values.

    Returns:
        A tree {"params", "batch_stats"} with some of the model's variables, and {"memory"} if the
        file holds one; messages on what was loaded and what was not.

    Raises:
        FileNotFoundError, ValueError: the file does not exist, is not a weights file of jaxreid,
            is damaged, or does not fit the model.
    """
    if path is None:
        return {}, []
    unknown = set(skip) - set(PARTS[1:])
    if unknown:
        raise ValueError(f"init_skip names {sorted(unknown)}; valid: {', '.join(PARTS[1:])}.")
    path = located(path)
    # A work directory is on a file system that all processes share.
    if not path.is_dir():
        check_same_file(path)
    with _open(path) as file:
        card = _card(file, path)
        if (stored := card["backbone"]["name"]) != (requested := model["backbone"]["name"]):
            raise ValueError(f"{path} holds the backbone {stored}, expected {requested}.")
        stored_model, requested_model = make_model(**card), make_model(**model)
        # Options may override the architecture that the backbone's name implies.
        for option in requested_model.backbone.IDENTITY:
            stored, requested = (
                getattr(m.backbone, option) for m in (stored_model, requested_model)
            )
            if stored != requested:
                raise ValueError(f"{path} has {option} {stored}, expected {requested}.")
        abstract = abstract_variables(requested_model)
        leaves = traverse_util.flatten_dict(abstract)
        expected = {key: leaf.shape for key, leaf in leaves.items() if key[1] not in skip}
        tensors = {tuple(name.split("/")): file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        # Parts of another kind do not fit: OSNet's neck cannot initialise QAConv's.
        incompatible = {p for p in ("neck", "matcher") if card[p]["name"] != model[p]["name"]}
        if card.get("classes", 0) != model.get("classes", 0):
            incompatible.add("classifier")
        tensors = {
            key: x for key, x in tensors.items() if _part(key) not in incompatible.union(skip)
        }
        matched = {key: tensors[key] for key in expected if key in tensors}
        missing = {key for key in expected if key not in tensors}
        absent = {_part(key) for key in missing} - {_part(key) for key in matched}
        problems = [
            f"{'/'.join(key)} is {shape} in the file, expected {expected[key]}"
            for key, part in matched.items()
            if (shape := tuple(part.get_shape())) != expected[key]
        ] + [
            f"{'/'.join(key)} is not in the file"
            for key in sorted(missing)
            if whole or _part(key) == "backbone" or _part(key) not in absent
        ]
        if problems:
            raise ValueError(_misfit(path, problems, card, model, whole=whole))
        memory = {key: part for key, part in tensors.items() if key[0] == "memory"}
        _check_digest(file, path)
        selection = _selection(file)
        variables = {
            key: _as_type(file.get_tensor("/".join(key)), leaves.get(key), key, path)
            for key in matched | memory
        }
    _check_finite({"/".join(key): x for key, x in variables.items()}, f"{path} is refused")
    unused = [key for key in tensors if key not in variables]
    messages = [f"{path}: {_summary(variables)} loaded"]
    if selection is not None:
        messages.append(
            f"WARNING: {path} was {selection.sentence}; its results on {selection.set} are "
            "optimistic"
        )
    if missing:
        messages.append(f"not in the file, newly initialised: {', '.join(sorted(absent))}")
    if unused:
        messages.append(f"in the file, not used: {_summary(dict.fromkeys(unused))}")
    messages += [
        f"{p} not loaded, because it is of another kind ({card[p]['name']})"
        for p in sorted(incompatible - {"classifier"})
    ]
    if classes := card.get("classes"):
        if "classifier" in incompatible:
            messages.append(f"classifier not loaded, because it has {classes} classes")
        elif any(_part(key) == "classifier" for key in variables):
            messages.append(f"classifier loaded, because the number of classes matches ({classes})")
    for setting in ("height", "width", "mean", "std", "interpolation"):
        stored = card.get(setting, "bicubic")
        requested = model.get(setting, stored)
        if np.any(np.asarray(stored) != np.asarray(requested)):
            messages.append(f"{setting} of its images was {stored}, is now {requested}")
    for part in sorted({"neck", "matcher"} & {_part(key) for key in variables}):
        for option, requested in json.loads(json.dumps(dict(model[part]))).items():
            if (stored := card[part].get(option, requested)) != requested:
                messages.append(f"{part}.{option} was {stored}, is now {requested}")
    return traverse_util.unflatten_dict(variables), messages


class _Shaped:
    """An array with the shape method of a safetensors slice."""

    def __init__(self, array: np.ndarray) -> None:
        self._shape = array.shape

    def get_shape(self) -> list[int]:
        """Return the shape."""
        return list(self._shape)


class _RunAsFile:
    """The newest checkpoint of a run, with the interface of an open safetensors file."""

    def __init__(self, path: pathlib.Path) -> None:
        run = read_run(path)
        self._card = run.card
        self._arrays = {
            "/".join(key): np.asarray(value)
            for key, value in traverse_util.flatten_dict(run.variables).items()
        }

    def metadata(self) -> dict[str, str]:
        """Return the metadata of `save_weights`, as far as `load_weights` reads them."""
        return {"format": FORMAT, "model": json.dumps(self._card)}

    def keys(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self._arrays)

    def get_slice(self, name: str) -> _Shaped:
        """Return an object with the shape of a tensor."""
        return _Shaped(self._arrays[name])

    def get_tensor(self, name: str) -> np.ndarray:
        """Return a tensor."""
        return self._arrays[name]


@contextmanager
def _open(path: str | pathlib.Path) -> Iterator[Any]:
    path = located(path)
    if path.is_dir():
        yield _RunAsFile(path)
        return
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; {EXPECTED}, or the work directory of a run (init_from)."
        )
    kind = format_of(path)
    if kind in TORCH_FORMATS:
        raise ValueError(
            f"{path} is {kind}; convert it first: jaxreid convert {path} --arch=NAME "
            "--out=FILE.safetensors."
        )
    if kind != SAFETENSORS:
        raise ValueError(f"{path} is {kind}; {EXPECTED}.")
    try:
        with local_copy(path) as copy, safetensors.safe_open(copy, framework="numpy") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file, or is incomplete: {error}. Copy or download it "
            "again."
        ) from error


def _card(file: Any, path: str | pathlib.Path) -> dict[str, Any]:
    metadata = file.metadata() or {}
    if (declared := metadata.get("format")) != FORMAT:
        problem = (
            f"is a safetensors file in the format {declared!r}"
            if declared
            else "is a safetensors file that does not say what model it holds"
        )
        raise ValueError(
            f"{path} {problem}; expected the format {FORMAT!r}, which `jaxreid convert {path} "
            "--arch=NAME --out=FILE.safetensors` writes from it if it holds PyTorch weights."
        )
    try:
        card = json.loads(metadata["model"])
    except (LookupError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} has an invalid description of its model ({error}); convert it again."
        ) from error
    model_of(card, path)
    return card


def _selection(file: Any) -> Selection | None:
    try:
        held = json.loads(file.metadata()["selection"])
        return Selection(
            str(held["set"]), str(held["metric"]), float(held["value"]), int(held["step"])
        )
    # A note for people: a file that says nothing sensible is read as one that says nothing.
    except (LookupError, ValueError, TypeError, OverflowError, RecursionError):
        return None


def _digest(model: str, tensors: Iterable[tuple[str, np.ndarray]]) -> str:
    """Return the sha256 of a card and of tensors in the order of their names."""
    whole = hashlib.sha256(model.encode())
    for name, tensor in tensors:
        whole.update(f"\n{name} {tensor.dtype} {tensor.shape} ".encode())
        whole.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))
    return whole.hexdigest()


def _check_digest(file: Any, path: str | pathlib.Path) -> None:
    metadata = file.metadata()
    if (stored := metadata.get("sha256")) is None:
        return
    tensors = ((name, file.get_tensor(name)) for name in sorted(file.keys()))
    if (actual := _digest(metadata["model"], tensors)) != stored:
        raise ValueError(
            f"{path} is damaged, or was changed after it was written: its content has the sha256 "
            f"{actual[:12]}..., expected {stored[:12]}... (its metadata). Copy or download it "
            "again; a file changed on purpose must not keep the entry sha256."
        )


def _check_finite(tensors: Mapping[str, np.ndarray], outcome: str) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ValueError(
                f"{outcome}: {np.sum(~np.isfinite(tensor))} of {tensor.size} numbers of {name} are "
                "NaN or infinite; expected finite weights. Use an earlier checkpoint."
            )


def _as_type(
    tensor: np.ndarray, leaf: Any, key: tuple[str, ...], path: str | pathlib.Path
) -> np.ndarray:
    """Return a tensor in at least the precision of the model's variable `leaf`."""
    if leaf is None:
        return tensor
    if not jax.numpy.issubdtype(tensor.dtype, jax.numpy.floating):
        raise ValueError(
            f"{path} holds {'/'.join(key)} as {tensor.dtype}, expected {leaf.dtype}; convert the "
            "original weights again."
        )
    return tensor.astype(np.promote_types(tensor.dtype, leaf.dtype), copy=False)


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
    stored, requested = (
        traverse_util.flatten_dict(json.loads(json.dumps(dict(keywords))), sep=".")
        for keywords in (card, model)
    )
    differences = [
        f"model.{key} is {stored[key]} in the file, expected {requested[key]}"
        for key in stored
        if key in requested and stored[key] != requested[key]
    ]
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    reason = "; ".join(differences) or "no setting differs: something was skipped in the conversion"
    parts = sorted({problem.split("/")[1] for problem in problems})
    advice = "Use the file's settings"
    if whole:
        advice = "Convert the whole checkpoint again; this file can only start a training"
    elif "backbone" not in parts:
        advice += f', or leave out what does not fit: --config.init_skip="{tuple(parts)}"'
    return f"{path} does not fit the model: {problems[0]}{more}. ({reason}.) {advice}."
