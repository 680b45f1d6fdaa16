"""Weights files: one safetensors file with the variables of a model and its card.

`jaxreid convert` writes such files; `--config.init_from=FILE` starts from one. A digest of card and
tensors is stored with them and checked when they are read; files without one stay readable.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

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
        calibration: calibration of the model's scores, plain data (`evaluation.calibration`).
        selection: the test by which the weights were chosen, if they were.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    tensors = {
        "/".join(key): np.asarray(value, order="C")
        for key, value in traverse_util.flatten_dict(variables).items()
    }
    check_finite(tensors, f"{path} was not written")
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
    with open_file(path) as file:
        return card_in(file, path)


def read_calibration(path: str | pathlib.Path) -> str | None:
    """Read the calibration of a weights file, as it was written; None without one.

    Raises:
        FileNotFoundError, ValueError: as `read_card`.
    """
    with open_file(path) as file:
        return (file.metadata() or {}).get("calibration")


def read_selection(path: str | pathlib.Path) -> Selection | None:
    """Read the test by which the weights of a file were chosen; None if it is not recorded.

    Raises:
        FileNotFoundError, ValueError: as `read_card`.
    """
    with open_file(path) as file:
        return selection_in(file)


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
def open_file(path: str | pathlib.Path) -> Iterator[Any]:
    """Open a weights file, or the newest checkpoint of a run with the interface of one.

    Raises:
        FileNotFoundError, ValueError: the file does not exist or is not a safetensors file.
    """
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


def card_in(file: Any, path: str | pathlib.Path) -> dict[str, Any]:
    """Return the keywords of `make_model` that an open file holds; see `read_card`."""
    metadata = file.metadata() or {}
    if (declared := metadata.get("format")) != FORMAT:
        problem = (
            f"is a safetensors file in the format {declared!r}"
            if declared
            else "is a safetensors file without a description of its model"
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


def selection_in(file: Any) -> Selection | None:
    """Return the test by which the weights of an open file were chosen; see `read_selection`."""
    try:
        held = json.loads(file.metadata()["selection"])
        return Selection(
            str(held["set"]), str(held["metric"]), float(held["value"]), int(held["step"])
        )
    # A note for people: an unreadable one is taken for a missing one.
    except (LookupError, ValueError, TypeError, OverflowError, RecursionError):
        return None


def _digest(model: str, tensors: Iterable[tuple[str, np.ndarray]]) -> str:
    """Return the sha256 of a card and of tensors in the order of their names."""
    whole = hashlib.sha256(model.encode())
    for name, tensor in tensors:
        whole.update(f"\n{name} {tensor.dtype} {tensor.shape} ".encode())
        whole.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))
    return whole.hexdigest()


def check_digest(file: Any, path: str | pathlib.Path) -> None:
    """Raise ValueError if card or tensors of an open file are not those that were written."""
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


def check_finite(tensors: Mapping[str, np.ndarray], outcome: str) -> None:
    """Raise ValueError, beginning with the outcome, if a number is NaN or infinite."""
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ValueError(
                f"{outcome}: {np.sum(~np.isfinite(tensor))} of {tensor.size} numbers of {name} are "
                "NaN or infinite; expected finite weights. Use an earlier checkpoint."
            )
