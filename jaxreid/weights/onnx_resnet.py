"""Layers of ResNets in the order in which they run them, for ONNX files of toolboxes.

Convolutions and the norms that follow them are known by their order. Norms with another place
(instance norms and the batch norms beside them, BN necks) and parts that only some networks have
(non-local blocks, the exponent of GeM) are known by the names that exporters leave them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxreid.models.backbones import resnet
from jaxreid.ops.normalize import EPSILON
from jaxreid.weights.layouts import layout_of
from jaxreid.weights.layouts.resnet import IMAGENET_RESNET
from jaxreid.weights.onnx_layers import Graph, Layer, Place, assigned, attribute, epsilon_of
from jaxreid.weights.pytorch import published_network

# Prefixes of names in files.
_OUTER = re.compile(r"^(?:(?:module|model|backbone|base)\.)+")
# Convolutions that compute side by side, so that their order carries no information.
_ATTENTION = re.compile(r"(NL_\d\.\d+)\.(g|theta|phi)\.weight$")
# Constants that are not of layers.
_AROUND = re.compile(r"heads\.pool_layer\.p$|pixel_(mean|std)$")
_LEAVES = ("weight", "bias", "running_mean", "running_var")


def resnet_tensors(graph: Graph, arch: str) -> tuple[dict[str, np.ndarray], str] | None:
    """Return the tensors of a ResNet and its neck by official name; None if it is not one.

    The message with them lists what was left out; "" for nothing.

    Raises:
        ValueError: it is a ResNet whose network does not match the names in the file.
    """
    shapes = IMAGENET_RESNET.shapes(published_network(arch), arch)
    named = _named(graph)
    layers = [layer for layer in graph.layers if not _ATTENTION.match(_official(layer.name))]
    shapes |= _shapes_around(named, layers)
    for downsample_last in (True, False):
        places = list(_places(arch, named, shapes, downsample_last))
        tensors = assigned(layers, places, shapes)
        if tensors is None or not shapes.keys() <= (tensors := tensors | named).keys():
            continue
        message = ""
        if "classifier.weight" in tensors:
            shape = list(tensors.pop("classifier.weight").shape)
            tensors.pop("classifier.bias")
            message = f"the last layer {shape} is taken for a classifier and left out"
        _check(graph, dict(zip([p.name for p in places], layers, strict=False)), tensors, arch)
        return tensors, message
    return None


def _official(name: str) -> str:
    return _OUTER.sub("", name)


def _named(graph: Graph) -> dict[str, np.ndarray]:
    """Return the constants that are known by their names, as float32.

    Raises:
        ValueError: an instance norm has another epsilon than this package's.
    """
    named = {
        official: value
        for name, value in graph.constants.items()
        if _AROUND.match(official := _official(name))
    }
    for layer in graph.layers:
        if match := _ATTENTION.match(_official(layer.name)):
            named[match[0]] = layer.weight
            named[match[0].replace("weight", "bias")] = layer.bias
    for node in graph.nodes:
        if node.op_type not in ("BatchNormalization", "InstanceNormalization"):
            continue
        more = np.float32(epsilon_of(node) - EPSILON)
        if node.op_type == "InstanceNormalization" and abs(more) > EPSILON / 100:
            raise ValueError(
                f"an instance norm has epsilon {epsilon_of(node):g}; expected {EPSILON:g}. Convert "
                "the PyTorch checkpoint that it was made from."
            )
        for name, leaf in zip(node.input[1:], _LEAVES, strict=False):
            official = _official(name)
            if official.rpartition(".")[2] == leaf and name in graph.constants:
                value = graph.constants[name]
                named[official] = value + more if leaf == "running_var" else value
    return {name: np.asarray(value, np.float32) for name, value in named.items()}


def _shapes_around(
    named: Mapping[str, np.ndarray], layers: Sequence[Layer]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of layers that only some networks have."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, weight in named.items():
        if (block := _ATTENTION.match(name)) and block[2] == "g":
            channels, inner = weight.shape[1], weight.shape[0]
            shapes[f"{block[1]}.W.0.weight"] = (channels, inner, 1, 1)
            shapes[f"{block[1]}.W.0.bias"] = (channels,)
            shapes |= _norm_shapes(f"{block[1]}.W.1", channels)
    if layers and layers[-1].weight.ndim == 2 and layers[-1].activated:
        channels = len(layers[-1].weight)
        shapes |= {"fc.0.weight": layers[-1].weight.shape, "fc.0.bias": (channels,)}
        shapes |= _norm_shapes("fc.1", channels)
    return shapes


def _norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{leaf}": (channels,) for leaf in _LEAVES}


def _places(
    arch: str,
    named: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    downsample_last: bool,
) -> Iterator[Place]:
    """Yield the layers of a ResNet in the order in which it runs them.

    The norm of a layer is left out where it is not a batch norm of all channels.
    """

    def place(layer: str, norm: str) -> Place:
        return Place(layer, norm if f"{norm}.running_var" in shapes else "")

    yield place("conv1", "bn1")
    depth = resnet.FAMILY[arch]["depth"]
    convs = _convs(arch)
    for layer, blocks in enumerate(resnet.BLOCKS[depth], 1):
        attended = sum(f"NL_{layer}.{i}.g.weight" in named for i in range(blocks))
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            places = [place(f"{at}.conv{i}", f"{at}.bn{i}") for i in range(1, convs + 1)]
            if f"{at}.downsample.0.weight" in shapes:
                downsample = place(f"{at}.downsample.0", f"{at}.downsample.1")
                places.insert(convs if downsample_last else 0, downsample)
            yield from places
            if (i := block - (blocks - attended)) >= 0:
                yield place(f"NL_{layer}.{i}.W.0", f"NL_{layer}.{i}.W.1")
    if "fc.0.weight" in shapes:
        yield place("fc.0", "fc.1")


def _convs(arch: str) -> int:
    """Return the number of convolutions of a block."""
    return 2 if resnet.FAMILY[arch]["depth"] in (18, 34) else 3


def _check(
    graph: Graph, layers: Mapping[str, Layer], tensors: Mapping[str, np.ndarray], arch: str
) -> None:
    """Raise ValueError if the graph does not match the architecture of its names."""
    layout = layout_of(tensors, arch)
    card = layout.card(tensors, arch)
    expected = {"stem": "padded", "last_stride": 2} | card["backbone"]
    expected["pool"] = card["neck"].get("pool", "average")
    # A block halves its map in the first 3x3 convolution, and where it is added.
    first = "conv1" if _convs(arch) == 2 else "conv2"
    halved = {f"layer{i}.0.{name}" for i in (2, 3, 4) for name in (first, "downsample.0")}
    last = {layers[name].stride for name in halved if name.startswith("layer4")}
    halved = {name for name in halved if not name.startswith("layer4")} | {"conv1"}
    pads = next((attribute(n, "pads") for n in graph.nodes if n.op_type == "MaxPool"), None)
    stem = "padded" if any(pads or ()) else "unpadded"
    operations = {node.op_type for node in graph.nodes}
    pool = "average"
    if operations & {"GlobalMaxPool", "ReduceMax"}:
        pool = "largest"
    elif "Pow" in operations:
        pool = "gem"
    actual = {
        "stem": stem if layers["conv1"].activated else "linear",
        "last_stride": last.pop() if len(last) == 1 else "of two kinds",
        "pool": pool,
    }
    words = [
        f"{k} {value} instead of {expected[k]}"
        for k, value in actual.items()
        if value != expected[k]
    ]
    words += [
        f"stride {layer.stride} in {name}"
        for name, layer in layers.items()
        if not name.startswith("layer4.0.") and layer.stride != (2 if name in halved else 1)
    ]
    if words:
        raise ValueError(
            f"by its names this is one of {layout.title}, but its graph has {', '.join(words)}. "
            "Convert the PyTorch checkpoint that it was made from."
        )
