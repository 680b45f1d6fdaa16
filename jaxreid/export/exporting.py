"""Export of a model to a file of another program, and the check of that file."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreid import __version__
from jaxreid.data.images.pillow import ImageSource
from jaxreid.export.formats import FORMATS
from jaxreid.export.programs import Program, drawn_people, make_program
from jaxreid.names import check_name
from jaxreid.places import expanded
from jaxreid.reid.loaded import ReID
from jaxreid.reid.loading import load
from jaxreid.runs.files import remove_tree, replace_file
from jaxreid.runs.log import write_json
from jaxreid.weights.pytorch import published
from jaxreid.weights.torch_checkpoint import checkpoint_bytes

# Largest difference from JAX, as a share of the largest result: rounding of float32 in networks of
# a hundred layers is 1e-6 to 1e-5.
TOLERANCE = 1e-4
# Images of the check, and of the calibration of int8 at least.
CHECKED, CALIBRATED = 8, 16


@dataclasses.dataclass(frozen=True)
class Export:
    """A model in another format.

    Attributes:
        path: file or folder.
        format: one of `FORMATS`.
        part: "encoder", "matcher" or "pair".
        inputs: shape and type of each input by name; {} for torch.
        bytes: size on disk.
        error: largest absolute difference from the library on the images of the check.
        largest: largest absolute result there.
        cosine: smallest cosine between features of int8 and float32; None without int8.
        messages: messages for users of the file.
    """

    path: pathlib.Path
    format: str
    part: str
    inputs: dict[str, str]
    bytes: int
    error: float
    largest: float
    cosine: float | None = None
    messages: tuple[str, ...] = ()


def export_model(
    model: ReID | str | os.PathLike,
    out: str | os.PathLike,
    *,
    format: str,
    part: str = "encoder",
    like: str = "",
    int8: bool = False,
    images: Sequence[ImageSource] = (),
) -> Export:
    """Write a model in the format of another program, and compare the file with the library.

    Args:
        model: a model, or what `jaxreid.load` takes.
        out: file to write; for a SavedModel, a folder that does not exist.
        format: a key of `FORMATS`.
        part: "encoder": images [B, H, W, 3] uint8 to features; "matcher": features of queries and
            of a gallery to scores [Q, G]; "pair": images of queries and of a gallery to scores.
            A file of PyTorch holds the weights of all.
        like: "boxmot": ONNX for this tracker, float [B, 3, H, W] to one vector each.
        int8: ONNX encoder with weights and activations of 8 bits.
        images: images of the check, by default drawn people; with `int8` those of the calibration,
            at least 16 of the cameras that the model is for.

    Raises:
        ValueError: options that do not fit each other or the model, or a file whose results differ
            from the library's by more than `TOLERANCE`; nothing is left of such a file.
        ModuleNotFoundError: the format needs a package that is not installed.
        OSError: the file cannot be written.
    """
    path, images = expanded(out), list(images)
    _check_options(path, format, part, like, int8, images)
    reid = model if isinstance(model, ReID) else load(model)
    if format == "torch":
        return _torch(reid, path)
    program = make_program(reid, part, like)
    metadata = _metadata(reid, program)
    chosen = images[:CHECKED] or drawn_people(CHECKED)
    if len(chosen) < 2:
        raise ValueError("1 image to check the file with; give at least 2, or none.")
    arrays, expected = program.samples(chosen)
    cosine = None
    if format == "savedmodel":
        from jaxreid.export.tensorflow_file import run_saved_model, write_saved_model

        write_saved_model(program, path)
        try:
            error = _compared(run_saved_model(path, arrays, program), expected)
            write_json(path / "card.json", metadata)
        except BaseException:
            remove_tree(path)
            raise
    else:
        content, result = _written(program, format, metadata, arrays)
        error = _compared(result, expected)
        if int8:
            from jaxreid.export.onnx_file import run_onnx, to_int8

            content = to_int8(content, program, images)
            small = run_onnx(content, arrays)
            error, cosine = float(np.abs(small - expected).max()), _least_cosine(small, expected)
        replace_file(path, content)
        if format != "onnx":
            # These formats have no place for it.
            write_json(path.with_name(f"{path.name}.json"), metadata)
    return Export(
        path,
        format,
        part,
        {name: _words(spec) for name, spec in program.inputs.items()},
        _size(path),
        error,
        float(np.abs(expected).max()),
        cosine,
        tuple(_messages(reid, program)),
    )


def _check_options(
    path: pathlib.Path, format: str, part: str, like: str, int8: bool, images: Sequence[Any]
) -> None:
    """Raise ValueError or OSError for impossible options, before any work is done."""
    suffixes = FORMATS[check_name(format, FORMATS, "format")]
    if path.suffix.lower() not in suffixes:
        wanted = " or ".join(suffixes) if suffixes[0] else "no suffix, because it is a folder"
        raise ValueError(f"{path}: a file of format {format} must end in {wanted}.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"no folder {path.absolute().parent} to write {path.name} to.")
    if (like or int8) and format != "onnx":
        raise ValueError(
            f"{'--like=' + like if like else '--int8'} is for --format=onnx, not {format}."
        )
    if format == "torch" and part != "encoder":
        raise ValueError("a file of PyTorch holds all weights; leave out --part.")
    if int8 and part != "encoder":
        raise ValueError(f"--int8 is for the encoder; {part} is exported in float32.")
    if int8 and len(images) < CALIBRATED:
        raise ValueError(
            "--int8 needs images for the ranges of all layers; expected at least "
            f"{CALIBRATED}, better 200, of the cameras that the model is for, got {len(images)}: "
            "--images DIR."
        )


def _written(
    program: Program, format: str, metadata: Mapping[str, str], arrays: Sequence[np.ndarray]
) -> tuple[bytes, np.ndarray]:
    """Return a file and its result."""
    if format == "onnx":
        from jaxreid.export.onnx_file import run_onnx, write_onnx

        content = write_onnx(program, metadata)
        return content, run_onnx(content, arrays)
    if format == "stablehlo":
        from jaxreid.export.stablehlo_file import run_stablehlo, write_stablehlo

        content = write_stablehlo(program)
        return content, run_stablehlo(content, arrays)
    from jaxreid.export.tensorflow_file import run_tflite, write_tflite

    content = write_tflite(program)
    return content, run_tflite(content, arrays, program)


def _torch(reid: ReID, path: pathlib.Path) -> Export:
    variables = jax.tree.map(np.asarray, reid.variables)
    tensors = published(variables, reid.card)
    head = getattr(reid.model.matcher, "head", "")
    pickled = path.suffix.lower() == ".pth"
    content = checkpoint_bytes(tensors, pickled=pickled, held_as="matcher." * (head == "v2.1"))
    replace_file(path, content)
    messages = []
    if "base.fc.weight" in tensors:
        messages.append(
            "layers after the cut and the classifier of the ResNet, which QAConv never uses, are "
            "zeros"
        )
    elif not {"classifier.weight", "fc.weight"} & tensors.keys():
        messages.append("this file has no classifier; the original loads it with strict=False")
    return Export(path, "torch", "all", {}, _size(path), 0.0, 0.0, None, tuple(messages))


def _metadata(reid: ReID, program: Program) -> dict[str, str]:
    model = reid.model
    return {
        "format": "jaxreid export 1",
        "model": json.dumps(reid.card),
        "part": program.part,
        "input_size": f"{model.height}x{model.width}",
        "interpolation": model.interpolation,
        "pixels": _pixels(program),
        "source": "; ".join(reid.messages) or f"{reid.path}",
        "jaxreid": __version__,
        "jax": jax.__version__,
    }


def _pixels(program: Program) -> str:
    if program.like:
        return "float32 RGB, channels first, (x / 255 - mean) / std of ImageNet"
    if program.part == "matcher":
        return "none: features"
    return "uint8 RGB, channels last, 0 to 255"


def _messages(reid: ReID, program: Program) -> list[str]:
    messages = []
    if program.part == "encoder" and len(reid.feature_shape) != 1:
        messages.append("its maps are compared by the matcher: --part=matcher writes it")
    kind = getattr(reid.model.matcher, "metric", reid.card["matcher"]["name"])
    if program.like and kind != "cosine":
        messages.append(
            f"this model compares its vectors by {kind}; a tracker's cosine ranks them otherwise"
        )
    if reid.card.get("dtype", "float32") != "float32":
        messages.append(f"computes in float32 instead of {reid.card['dtype']}")
    return messages


def _compared(result: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference; raise ValueError if it is beyond the tolerance."""
    largest = float(np.abs(expected).max())
    error = float(np.abs(result - expected).max()) if result.shape == expected.shape else np.inf
    if not error <= TOLERANCE * largest:
        raise ValueError(
            f"the exported program does not compute what JAX does: results {list(result.shape)} "
            f"differ by {error:.1e}, expected {list(expected.shape)} within "
            f"{TOLERANCE * largest:.1e} ({TOLERANCE:g} of the largest). Nothing was written; "
            "please report it with the configuration of the model."
        )
    return error


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    flat = [x.reshape(len(x), -1).astype(np.float64) for x in (a, b)]
    norms = np.linalg.norm(flat[0], axis=1) * np.linalg.norm(flat[1], axis=1)
    return float((np.sum(flat[0] * flat[1], axis=1) / np.maximum(norms, 1e-12)).min())


def _words(spec: jax.ShapeDtypeStruct) -> str:
    return f"{np.dtype(spec.dtype).name} [{', '.join(map(str, spec.shape))}]"


def _size(path: pathlib.Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)
