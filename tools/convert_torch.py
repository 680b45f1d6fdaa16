"""Converts a PyTorch checkpoint to a file that training and evaluation start from.

python tools/convert_torch.py resnet50_ibn_b.pth --arch=resnet50_ibn_b --out=ibn_b.safetensors
python tools/convert_torch.py checkpoint.pth.tar --arch=resnet50_ibn_b --out=qaconv.safetensors
"""

import argparse
import hashlib
import pathlib
import pickle
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from jaxreid.models.backbones.resnet import CUTS
from jaxreid.weights.file import save_weights
from jaxreid.weights.pytorch import ARCHITECTURES, IMAGENET, RAW, Report, convert, fitting

NORMALISATIONS = {"imagenet": IMAGENET, "none": RAW}
SAFE = (2, 10)  # before, weights_only could be got around: CVE-2025-32434, CVE-2026-24747
LISTED = 6  # names of a kind in the report, unless --verbose


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(
        description="Convert a PyTorch checkpoint (.pth, .pth.tar, .pt) or .safetensors file of "
        "official names: ImageNet weights of torchvision and IBN-Net, OSNet of torchreid, models "
        "of QAConv 1.0 to 2.1. Code in a checkpoint is never run.",
        epilog="Start from the result with --config.init_from=FILE; --mode=evaluate then evaluates "
        "it as it is.",
    )
    parser.add_argument("checkpoint", type=pathlib.Path, help="file to read")
    parser.add_argument(
        "--arch", required=True, metavar="NAME", help=f"its backbone: {', '.join(ARCHITECTURES)}"
    )
    parser.add_argument(
        "--out", required=True, type=pathlib.Path, metavar="FILE.safetensors", help="file to write"
    )
    parser.add_argument(
        "--input-size", type=size, metavar="HxW",
        help="of its images, in pixels (default: 384x128 for QAConv, 256x128 for OSNet, 224x224 "
        "for ImageNet weights of a ResNet)",
    )  # fmt: skip
    parser.add_argument(
        "--normalisation", choices=NORMALISATIONS,
        help="of its pixels, which are in [0, 1] before (default: none for QAConv, else imagenet)",
    )  # fmt: skip
    parser.add_argument(
        "--cut", choices=CUTS[1:], help="last layer of a QAConv model without a neck"
    )
    parser.add_argument(
        "--skip", action="append", default=[], metavar="PREFIX",
        help="leave out what begins with this, in the names that the report prints: criterion, "
        "neck_, classifier, base.layer4, ...; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--memory", action="store_true", help="keep the class memory of a QAConv 1.x model"
    )
    parser.add_argument("--source", help="where the file is from, for the record (an address)")
    parser.add_argument("--verbose", action="store_true", help="list every name")
    return parser.parse_args(arguments)


def size(text: str) -> tuple[int, int]:
    """Height and width from text like "384x128"."""
    try:
        height, width = (int(number) for number in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no HEIGHTxWIDTH such as 384x128") from None
    if min(height, width) < 32:
        raise argparse.ArgumentTypeError(f"{text} is too small; both must be at least 32")
    return height, width


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


def advice(checkpoint: Mapping[str, np.ndarray], report: Report, given: argparse.Namespace) -> str:
    """What the checkpoint fits, if not what was asked for."""
    options = {"cut": given.cut, "skip": given.skip}
    matcher = [shapes for name, *shapes in report.mismatched if name == "criterion.fc.weight"]
    if matcher and not given.input_size and len(report.mismatched) == 1:
        (there,), (here,) = ([shape[1]] for shape in matcher[0])
        return (
            f"Its matcher has {there} weights, and images of this size need {here}: give the size "
            "it was trained with, as in --input-size=256x128."
        )
    if given.input_size:
        usual = convert(checkpoint, given.arch, **options)
        if usual.report.complete:
            return f"It fits at {usual.card['height']}x{usual.card['width']}."
    if others := fitting(checkpoint, **options, input_size=given.input_size):
        return f"It fits --arch={others[0]}."
    return "No architecture fits it whole; leave parts out with --skip=PREFIX."


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    given = parse(arguments)
    try:
        if given.out.suffix != ".safetensors":
            raise ValueError(f"--out={given.out} must end in .safetensors.")
        if not given.out.parent.is_dir():
            raise ValueError(f"--out={given.out}: there is no directory {given.out.parent}.")
        checkpoint = read_checkpoint(given.checkpoint)
        converted = convert(
            checkpoint,
            given.arch,
            cut=given.cut,
            input_size=given.input_size,
            normalisation=NORMALISATIONS.get(given.normalisation),
            skip=given.skip,
            memory=given.memory,
        )
        card, report = converted.card, converted.report
        print("\n".join(report_lines(report, every_name=given.verbose)))
        if not report.complete:
            raise ValueError(
                f"{given.checkpoint} is no {given.arch} at {card['height']}x{card['width']}; "
                f"nothing was written. {advice(checkpoint, report, given)}"
            )
        digest = hashlib.sha256(given.checkpoint.read_bytes()).hexdigest()
        origin = f" from {given.source}" if given.source else ""
        source = f"{given.checkpoint.name}{origin}, sha256 {digest}"
        save_weights(given.out, converted.variables, converted.card, source=source)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{given.out}: {card['backbone']['name']}, neck {card['neck']['name']}, matcher "
        f"{card['matcher']['name']}, {card['height']}x{card['width']}, mean {card['mean']}"
    )
    print(f"use it: --config.init_from={given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
