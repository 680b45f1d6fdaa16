"""ONNX files: written, run by onnxruntime, and reduced to int8."""

import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.export.programs import Program
from jaxreid.runs.log import progress

# Images in one step of the calibration.
STEP = 16


def write_onnx(program: Program, metadata: Mapping[str, str]) -> bytes:
    """Return a program as an ONNX file.

    Args:
        program: the program.
        metadata: `metadata_props` of the model.

    Raises:
        ModuleNotFoundError: onnx is not installed.
        ValueError: the model has an operation without a counterpart, or more than 2 GB.
    """
    _needed("onnx")
    from jaxreid.export.onnx_translation import make_graph

    made = make_graph(program.function, program.inputs, program.output).model(metadata)
    if made.ByteSize() >= 2**31:
        raise ValueError(
            f"the model takes {made.ByteSize() / 1e9:.1f} GB; an ONNX file holds at most 2 GB. "
            "Export it as stablehlo."
        )
    return made.SerializeToString(deterministic=True)


def run_onnx(content: bytes, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Run an ONNX file on a CPU; return its first result.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """
    _needed("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))[0]


def to_int8(content: bytes, program: Program, images: Sequence[Any]) -> bytes:
    """Reduce the weights and activations of an encoder to 8 bits.

    Ranges of activations are their extremes on images. Weights have a scale per channel. The first
    convolution stays in float32: its input is the image itself, which a scale for all channels
    would coarsen.

    Args:
        content: file of `write_onnx`.
        program: its program, an encoder.
        images: images of the cameras that the model is for, a hundred or more.

    Raises:
        ModuleNotFoundError: onnx or onnxruntime is not installed.
    """
    for package in ("onnx", "onnxruntime", "sympy"):
        _needed(package)
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        """Batches of the calibration images."""

        def __init__(self) -> None:
            self._batches = self._read()

        def _read(self) -> Iterator[dict[str, np.ndarray]]:
            (name,) = program.inputs
            with progress("calibration", total=len(images)) as bar:
                for first in range(0, len(images), STEP):
                    some = images[first : first + STEP]
                    yield {name: program.pixels(some)}
                    bar.update(len(some))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    model = onnx.load_from_string(content)
    first = next(node.name for node in model.graph.node if node.op_type == "Conv")
    with tempfile.TemporaryDirectory() as folder:
        whole, prepared, small = (str(pathlib.Path(folder, name)) for name in "abc")
        pathlib.Path(whole).write_bytes(content)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            small,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "Mul", "AveragePool", "MaxPool"],
            nodes_to_exclude=[first],
        )
        reduced = onnx.load(small)
    del reduced.metadata_props[:]
    reduced.metadata_props.extend(model.metadata_props)
    return reduced.SerializeToString(deterministic=True)


def _needed(package: str) -> None:
    try:
        __import__(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed: pip install 'jaxreid[onnx]'."
        ) from None
