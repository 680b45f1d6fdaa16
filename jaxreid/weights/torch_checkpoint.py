"""PyTorch checkpoints: reading them, and converting one to a file of weights.

This is the only file of the package that imports PyTorch, and only while it reads a file that
`torch.save` has written; nothing else needs PyTorch, and a .safetensors file does not either.
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
SAFE = (2, 10)  # before, weights_only could be got around: CVE-2025-32434, CVE-2026-24747
LISTED = 6  # names of a kind in the report, unless every name is wanted


class Misfit(ValueError):
    """A checkpoint that is not of the architecture.

    Attributes:
        report: of the conversion.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A file of weights that was made of a checkpoint.

    Attributes:
        path: of the file.
        card: the model in it, as keywords of `make_model`.
        report: what became of each tensor.
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
    """Converts a PyTorch checkpoint to a file that training and evaluation start from.

    Args:
        checkpoint: as for `read_checkpoint`.
        out: file to write (.safetensors).
        arch: its backbone, one of `pytorch.ARCHITECTURES`.
        input_size: height and width of its images in pixels; default: that of the family.
        normalisation: a key of `NORMALISATIONS`; default: that of the family.
        cut: last layer of a QAConv model without a neck.
        skip: prefixes of names to leave out.
        memory: keep the class memory of a QAConv 1.x model.
        source: where the checkpoint is from, for the record.

    Raises:
        FileNotFoundError, ValueError, ModuleNotFoundError: as `read_checkpoint`; `out` cannot be
            written.
        Misfit: the checkpoint is not of this architecture; says what it fits.
    """
    checkpoint, out = pathlib.Path(checkpoint), pathlib.Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"--out={out} must end in .safetensors.")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out={out}: there is no directory {out.parent}.")
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
    words = f"{checkpoint.name}{origin}, sha256 {digest}"
    save_weights(out, converted.variables, card, source=words)
    return Conversion(out, card, report)


def read_checkpoint(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint by official name, in float32; nothing in it is run.

    Args:
        path: of a file that `torch.save` or safetensors has written. A training checkpoint is a
            dictionary with the model under "state_dict" (torchreid) or "model" (QAConv, which has
            its matcher under "criterion").

    Returns:
        Arrays by name; "module." of data-parallel training is taken off, and the names of
        "criterion" begin so.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than tensors and plain values, or no weights.
        ModuleNotFoundError: it is a PyTorch file and PyTorch is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}.")
    held = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not isinstance(held, Mapping):
        raise ValueError(
            f"{path} holds a {type(held).__name__}; needed is a dictionary of weights "
            "(torch.save(model.state_dict(), ...))."
        )
    sections = [held.get(name) for name in ("state_dict", "model", "criterion")]
    model = next((section for section in sections[:2] if isinstance(section, Mapping)), held)
    criterion = None if model is held else sections[2]
    tensors = dict(_tensors(model, ""))
    if isinstance(criterion, Mapping):
        tensors |= _tensors(criterion, "criterion.")
    if not tensors:
        raise ValueError(f"{path} holds no weights, only {', '.join(map(str, list(held)[:8]))}.")
    return tensors


def _tensors(section: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, np.ndarray]]:
    for name, value in section.items():
        if not isinstance(value, np.ndarray):
            if not hasattr(value, "detach"):
                continue
            value = value.detach().cpu().to_dense().float().numpy()
        name = str(name).removeprefix("module.")
        # Losses of QAConv hold their matcher under this name; the first versions are the matcher.
        name = name.removeprefix("matcher.") if prefix else name
        yield prefix + name, np.asarray(value, np.float32)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or not all of one: {error}.") from error


def _read_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path.name} is a PyTorch file and PyTorch is not installed: "
            "pip install 'jaxreid[torch]', or give a .safetensors file."
        ) from None
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < SAFE:
        raise ValueError(
            f"PyTorch {torch.__version__} can be made to run code by a file; reading one needs "
            f"{SAFE[0]}.{SAFE[1]} or newer: pip install -U torch, or give a .safetensors file."
        )
    # Training checkpoints of torchreid hold NumPy scalars (rank-1 so far), which build nothing but
    # numbers. NumPy 1 wrote their maker under another name.
    scalar = np._core.multiarray.scalar
    numbers = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype]
    numbers += map(type, map(np.dtype, ("f4", "f8", "i8")))
    problem: Exception
    try:
        with torch.serialization.safe_globals(numbers), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the age of a format
            # The encoding is for files that Python 2 has written.
            return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} is damaged, or holds more than tensors and plain values: it asks for "
                f"{wanted[1]}, and reading it could run code. It is refused. If you trust its "
                "origin, save its state_dict alone with torch.save, and convert that."
            ) from error
        if "Weights only load failed" in str(error):
            raise ValueError(
                f"{path} is not in the format of torch.save: a damaged file, or a pickle, which "
                "could run code when it is read. It is refused."
            ) from error
        problem = error
    except Exception as error:  # whatever a damaged file does to the reader
        problem = error
    raise ValueError(
        f"{path} ({path.stat().st_size:,} bytes) is no PyTorch checkpoint, or not all of one; "
        "download it again."
    ) from problem


def report_lines(report: Report, *, every_name: bool = False) -> list[str]:
    """What became of each tensor, for people.

    Args:
        report: of a conversion.
        every_name: list all names; else the first few of those that are wrong.
    """
    wrong = {
        "missing": report.missing,
        "unexpected": report.unexpected,
        "mismatched": [f"{n} {there} there, {here} needed" for n, there, here in report.mismatched],
    }
    fine = {"loaded": report.loaded, "unused": report.unused}
    lines = []
    for kind, names in (fine | wrong).items():
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
    """What a checkpoint fits, if not what was asked for.

    Args:
        checkpoint: its tensors.
        arch: the architecture that was asked for.
        report: of that conversion.
        cut: as for `convert_file`; so are input_size and skip.
        input_size: see cut.
        skip: see cut.
    """
    matcher = [shapes for name, *shapes in report.mismatched if name == "criterion.fc.weight"]
    if matcher and not input_size and len(report.mismatched) == 1:
        (there,), (here,) = ([shape[1]] for shape in matcher[0])
        return (
            f"Its matcher has {there} weights, and images of this size need {here}: give the size "
            "it was trained with, as in --input-size=256x128."
        )
    if input_size:
        usual = convert(checkpoint, arch, cut=cut, skip=skip)
        if usual.report.complete:
            return f"It fits at {usual.card['height']}x{usual.card['width']}."
    if others := fitting(checkpoint, cut=cut, skip=skip, input_size=input_size):
        return f"It fits --arch={others[0]}."
    return "No architecture fits it whole; leave parts out with --skip=PREFIX."
