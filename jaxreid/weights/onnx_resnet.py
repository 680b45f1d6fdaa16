"""Layers of ResNets in the order in which they run them, for ONNX files of toolboxes.

What exporters do not fold keeps its name in the file: instance norms and the batch norms beside
them, the convolutions before them, non-local blocks, BN necks. The rest is known by its order.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from jaxreid.models.backbones import resnet
from jaxreid.weights.layouts import layout_of
from jaxreid.weights.layouts.resnet import IMAGENET_RESNET
from jaxreid.weights.onnx_layers import Graph, Layer, Place, assigned, attribute
from jaxreid.weights.pytorch import published_network

# What names begin with in files.
_OUTER = re.compile(r"^(?:(?:module|model|backbone|base)\.)+")
# Of what may surround the layers of a ResNet.
_AROUND = re.compile(
    r"(heads\.)?bottleneck\.|heads\.pool_layer\.p$|fc\.[01]\.|NL_\d\.|pixel_(mean|std)$"
)
# Dimensions of a layer of stride 2: those of the stem, and two in each stage that halves the map.
_HALVED = {7: 2, 5: 1}


def resnet_tensors(graph: Graph, arch: str) -> dict[str, np.ndarray] | None:
    """Return the tensors of a ResNet and its neck by official name; None if it is not one.

    Raises:
        ValueError: it is one whose network the names in the file do not say.
    """
    shapes = IMAGENET_RESNET.shapes(published_network(arch), arch)
    named = _named(graph.constants, shapes)
    unnamed = [layer for layer in graph.layers if _official(layer.name) not in named]
    shapes |= _shapes_around(named, unnamed)
    for downsample_last in (True, False):
        places = [
            place
            for place in _places(arch, named, downsample_last)
            if f"{place.name}.weight" not in named
        ]
        if "fc.0.weight" in shapes and "fc.0.weight" not in named:
            places.append(Place("fc.0", "fc.1"))
        tensors = assigned(unnamed, places, shapes)
        if tensors is not None and shapes.keys() <= (tensors := tensors | named).keys():
            for leaf in ("weight", "bias"):
                tensors.pop(f"classifier.{leaf}", None)
            _check(graph, tensors, arch)
            return tensors
    return None


def _official(name: str) -> str:
    return _OUTER.sub("", name)


def _named(
    constants: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Return the constants that have official names."""
    return {
        official: np.asarray(value, np.float32)
        for name, value in constants.items()
        if (official := _official(name)) in shapes
        and value.shape == shapes[official]
        or _AROUND.match(official)
    }


def _shapes_around(
    named: Mapping[str, np.ndarray], unnamed: list[Layer]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of layers that only some networks have, and that have other names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, weight in named.items():
        if block := re.match(r"(NL_\d\.\d+)\.g\.weight$", name):
            channels, inner = weight.shape[1], weight.shape[0]
            shapes[f"{block[1]}.W.0.weight"] = (channels, inner, 1, 1)
            shapes[f"{block[1]}.W.0.bias"] = (channels,)
            shapes |= _norm_shapes(f"{block[1]}.W.1", channels)
    if unnamed and unnamed[-1].weight.ndim == 2 and unnamed[-1].activated:
        channels = len(unnamed[-1].weight)
        shapes |= {"fc.0.weight": unnamed[-1].weight.shape, "fc.0.bias": (channels,)}
        shapes |= _norm_shapes("fc.1", channels)
    return shapes


def _norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": (channels,) for leaf in leaves}


def _places(arch: str, named: Mapping[str, np.ndarray], downsample_last: bool) -> Iterator[Place]:
    """Yield the convolutions of a ResNet in the order in which it runs them."""
    yield Place("conv1", "bn1")
    depth = resnet.FAMILY[arch]["depth"]
    convs = 2 if depth in (18, 34) else 3
    for layer, blocks in enumerate(resnet.BLOCKS[depth], 1):
        attended = sum(f"NL_{layer}.{i}.g.weight" in named for i in range(blocks))
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            places = [Place(f"{at}.conv{i}", f"{at}.bn{i}") for i in range(1, convs + 1)]
            if block == 0 and (layer > 1 or convs == 3):
                downsample = Place(f"{at}.downsample.0", f"{at}.downsample.1")
                places.insert(convs if downsample_last else 0, downsample)
            yield from places
            if (i := block - (blocks - attended)) >= 0:
                yield Place(f"NL_{layer}.{i}.W.0", f"NL_{layer}.{i}.W.1")


def _check(graph: Graph, tensors: Mapping[str, np.ndarray], arch: str) -> None:
    """Raise ValueError if the graph computes something else than its names say."""
    layout = layout_of(tensors, arch)
    card = layout.card(tensors, arch)
    pads = next((attribute(n, "pads") for n in graph.nodes if n.op_type == "MaxPool"), None)
    stem = (
        "linear" if not graph.layers[0].activated else "padded" if any(pads or ()) else "unpadded"
    )
    halved = sum(layer.stride == 2 for layer in graph.layers)
    found = {
        "stem": stem,
        "last_stride": _HALVED.get(halved, 0),
        "pool": "gem" if any(node.op_type == "Pow" for node in graph.nodes) else "average",
    }
    expected = {"stem": "padded", "last_stride": 2} | card["backbone"]
    expected["pool"] = card["neck"].get("pool", "average")
    other = {key: value for key, value in found.items() if value != expected[key]}
    if other:
        words = ", ".join(
            f"{key} {value} instead of {expected[key]}" for key, value in other.items()
        )
        raise ValueError(
            f"by its names this is one of {layout.title}, but its graph has {words}. Convert the "
            "PyTorch checkpoint that it was made from."
        )
