"""Graphs of ONNX files: layers in their order, norms, constants; and their places in a network.

Layers are recognised by their order and shapes, since folding norms into them gives weights new
names. What was folded becomes a batch norm with the statistics of an identity, which is equal in
inference.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.ops.normalize import EPSILON
from jaxreid.weights.formats import check_claim

# Largest file; the format itself ends at 2 GB.
LARGEST = 2**31


@dataclasses.dataclass
class Layer:
    """Convolution or linear layer of a graph.

    Attributes:
        weight: [O, I / groups, k, k] or [O, I].
        bias: [O].
        name: of the weight in the file.
        stride: of a convolution, in rows.
        norm: scale, bias, mean and variance of the batch norm that follows, if it is not folded.
        activated: whether a ReLU follows.
    """

    weight: np.ndarray
    bias: np.ndarray
    name: str = ""
    stride: int = 1
    norm: tuple[np.ndarray, ...] | None = None
    activated: bool = False


@dataclasses.dataclass(frozen=True)
class Place:
    """Place of a layer in a network.

    Attributes:
        name: official name of its weight, without ".weight".
        norm: official name of its batch norm; "" without one.
    """

    name: str
    norm: str = ""


@dataclasses.dataclass(frozen=True)
class Graph:
    """Contents of an ONNX file.

    Attributes:
        layers: in the order of the graph.
        instance_norms: scale and bias of each, in that order.
        constants: arrays by name.
        nodes: operations in their order.
        size: (height, width) of the images, if the file declares it.
    """

    layers: list[Layer]
    instance_norms: list[tuple[np.ndarray, np.ndarray]]
    constants: dict[str, np.ndarray]
    nodes: Sequence[Any]
    size: tuple[int, int] | None


def read_graph(path: pathlib.Path) -> Graph:
    """Read a file.

    Raises:
        ValueError: it is damaged, keeps weights elsewhere, claims more numbers than it has bytes
            for, or has 8 bits.
        ModuleNotFoundError: onnx is not installed.
    """
    graph = _graph(path)
    constants = _tensors(graph, path)
    layers, norms = _layers(graph, constants, path)
    return Graph(layers, norms, constants, graph.node, _size(graph))


def attribute(node: Any, name: str) -> Any:
    """Return an attribute of a node: numbers, or a list of them; None if it has none."""
    value = next((a for a in node.attribute if a.name == name), None)
    return None if value is None else (list(value.ints) or value.i)


def epsilon_of(node: Any) -> float:
    """Return the epsilon of a norm."""
    return next((a.f for a in node.attribute if a.name == "epsilon"), EPSILON)


def _graph(path: pathlib.Path) -> Any:
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path.name} is an ONNX file and onnx is not installed: pip install 'jaxreid[onnx]'."
        ) from None
    if (size := path.stat().st_size) >= LARGEST:
        raise ValueError(f"{path} has {size:,} bytes; an ONNX file has less than {LARGEST:,}.")
    try:
        # Paths in the file are never followed.
        return onnx.load_model(path, load_external_data=False).graph
    # A damaged file can raise anything.
    except Exception as error:
        raise ValueError(
            f"{path} is a damaged or incomplete ONNX file; download it again."
        ) from error


def _tensors(graph: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the constants of a graph by name."""
    from onnx import TensorProto, numpy_helper

    held = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        values = [a.t for a in node.attribute if a.name == "value" and a.HasField("t")]
        if node.op_type == "Constant" and values:
            held[node.output[0]] = values[0]
    for name, tensor in held.items():
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            where = next((e.value for e in tensor.external_data if e.key == "location"), "?")
            raise ValueError(
                f"{path} keeps {name} in another file ({where[:80]!r}), which is not followed; "
                "save the model as one file: onnx.save(onnx.load(FILE), OUT)."
            )
    check_claim(path, sum(math.prod(tensor.dims) for tensor in held.values()))
    try:
        tensors = {name: numpy_helper.to_array(tensor) for name, tensor in held.items()}
    # Data that do not have the shape, or of an unknown type.
    except Exception as error:
        raise ValueError(f"{path} holds a damaged tensor ({error}); download it again.") from error
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]]
    return tensors


def _layers(
    graph: Any, tensors: Mapping[str, np.ndarray], path: pathlib.Path
) -> tuple[list[Layer], list[tuple[np.ndarray, np.ndarray]]]:
    """List the layers with weights, and scale and bias of the instance norms, in order."""
    layers: list[Layer] = []
    instance: list[tuple[np.ndarray, np.ndarray]] = []
    after: dict[str, Layer] = {}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"):
            raise ValueError(f"{path} has weights of 8 bits; convert the file it was made from.")
        constants = [tensors.get(name) for name in node.input]
        if (
            node.op_type in ("Conv", "Gemm", "MatMul")
            and constants[1:]
            and constants[1] is not None
        ):
            weight = np.asarray(constants[1], np.float32)
            if node.op_type == "MatMul" or node.op_type == "Gemm" and not attribute(node, "transB"):
                weight = weight.T
            bias = constants[2] if len(constants) > 2 else None
            bias = np.zeros(len(weight), np.float32) if bias is None else bias
            stride = (attribute(node, "strides") or [1])[0]
            bias = np.asarray(bias, np.float32).reshape(-1)
            layer = Layer(weight, bias, node.input[1], stride)
            layers.append(layer)
            after[node.output[0]] = layer
        elif node.op_type == "InstanceNormalization":
            instance.append((np.asarray(constants[1]), np.asarray(constants[2])))
            if (layer := after.get(node.input[0])) is not None:
                after[node.output[0]] = layer
        elif node.input and (layer := after.get(node.input[0])) is not None:
            if node.op_type == "BatchNormalization" and layer.norm is None:
                scale, bias, mean, variance = (np.asarray(x, np.float32) for x in constants[1:5])
                layer.norm = scale, bias, mean, variance + np.float32(epsilon_of(node) - EPSILON)
                after[node.output[0]] = layer
            elif node.op_type == "Relu":
                layer.activated = True
            # The bias of a linear layer that was written as a product.
            elif node.op_type == "Add" and constants[1] is not None and not layer.bias.any():
                layer.bias = np.asarray(constants[1], np.float32).reshape(-1)
                after[node.output[0]] = layer
    return layers, instance


def assigned(
    layers: Sequence[Layer], places: Sequence[Place], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray] | None:
    """Return the tensors of layers at their places by name; None if they do not fit.

    A layer that follows is a classifier.
    """
    if len(layers) == len(places) + 1:
        places = [*places, Place("classifier")]
        shapes = {**shapes, "classifier.weight": layers[-1].weight.shape}
        shapes["classifier.bias"] = layers[-1].bias.shape
    if len(layers) != len(places):
        return None
    tensors: dict[str, np.ndarray] = {}
    for layer, place in zip(layers, places, strict=True):
        shape = shapes[f"{place.name}.weight"]
        # Linear layers are 1x1 convolutions, or the other way round.
        if layer.weight.size != math.prod(shape) or len(layer.weight) != shape[0]:
            return None
        layer_tensors = {f"{place.name}.weight": layer.weight.reshape(shape)}
        if f"{place.name}.bias" in shapes:
            layer_tensors[f"{place.name}.bias"] = layer.bias
        elif not place.norm and layer.bias.any():
            return None
        if place.norm:
            count = shape[0]
            shift = layer.bias if f"{place.name}.bias" not in shapes else np.zeros(count)
            # The variance of an identity makes up for the epsilon.
            same = np.ones(count), shift, np.zeros(count), np.full(count, 1 - EPSILON)
            if layer.norm is not None and layer.bias.any() and shift is layer.bias:
                return None
            leaves = ("weight", "bias", "running_mean", "running_var")
            for leaf, x in zip(leaves, layer.norm or same, strict=True):
                layer_tensors[f"{place.norm}.{leaf}"] = np.asarray(x, np.float32)
        for name, x in layer_tensors.items():
            # A block uses its gate four times.
            if name in tensors and not np.array_equal(tensors[name], x):
                return None
            if x.shape != shapes.get(name):
                return None
            tensors[name] = x
    return tensors


def _size(graph: Any) -> tuple[int, int] | None:
    """Return height and width of the images, if the first input declares them."""
    for value in graph.input:
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if len(sizes) == 4 and 3 in (sizes[1], sizes[3]):
            height, width = sizes[2:] if sizes[1] == 3 else sizes[1:3]
            return (height, width) if min(height, width) >= 32 else None
    return None
