"""Folding of scales and shifts into the convolutions and products before them."""

import collections

import numpy as np

from jaxreid.export.onnx_graph import Graph, Node


def fold(graph: Graph) -> None:
    """Fold scales and shifts that follow a convolution or product into it; drop unused tensors."""
    uses = collections.Counter(name for node in graph.nodes for name in node.input)
    made: dict[str, Node] = {}
    kept = []
    for node in graph.nodes:
        if node.op_type in ("Mul", "Add") and _folded(graph, node, made, uses):
            continue
        made |= dict.fromkeys(node.output, node)
        kept.append(node)
    needed = {name for node in kept[-1:] for name in node.output}
    graph.nodes = []
    for node in reversed(kept):
        if needed.intersection(node.output):
            needed.update(node.input)
            graph.nodes.insert(0, node)
    graph.tensors = {name: x for name, x in graph.tensors.items() if name in needed}


def _folded(
    graph: Graph,
    node: Node,
    made: dict[str, Node],
    uses: collections.Counter[str],
) -> bool:
    """Fold a node into the convolution or product before it, if it is a constant per channel."""
    constant = next((name for name in node.input if name in graph.tensors), None)
    before = next((made[name] for name in node.input if name in made), None)
    if constant is None or before is None or before.op_type not in ("Conv", "Gemm"):
        return False
    if uses[before.output[0]] > 1 or before.input[1] not in graph.tensors:
        return False
    weight, array = graph.tensors[before.input[1]], graph.tensors[constant]
    conv = before.op_type == "Conv"
    channels = weight.shape[0 if conv else 1]
    # Of the result: [B, channels, h, w] or [B, channels].
    usual = (1, channels, 1, 1) if conv else (1, channels)
    if array.shape not in (usual, (1,) * len(usual), ()):
        return False
    numbers = np.broadcast_to(array.reshape(-1), channels)
    bias = graph.tensors[before.input[2]] if len(before.input) > 2 else np.zeros_like(numbers)
    if node.op_type == "Mul":
        scale = numbers.reshape(-1, *[1] * (weight.ndim - 1)) if conv else numbers
        before.input[1] = graph.tensor(weight * scale)
        bias = bias * numbers
    else:
        bias = bias + numbers
    if len(before.input) > 2:
        before.input[2] = graph.tensor(bias)
    elif node.op_type == "Add":
        before.input.append(graph.tensor(bias))
    before.output[0] = node.output[0]
    made[node.output[0]] = before
    return True
