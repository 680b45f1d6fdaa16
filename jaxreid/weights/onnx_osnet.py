"""Layers of OSNet in the order in which it runs them, for ONNX files."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxreid.models.backbones import osnet
from jaxreid.weights.layouts.osnet import OSNET
from jaxreid.weights.onnx_layers import Graph, Place, assigned
from jaxreid.weights.pytorch import published_network


def osnet_tensors(graph: Graph, arch: str) -> tuple[dict[str, np.ndarray], str] | None:
    """Return the tensors of an OSNet, and "", as `resnet_tensors` does."""
    shapes = OSNET.shapes(published_network(arch), arch)
    for gates_last in (False, True):
        tensors = assigned(graph.layers, list(places_of(arch, gates_last)), shapes)
        instance = _instance_norms(graph.instance_norms, shapes)
        if tensors is not None and instance is not None:
            return tensors | instance, ""
    return None


def places_of(arch: str, gates_last: bool) -> Iterator[Place]:
    """Yield the layers of an OSNet in the order in which it runs them.

    Args:
        arch: one of `osnet.FAMILY`.
        gates_last: a block's gate follows all of its streams, instead of each of them.
    """
    options = osnet.FAMILY[arch]

    def at(*path: str) -> str:
        return OSNET.name(("backbone", *path, "bias"), arch).removesuffix(".bias")

    def conv_norm(*path: str, norm: bool = True) -> Place:
        return Place(at(*path, "conv"), at(*path, "bn") if norm else "")

    yield conv_norm("conv1", norm=options.get("stem") != "instance")
    inputs = options["channels"][0]
    for number, block in enumerate(osnet.BLOCKS):
        stage, index = divmod(number, 2)
        features = options["channels"][1 + stage]
        gate = [Place(at(block, "gate", "fc1")), Place(at(block, "gate", "fc2"))]
        yield conv_norm(block, "conv1")
        for stream in range(1, osnet.STREAMS + 1):
            for i in range(stream):
                name = f"stream{stream}_{i}"
                yield Place(at(block, name, "conv1"))
                yield Place(at(block, name, "conv2"), at(block, name, "bn"))
            yield from [] if gates_last else gate
        yield from gate * osnet.STREAMS if gates_last else []
        place = options.get("blocks", osnet.PLAIN)[number]
        yield conv_norm(block, "conv3", norm=place not in ("residual", "both"))
        if inputs != features:
            yield conv_norm(block, "downsample")
        inputs = features
        if index == 1 and stage < 2:
            yield conv_norm(f"pool{stage + 2}")
    yield conv_norm("conv5")
    yield Place("fc.0", "fc.1")


def _instance_norms(
    norms: Sequence[tuple[np.ndarray, np.ndarray]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray] | None:
    """Return the tensors of the instance norms by name; None if they do not fit."""
    statistics = {name.removesuffix(".running_mean") for name in shapes if "running_mean" in name}
    names = [
        name.removesuffix(".weight")
        for name in shapes
        if name.endswith((".bn.weight", ".IN.weight"))
        and name.removesuffix(".weight") not in statistics
    ]
    names.sort(key=lambda name: (name != "conv1.bn", name))
    if len(names) != len(norms):
        return None
    tensors = {}
    for name, (scale, bias) in zip(names, norms, strict=True):
        tensors |= {f"{name}.weight": np.asarray(scale, np.float32)}
        tensors |= {f"{name}.bias": np.asarray(bias, np.float32)}
    return tensors if all(x.shape == shapes[name] for name, x in tensors.items()) else None
