"""Reading and writing of PyTorch checkpoints, and their conversion to weights files.

This is the only module of the package that imports PyTorch, and only while it reads or writes a
file of `torch.save`. A .safetensors file needs no PyTorch.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from jaxreid.names import check_name
from jaxreid.weights.file import save_weights
from jaxreid.weights.formats import (
    ONNX,
    PICKLE,
    SAFETENSORS,
    TORCH,
    TORCH_FORMATS,
    check_claim,
    format_of,
)
from jaxreid.weights.onnx_checkpoint import read_onnx
from jaxreid.weights.pytorch import (
    ARCHITECTURES,
    IMAGENET,
    RAW,
    Report,
    convert,
    fitting,
    foreign,
    owners,
    unwrapped,
    without_wrappers,
)

NORMALISATIONS = {"imagenet": IMAGENET, "none": RAW}
# Before this version, weights_only could be bypassed: CVE-2025-32434, CVE-2026-24747.
SAFE = (2, 10)
# Names of each kind in a report, unless every name is requested.
LISTED = 6
RESAVE = (
    "If you trust its origin, save only its state_dict with torch.save, and convert that: "
    "torch.save(model.state_dict(), FILE)."
)

# Keys that lead to a dictionary in a checkpoint, and a dictionary of tensors.
Place = tuple[str, ...]
Section = Mapping[str, Any]


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
        messages: messages on the sections and prefixes of the checkpoint.
    """

    path: pathlib.Path
    card: dict[str, Any]
    report: Report
    messages: tuple[str, ...]


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
        checkpoint: as for `read_checkpoint`, or an ONNX file of OSNet.
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
    if checkpoint.is_file() and format_of(checkpoint) == ONNX:
        tensors, messages, size = read_onnx(checkpoint, check_name(arch, ARCHITECTURES, "arch"))
        input_size = input_size or size
    else:
        tensors, messages = read_checkpoint(checkpoint, skip=skip)
    options = {"cut": cut, "input_size": input_size, "skip": skip}
    converted = convert(
        tensors, arch, **options, normalisation=NORMALISATIONS.get(normalisation), memory=memory
    )
    card, report = converted.card, converted.report
    if not report.complete:
        said = f" ({'; '.join(messages)})" if messages else ""
        raise Misfit(
            f"{checkpoint} is not a {arch} at {card['height']}x{card['width']}{said}; nothing was "
            f"written. {advice(tensors, arch, report, **options)}",
            report,
        )
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    origin = f" from {source}" if source else ""
    provenance = f"{checkpoint.name}{origin}, sha256 {digest}"
    save_weights(out, converted.variables, card, source=provenance)
    return Conversion(out, card, report, tuple(messages))


def read_checkpoint(
    path: pathlib.Path, *, skip: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the tensors of a network by official name, in float32, without running the file's code.

    Args:
        path: file written by `torch.save` or safetensors, whatever its suffix. The weights may be
            in a section of a training checkpoint ("state_dict", "model", "ema"), also of a section
            of it; QAConv has its matcher under "criterion" beside it.
        skip: prefixes of names to leave out, which decides between several networks.

    Returns:
        Arrays by name, without prefixes of wrappers (`pytorch.unwrapped`); names of the section
        "criterion" get the prefix "criterion.". Messages on sections and prefixes.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another format, is damaged, claims more numbers than it has bytes
            for, holds more than tensors and plain values, or no weights.
        ModuleNotFoundError: the file needs PyTorch, which is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}.")
    content = _read(path)
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected a dictionary of weights "
            "(torch.save(model.state_dict(), ...))."
        )
    sections = dict(_sections(content))
    if not sections:
        raise ValueError(
            f"{path} holds no weights, only {', '.join(map(str, list(content)[:8])) or 'nothing'}; "
            "expected a dictionary of weights (torch.save(model.state_dict(), ...))."
        )
    networks = [place for place, section in sections.items() if owners(section)]
    place = min(networks or sections, key=_rank)
    chosen = sections[place]
    if place and (criterion := sections.get((*place[:-1], "criterion"))):
        # QAConv's losses hold their matcher under this name; in early versions, the loss is the
        # matcher.
        names = {name: without_wrappers(name).removeprefix("matcher.") for name in criterion}
        chosen = chosen | {f"criterion.{new}": criterion[name] for name, new in names.items()}
    check_claim(path, sum(int(np.prod(value.shape, dtype=object)) for value in chosen.values()))
    messages = [f"the weights are in its section {'.'.join(place)!r}"] if place else []
    if others := [".".join(other) for other in networks if other != place]:
        messages.append(
            f"other sections with weights are not used: {', '.join(others)} (save one alone to "
            "convert it)"
        )
    try:
        tensors, prefixes = unwrapped(chosen, skip)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    return {name: _array(value, name, path) for name, value in tensors.items()}, messages + prefixes


# Levels of dictionaries in a training checkpoint.
_DEPTH = 6


def _sections(content: Mapping[Any, Any], place: Place = ()) -> Iterable[tuple[Place, Section]]:
    """Yield the dictionaries of tensors with their keys, outer ones first."""
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and (isinstance(value, np.ndarray) or hasattr(value, "detach"))
    }
    if tensors:
        yield place, tensors
    for name, value in content.items():
        if isinstance(value, Mapping) and len(place) < _DEPTH:
            yield from _sections(value, (*place, str(name)))


def _rank(place: Place) -> tuple[bool, int]:
    """Return the order in which a section is taken for the model; averages and teachers last."""
    words = set(re.split(r"[._]", ".".join(place).lower()))
    usual = ("state_dict", "model")
    first = next((i for i, name in enumerate(usual) if name in place), len(usual))
    other = not words.isdisjoint({"ema", "swa", "teacher", "optimizer", "optim", "criterion"})
    return other, first


def _array(value: Any, name: str, path: pathlib.Path) -> np.ndarray:
    try:
        if not isinstance(value, np.ndarray):
            value = value.detach().cpu()
            value = value.dequantize() if value.is_quantized else value.to_dense()
            if value.is_complex():
                raise ValueError("the numbers are complex")
            value = value.float().numpy()
        return np.asarray(value, np.float32)
    # PyTorch's tensors without data or of exotic types can raise anything.
    except Exception as error:
        raise ValueError(
            f"{path}: {name} cannot be read as float32 numbers ({error}); leave it out with "
            f"--skip={name}, or save the checkpoint again as float32."
        ) from error


def _read(path: pathlib.Path) -> Any:
    kind = format_of(path)
    if kind == SAFETENSORS:
        return _read_safetensors(path)
    if kind == TORCH:
        with zipfile.ZipFile(path) as archive:
            check_claim(path, sum(entry.file_size for entry in archive.infolist()))
    if kind in TORCH_FORMATS:
        return _read_torch(path)
    if kind == PICKLE:
        raise ValueError(
            f"{path} is {kind}, or a damaged checkpoint. The file is refused. {RESAVE}"
        )
    raise ValueError(
        f"{path} is {kind}; expected a PyTorch checkpoint (torch.save) or a safetensors file."
    )


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            ours = str((file.metadata() or {}).get("format", "")).startswith("jaxreid")
        tensors = {} if ours else safetensors.numpy.load_file(path)
    # Types that NumPy lacks raise other errors than a damaged header.
    except Exception as error:
        raise ValueError(
            f"{path} is not a safetensors file, or is incomplete: {error}. Copy or download it "
            "again."
        ) from error
    if ours:
        raise ValueError(
            f"{path} is a weights file of jaxreid already; start from it with "
            f"--config.init_from={path}."
        )
    return tensors


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
            # Through an open file, because the suffix would choose the format.
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True, encoding="latin1")
    except pickle.UnpicklingError as error:
        if forbidden := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} is damaged, or holds more than tensors and plain values: it requests "
                f"{forbidden[1]}, and loading that could run code. The file is refused. {RESAVE}"
            ) from error
        if "Weights only load failed" in str(error):
            raise ValueError(
                f"{path} is not in the format of torch.save: a damaged file, or a pickle, which "
                f"could run code when loaded. The file is refused. {RESAVE}"
            ) from error
        problem = error
    except Exception as error:
        # A damaged file can raise anything.
        problem = error
    raise ValueError(
        f"{path} ({path.stat().st_size:,} bytes) is not a PyTorch checkpoint, or is incomplete; "
        "download it again."
    ) from problem


def checkpoint_bytes(
    tensors: Mapping[str, np.ndarray], *, pickled: bool, held_as: str = ""
) -> bytes:
    """Return tensors by official name (`pytorch.published`) as a file for the original code.

    Args:
        tensors: arrays by name.
        pickled: as `torch.save` writes a state dict; those of QAConv in sections "model" and
            "criterion", as its code does. Else a safetensors file with all names in one.
        held_as: prefix of the matcher's names in the section "criterion": "matcher." for QAConv 2,
            whose loss holds its matcher; "" for version 1, whose loss is the matcher.

    Raises:
        ModuleNotFoundError: PyTorch is needed and not installed.
    """
    if not pickled:
        return safetensors.numpy.save(dict(tensors), {"format": "pt"})
    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "PyTorch, which writes .pth files, is not installed: pip install 'jaxreid[torch]', or "
            "write a .safetensors file with the same names."
        ) from None
    # Copies: PyTorch would share the memory of arrays, and warns of those that are read-only.
    content: dict[str, Any] = {n: torch.from_numpy(np.array(x)) for n, x in tensors.items()}
    criterion = [name for name in content if name.startswith("criterion.")]
    if criterion:
        names = {name: held_as + name.removeprefix("criterion.") for name in criterion}
        matcher = {new: content.pop(name) for name, new in names.items()}
        content = {"model": content, "criterion": matcher}
    torch.save(content, file := io.BytesIO())
    return file.getvalue()


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
    # Heads of other toolboxes.
    if strange := foreign(checkpoint, skip):
        left_out = [*skip, *strange]
        options = " ".join(f"--skip={name}" for name in strange)
        fits = fitting(checkpoint, cut=cut, skip=left_out, input_size=input_size)
        if arch in fits:
            return f"It fits without the parts that {arch} does not have: add {options}."
        if fits:
            return f"It fits --arch={fits[0]} {options}."
    names = ", ".join(list(checkpoint)[:3])
    return (
        f"No architecture fits all of it (its names: {names}, ...); leave parts out with "
        "--skip=PREFIX, or name another --arch."
    )
