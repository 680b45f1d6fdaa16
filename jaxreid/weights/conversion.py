"""Conversion of a checkpoint to a weights file, with a report, or advice where it does not fit."""

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.models.backbones import osnet, resnet, vit
from jaxreid.names import check_name
from jaxreid.weights.file import save_weights
from jaxreid.weights.formats import ONNX, format_of
from jaxreid.weights.layouts import ARCHITECTURES
from jaxreid.weights.layouts.layout import HALF, IMAGENET, RAW
from jaxreid.weights.onnx_checkpoint import read_onnx
from jaxreid.weights.pytorch import Report, convert
from jaxreid.weights.state_dict import foreign
from jaxreid.weights.torch_checkpoint import read_checkpoint

NORMALISATIONS = {"imagenet": IMAGENET, "half": HALF, "none": RAW}
# Names of each kind in a report, unless every name is requested.
LISTED = 6
# Stage and block of a ResNet.
_BLOCK = re.compile(r"(?:base\.)?layer([1-4])\.(\d+)\.")


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
        checkpoint: as for `read_checkpoint`, or an ONNX file of OSNet or a ResNet.
        out: file to write (.safetensors).
        arch: backbone, one of `ARCHITECTURES`.
        input_size: image height and width in pixels; default: the family's.
        normalisation: a key of `NORMALISATIONS`; default: the family's.
        cut: last layer of a QAConv model without a neck.
        skip: prefixes of names to leave out.
        memory: keep the class memory of a QAConv 1.x model.
        source: origin of the checkpoint, stored in the file.

    Raises:
        FileNotFoundError, ValueError, ModuleNotFoundError: as for `read_checkpoint`, or `out`
            cannot be written.
        Misfit: the checkpoint does not fit the architecture; the message names what it fits.
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
        notes = f" ({'; '.join(messages)})" if messages else ""
        raise Misfit(
            f"{checkpoint} is not a {arch} at {card['height']}x{card['width']}{notes}; nothing was "
            f"written. {advice(tensors, arch, report, **options)}",
            report,
        )
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    origin = f" from {source}" if source else ""
    provenance = f"{checkpoint.name}{origin}, sha256 {digest}"
    save_weights(out, converted.variables, card, source=provenance)
    return Conversion(out, card, report, tuple(messages))


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
    """Suggest the architecture or size that a checkpoint fits instead of the requested one.

    `report` is that of the failed conversion; the other arguments are those of `convert_file`.
    """
    matcher = [shapes for name, *shapes in report.mismatched if name.startswith("criterion.")]
    if matcher and not input_size and len(report.mismatched) == len(matcher):
        actual, expected = (shape[-1] for shape in matcher[0])
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


def fitting(
    checkpoint: Mapping[str, np.ndarray], *, skip: Sequence[str] = (), **options: Any
) -> list[str]:
    """List the architectures for which `convert` is complete, for an error; takes some seconds."""
    used = [name for name in checkpoint if not name.startswith(tuple(skip))]
    # The numbers of blocks rule out most ResNets before any of their networks is traced.
    blocks: dict[int, int] = {}
    for layer, index in (match.groups() for match in map(_BLOCK.match, used) if match):
        blocks[int(layer)] = max(blocks.get(int(layer), 0), int(index) + 1)
    if blocks:
        names = [
            name
            for name, of in resnet.FAMILY.items()
            if all(resnet.BLOCKS[of["depth"]][k - 1] == count for k, count in blocks.items())
        ]
    else:
        tokens = any(name.startswith(("blocks.", "visual.")) for name in used)
        names = list(vit.FAMILY if tokens else osnet.FAMILY)
    return [
        name for name in names if convert(checkpoint, name, skip=skip, **options).report.complete
    ]
