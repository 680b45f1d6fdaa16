"""TensorFlow's formats, by way of StableHLO: SavedModel folders and TFLite files."""

import os
import pathlib
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreid.export.programs import Program
from jaxreid.export.stablehlo_file import PLATFORMS


def write_saved_model(program: Program, path: pathlib.Path) -> None:
    """Write a SavedModel: a folder with the signature "serving_default".

    Args:
        program: the program.
        path: the folder, which must not exist.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed.
        FileExistsError: there is something at `path`.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; remove it, or write to another folder.")
    tf = _tensorflow()
    holder, function = tf.Module(), _function(program)
    holder.f = function
    signature = function.get_concrete_function()
    # Whole or not there: renamed when it is written.
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".export-") as folder:
        whole = pathlib.Path(folder, "model")
        tf.saved_model.save(holder, str(whole), signatures={"serving_default": signature})
        os.replace(whole, path)


def write_tflite(program: Program) -> bytes:
    """Return a program as a TFLite file.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed.
        ValueError: TensorFlow cannot convert it.
    """
    tf = _tensorflow()
    try:
        with tempfile.TemporaryDirectory(prefix="export-") as folder:
            path = pathlib.Path(folder, "model")
            write_saved_model(program, path)
            return tf.lite.TFLiteConverter.from_saved_model(str(path)).convert()
    # Converters of TensorFlow raise errors of their own.
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"TensorFlow {tf.__version__} cannot convert this program to TFLite "
            f"({reason[0] if reason else type(error).__name__}); export it as onnx or savedmodel."
        ) from error


def run_saved_model(path: pathlib.Path, arrays: Sequence[np.ndarray], program: Program) -> Any:
    """Load a SavedModel and run its signature; return its result."""
    tf = _tensorflow()
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    names = program.inputs
    inputs = {name: tf.constant(x) for name, x in zip(names, arrays, strict=True)}
    return signature(**inputs)[program.output].numpy()


def run_tflite(content: bytes, arrays: Sequence[np.ndarray], program: Program) -> Any:
    """Run a TFLite file on a CPU; return its result."""
    tf = _tensorflow()
    with warnings.catch_warnings():
        # The interpreter moves to a package of its own, ai-edge-litert.
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=content)
    runner = interpreter.get_signature_runner()
    return runner(**dict(zip(program.inputs, arrays, strict=True)))[program.output]


def _function(program: Program) -> Any:
    tf = _tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from jax.experimental import jax2tf

        shapes = [f"({', '.join(map(str, spec.shape))})" for spec in program.inputs.values()]
        converted = jax2tf.convert(
            program.function,
            polymorphic_shapes=shapes,
            native_serialization_platforms=PLATFORMS,
            with_gradient=False,
        )
    specs = [
        tf.TensorSpec(
            [size if isinstance(size, int) else None for size in spec.shape],
            np.dtype(spec.dtype),
            name,
        )
        for name, spec in program.inputs.items()
    ]
    output = program.output
    return tf.function(
        lambda *arrays: {output: converted(*arrays)}, input_signature=specs, autograph=False
    )


def _tensorflow() -> Any:
    try:
        import tensorflow as tf
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "TensorFlow is not installed, which writes this format: pip install 'jaxreid[train]'."
        ) from None
    return tf
