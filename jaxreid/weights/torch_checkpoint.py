"""Reading of PyTorch checkpoints, and their conversion to weights files.

This is the only module of the package that imports PyTorch, and only while it reads a file written
by `torch.save`. A .safetensors file needs no PyTorch.
"""

import dataclasses
import hashlib
import os
import pathlib
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from jaxreid.names import check_name
from jaxreid.weights.file import save_weights
from jaxreid.weights.pytorch import IMAGENET, RAW, Report, convert, fitting

NORMALISATIONS = {"imagenet": IMAGENET, "none": RAW}
# Before this version, weights_only could be bypassed: CVE-2025-32434, CVE-2026-24747.
SAFE = (2, 10)
# Names of each kind in a report, unless every name is requested.
LISTED = 6


class Misfit(ValueError):
    """A checkpoint does not fit the architecture.

    Attributes:
        report: report of the conversion.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A weights file converted from a checkpoint.

    Attributes:
        path: path of the file.
        card: keywords of `make_model`.
        report: outcome for each tensor.
    """

    path: pathlib.Path
    card: dict[str, Any]
    report: Report


def convert_file(
    checkpoint: str | os.PathLike,
    out: str | os.PathLike,
    arch: str,
    *,
    input_size: tuple[int, int] | None = None,
    normalisation: str | None = None,
    cut: str | None = None,
    skip: Sequence[str] = (),
    memory: bool = False,
    source: str = "",
) -> Conversion:
    """Convert a PyTorch checkpoint to a weights file for training and evaluation.

    Args:
        checkpoint: as for `read_checkpoint`.
        out: file to write (.safetensors).
        arch: backbone, one of `pytorch.ARCHITECTURES`.
        input_size: image height and width in pixels; default: the family's.
        normalisation: a key of `NORMALISATIONS`; default: the family's.
        cut: last layer of a QAConv model without a neck.
        skip: prefixes of names to leave out.
        memory: keep the class memory of a QAConv 1.x model.
        source: origin of the checkpoint, stored in the file.

    Raises:
        FileNotFoundError, ValueError, ModuleNotFoundError: as for `read_checkpoint`, or `out`
            cannot be written.
        Misfit: the checkpoint does not fit the architecture; the message says what it fits.
    """
    checkpoint, out = pathlib.Path(checkpoint), pathlib.Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"--out={out} must end in .safetensors.")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out={out}: directory {out.parent} does not exist.")
    if normalisation is not None:
        check_name(normalisation, NORMALISATIONS, "normalisation")
    tensors = read_checkpoint(checkpoint)
    options = {"cut": cut, "input_size": input_size, "skip": skip}
    converted = convert(
        tensors, arch, **options, normalisation=NORMALISATIONS.get(normalisation), memory=memory
    )
    card, report = converted.card, converted.report
    if not report.complete:
        raise Misfit(
            f"{checkpoint} is not a {arch} at {card['height']}x{card['width']}; nothing was "
            f"written. {advice(tensors, arch, report, **options)}",
            report,
        )
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    origin = f" from {source}" if source else ""
    provenance = f"{checkpoint.name}{origin}, sha256 {digest}"
    save_weights(out, converted.variables, card, source=provenance)
    return Conversion(out, card, report)


def read_checkpoint(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read all tensors of a checkpoint by official name, in float32, without running its code.

    Args:
        path: file written by `torch.save` or safetensors. A training checkpoint is a dictionary
            with the model under "state_dict" (torchreid) or "model" (QAConv, which has its matcher
            under "criterion").

    Returns:
        Arrays by name, without the prefix "module." of data-parallel training; names of the
        section "criterion" get the prefix "criterion.".

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, holds more than tensors and plain values, or no weights.
        ModuleNotFoundError: the file needs PyTorch, which is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected a dictionary of weights "
            "(torch.save(model.state_dict(), ...))."
        )
    sections = [content.get(name) for name in ("state_dict", "model", "criterion")]
    model = next((section for section in sections[:2] if isinstance(section, Mapping)), content)
    criterion = None if model is content else sections[2]
    tensors = dict(_tensors(model, ""))
    if isinstance(criterion, Mapping):
        tensors |= _tensors(criterion, "criterion.")
    if not tensors:
        raise ValueError(f"{path} holds no weights, only {', '.join(map(str, list(content)[:8]))}.")
    return tensors


def _tensors(section: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, np.ndarray]]:
    for name, value in section.items():
        if not isinstance(value, np.ndarray):
            if not hasattr(value, "detach"):
                continue
            value = value.detach().cpu().to_dense().float().numpy()
        name = str(name).removeprefix("module.")
        # QAConv's losses hold their matcher under this name; in early versions, the loss is the
        # matcher.
        name = name.removeprefix("matcher.") if prefix else name
        yield prefix + name, np.asarray(value, np.float32)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is incomplete: {error}.") from error


def _read_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path.name} is a PyTorch file and PyTorch is not installed: "
            "pip install 'jaxreid[torch]', or use a .safetensors file."
        ) from None
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < SAFE:
        raise ValueError(
            f"a malicious file can make PyTorch {torch.__version__} run code; reading one requires "
            f"{SAFE[0]}.{SAFE[1]} or newer: pip install -U torch, or use a .safetensors file."
        )
    # Training checkpoints of torchreid hold NumPy scalars (rank-1 so far), which can only construct
    # numbers. NumPy 1 stored their constructor under another name.
    scalar = np._core.multiarray.scalar
    numbers = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype]
    numbers += map(type, map(np.dtype, ("f4", "f8", "i8")))
    problem: Exception
    try:
        with torch.serialization.safe_globals(numbers), warnings.catch_warnings():
            # Warnings about old file formats.
            warnings.simplefilter("ignore")
            # The encoding is for files written by Python 2.
            return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except pickle.UnpicklingError as error:
        if forbidden := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} is damaged, or holds more than tensors and plain values: it requests "
                f"{forbidden[1]}, and loading that could run code. The file is refused. If you "
                "trust its origin, save only its state_dict with torch.save, and convert that."
            ) from error
        if "Weights only load failed" in str(error):
            raise ValueError(
                f"{path} is not in the format of torch.save: a damaged file, or a pickle, which "
                "could run code when loaded. The file is refused."
            ) from error
        problem = error
    except Exception as error:
        # A damaged file can raise anything.
        problem = error
    raise ValueError(
        f"{path} ({path.stat().st_size:,} bytes) is not a PyTorch checkpoint, or is incomplete; "
        "download it again."
    ) from problem


def report_lines(report: Report, *, every_name: bool = False) -> list[str]:
    """Format a report as lines of text.

    Without `every_name`, only the first few names of each kind of problem are listed.
    """
    wrong = {
        "missing": report.missing,
        "unexpected": report.unexpected,
        "mismatched": [
            f"{n} is {shape}, expected {expected}" for n, shape, expected in report.mismatched
        ],
    }
    accepted = {"loaded": report.loaded, "unused": report.unused}
    lines = []
    for kind, names in (accepted | wrong).items():
        listed = len(names) if every_name else LISTED if kind in wrong else 0
        lines += [f"{kind}: {len(names)} tensors", *(f"  {name}" for name in names[:listed])]
        if kind in wrong and len(names) > listed:
            lines.append(f"  ... and {len(names) - listed} more (--verbose)")
    return lines


def advice(
    checkpoint: Mapping[str, np.ndarray],
    arch: str,
    report: Report,
    *,
    cut: str | None,
    input_size: tuple[int, int] | None,
    skip: Sequence[str],
) -> str:
    """Say which architecture or size a checkpoint fits instead of the requested one.

    `report` is that of the failed conversion; the other arguments are those of `convert_file`.
    """
    matcher = [shapes for name, *shapes in report.mismatched if name == "criterion.fc.weight"]
    if matcher and not input_size and len(report.mismatched) == 1:
        (actual,), (expected,) = ([shape[1]] for shape in matcher[0])
        return (
            f"Its matcher has {actual} weights, but images of this size need {expected}: pass the "
            "size it was trained with, as in --input-size=256x128."
        )
    if input_size:
        usual = convert(checkpoint, arch, cut=cut, skip=skip)
        if usual.report.complete:
            return f"It fits at {usual.card['height']}x{usual.card['width']}."
    if others := fitting(checkpoint, cut=cut, skip=skip, input_size=input_size):
        return f"It fits --arch={others[0]}."
    return "No architecture fits all of it; leave parts out with --skip=PREFIX."
