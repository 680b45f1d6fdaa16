"""Reading of OSNet and of ResNets from ONNX files, whose norms are mostly folded."""

import pathlib

import numpy as np

from jaxreid.models.backbones import osnet, resnet
from jaxreid.weights.onnx_layers import read_graph
from jaxreid.weights.onnx_osnet import osnet_tensors
from jaxreid.weights.onnx_resnet import resnet_tensors


def read_onnx(
    path: pathlib.Path, arch: str
) -> tuple[dict[str, np.ndarray], list[str], tuple[int, int] | None]:
    """Read a network by official name.

    Args:
        path: the file.
        arch: one of `osnet.FAMILY` or `resnet.FAMILY`.

    Returns:
        Arrays by name; messages; (height, width) of the images, if the file declares it.

    Raises:
        ValueError: the file is damaged, keeps weights elsewhere, claims more numbers than it has
            bytes for, has 8 bits, or is not this network.
        ModuleNotFoundError: onnx is not installed.
    """
    if arch not in (*osnet.FAMILY, *resnet.FAMILY):
        raise ValueError(
            f"{path} is an ONNX file, and of those only OSNet and ResNets are read; {arch} is not "
            "one. Convert the PyTorch checkpoint that it was made from."
        )
    graph = read_graph(path)
    family = osnet.FAMILY if arch in osnet.FAMILY else resnet.FAMILY
    result = (osnet_tensors if family is osnet.FAMILY else resnet_tensors)(graph, arch)
    if result is None:
        raise ValueError(
            f"{path} has {len(graph.layers)} layers and {len(graph.instance_norms)} instance norms "
            f"that are not those of {arch}, in order and shape; name another --arch "
            f"({', '.join(family)}), or convert the PyTorch checkpoint that it was made from."
        )
    messages = [
        "an ONNX file: batch norms that its exporter made part of weights have statistics of an "
        "identity, which is equal in inference. To train on, convert a checkpoint with its "
        "statistics"
    ]
    tensors, left_out = result
    return tensors, messages + [left_out] * bool(left_out), graph.size
