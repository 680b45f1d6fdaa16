"""Rules that write primitives of JAX as ONNX operators: one for each that the networks use."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.export.onnx_graph import Axes, Graph, Value
from jaxreid.ops.normalize import EPSILON

# Primitives that are one operator, entry by entry.
ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "copy": "Identity",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sqrt": "Sqrt",
    "stop_gradient": "Identity",
    "sub": "Sub",
    "tanh": "Tanh",
}
REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
# An operand that leaves the other as it is.
NEUTRAL = {"Add": 0, "Mul": 1, "Sub": 0, "Div": 1}

# Order of a batch of maps in ONNX.
CHANNELS_FIRST = (0, 3, 1, 2)


def _is(operand: Value, number: int) -> bool:
    return isinstance(operand.held, np.ndarray) and bool(np.all(operand.held == number))


def _elementwise(write: Callable[..., str]) -> Callable[..., Value]:
    """Return the rule of a primitive that `write` expresses on tensors of one order."""

    def rule(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
        operands, order, spread = graph.aligned(inputs)
        held = write(graph, *(x.held for x in operands), **params)
        return Value(out.shape, held, order, spread)

    return rule


def _operator(operator: str) -> Callable[..., Value]:
    """Return the rule of a primitive that is one operator."""
    write = _elementwise(lambda graph, *held, **_: graph.add(operator, *held))

    def rule(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
        first, *rest = inputs
        if operator in NEUTRAL and rest:
            commutes = operator in ("Add", "Mul")
            if first.shape == out.shape and _is(rest[0], NEUTRAL[operator]):
                return first
            if commutes and rest[0].shape == out.shape and _is(first, NEUTRAL[operator]):
                return rest[0]
        return write(graph, inputs, params, out)

    return rule


def _div(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    total, divisor = inputs
    if isinstance(total.held, str) and total.held in graph.sums:
        tensor, axes, count = graph.sums[total.held]
        if _is(divisor, count):
            held = graph.add("ReduceMean", tensor, axes=axes, keepdims=0)
            return dataclasses.replace(total, held=held)
    return _operator("Div")(graph, inputs, params, out)


def _max(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    x, least = inputs
    if _is(least, 0):
        return Value(out.shape, graph.add("Relu", x.held), x.order, x.spread)
    return _operator("Max")(graph, inputs, params, out)


def _integer_pow(graph: Graph, x: Any, *, y: int, **_: Any) -> str:
    return graph.add("Mul", x, x) if y == 2 else graph.add("Pow", x, np.array(y, np.float32))


# Primitives that several operators compute, entry by entry, or one with its parameters.
EXPRESSIONS: dict[str, Callable[..., str]] = {
    "convert_element_type": lambda graph, x, *, new_dtype, **_: graph.add_cast(x, new_dtype),
    "erfc": lambda graph, x, **_: graph.add("Sub", np.float32(1), graph.add("Erf", x)),
    "integer_pow": _integer_pow,
    "rsqrt": lambda graph, x, **_: graph.add("Reciprocal", graph.add("Sqrt", x)),
    "select_n": lambda graph, which, no, yes, **_: graph.add("Where", which, yes, no),
    "square": lambda graph, x, **_: graph.add("Mul", x, x),
}


def _broadcast(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    (x, *_), axes = inputs, params["broadcast_dimensions"]
    order: Axes
    new = [axis for axis in range(len(out.shape)) if axis not in axes]
    spread = {axes[i] for i in x.spread} | set(new)
    spread |= {axes[i] for i, size in enumerate(x.shape) if size != out.shape[axes[i]]}
    if len(out.shape) == 4 and new == [1, 2]:
        # Of every channel: beside convolutions, which have channels first.
        x = graph.ordered(x, x.identity)
        order, places = CHANNELS_FIRST, [2, 3]
    elif x.order == x.identity:
        order, places = tuple(range(len(out.shape))), new
    else:
        order = (*(axes[i] for i in x.order), *new)
        places = list(range(len(x.shape), len(order)))
    held = x.held
    if isinstance(held, np.ndarray):
        held = np.expand_dims(held, tuple(places))
    elif places:
        held = graph.add("Unsqueeze", held, np.array(places, np.int64))
    return Value(out.shape, held, order, frozenset(a for a in spread if out.shape[a] != 1))


def _reduce(operator: str) -> Callable[..., Value]:
    def rule(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
        axes = params["axes"]
        (x,) = inputs
        # A maximum of equal entries is the entry itself; a sum counts them.
        x = graph.whole(x, axes) if operator == "ReduceSum" else x
        at = sorted(x.at(axes))
        if operator == "ReduceSum":
            held = graph.add(operator, x.held, np.array(at, np.int64), keepdims=0)
            sizes = [x.shape[axis] for axis in axes]
            if all(isinstance(size, int) for size in sizes) and isinstance(x.held, str):
                graph.sums[held] = x.held, at, math.prod(sizes)
        else:
            held = graph.add(operator, x.held, axes=at, keepdims=0)
        return Value(out.shape, held, *_without(x, axes))

    return rule


def _without(x: Value, axes: Sequence[int]) -> tuple[Axes, frozenset[int]]:
    """Return the order and the spread axes of a value without some of its axes."""
    rank = {axis: i for i, axis in enumerate(a for a in x.identity if a not in axes)}
    order = tuple(rank[axis] for axis in x.order if axis in rank)
    return order, frozenset(rank[axis] for axis in x.spread if axis in rank)


def _reshape(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    x = graph.plain(inputs[0])
    return Value.plain(out.shape, _reshaped(graph, x.held, out.shape))


def _reshaped(graph: Graph, held: str | np.ndarray, shape: Sequence[Any]) -> str:
    unknown = [not isinstance(size, int) for size in shape]
    if sum(unknown) <= 1:
        known = [-1 if u else size for u, size in zip(unknown, shape, strict=True)]
        return graph.add("Reshape", held, np.array(known, np.int64))
    return graph.add("Reshape", held, graph.shape(shape))


def _squeeze(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    (x,), axes = inputs, params["dimensions"]
    held = graph.add("Squeeze", x.held, np.array(sorted(x.at(axes)), np.int64))
    return Value(out.shape, held, *_without(x, axes))


def _transpose(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    (x,), permutation = inputs, list(params["permutation"])
    order = tuple(permutation.index(axis) for axis in x.order)
    return Value(out.shape, x.held, order, frozenset(permutation.index(a) for a in x.spread))


def _slice(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    (x,), rank = inputs, len(out.shape)
    every = zip(
        params["start_indices"], params["limit_indices"], params["strides"] or [1] * rank,
        range(rank), strict=True,
    )  # fmt: skip
    cuts = [cut for cut in every if (cut[0], cut[1], cut[2]) != (0, x.shape[cut[3]], 1)]
    if not cuts:
        return x
    starts, ends, strides, axes = (list(column) for column in zip(*cuts, strict=True))
    x = graph.whole(x, axes)
    numbers = (np.array(n, np.int64) for n in (starts, ends, x.at(axes), strides))
    return dataclasses.replace(x, shape=out.shape, held=graph.add("Slice", x.held, *numbers))


def _split(
    graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], *out: Any
) -> list[Value]:
    axis, sizes = params["axis"], np.array(params["sizes"], np.int64)
    x = graph.whole(inputs[0], [axis])
    parts = graph.add_several("Split", len(out), x.held, sizes, axis=x.at([axis])[0])
    return [
        dataclasses.replace(x, shape=o.shape, held=part) for o, part in zip(out, parts, strict=True)
    ]


def _reverse(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    (x,), axes = inputs, [a for a in params["dimensions"] if a not in inputs[0].spread]
    count = len(axes)
    least = np.iinfo(np.int64).min
    numbers = (np.array(n, np.int64) for n in ([-1] * count, [least] * count, x.at(axes)))
    held = (
        graph.add("Slice", x.held, *numbers, np.array([-1] * count, np.int64)) if axes else x.held
    )
    return dataclasses.replace(x, held=held)


def _concatenate(
    graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any
) -> Value:
    operands, order, _ = graph.aligned(inputs)
    whole = [graph.whole(x) for x in operands]
    axis = order.index(params["dimension"])
    return Value(out.shape, graph.add("Concat", *(x.held for x in whole), axis=axis), order)


def _pad(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    x, filler = inputs
    x = graph.whole(x)
    low, high, interior = zip(*params["padding_config"], strict=True)
    if any(interior):
        raise ValueError("padding between entries has no counterpart in ONNX.")
    pads = [side[axis] for side in (low, high) for axis in x.order]
    held = graph.add("Pad", x.held, np.array(pads, np.int64), filler.held)
    return dataclasses.replace(x, shape=out.shape, held=held)


def _convolution(
    graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any
) -> Value:
    numbers = params["dimension_numbers"]
    x = graph.whole(graph.ordered(inputs[0], tuple(numbers.lhs_spec)))
    kernel = graph.whole(graph.ordered(inputs[1], tuple(numbers.rhs_spec)))
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise ValueError("transposed convolutions have no rule here.")
    low, high = zip(*params["padding"], strict=True)
    held = graph.add(
        "Conv",
        x.held,
        kernel.held,
        strides=list(params["window_strides"]),
        pads=[*low, *high],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
        kernel_shape=[kernel.shape[axis] for axis in numbers.rhs_spec[2:]],
    )
    return Value(out.shape, held, tuple(numbers.out_spec))


def _max_pool(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    window, strides, padding = (
        params[key] for key in ("window_dimensions", "window_strides", "padding")
    )
    spatial = [axis for axis, size in enumerate(window) if size > 1]
    rest = [axis for axis in range(len(window)) if axis not in spatial]
    if len(rest) != 2 or {*params["base_dilation"], *params["window_dilation"]} != {1}:
        raise ValueError(f"a maximum over windows of {window} has no counterpart in ONNX.")
    x = graph.whole(graph.ordered(inputs[0], (*rest, *spatial)))
    held = graph.add(
        "MaxPool",
        x.held,
        kernel_shape=[window[axis] for axis in spatial],
        strides=[strides[axis] for axis in spatial],
        pads=[padding[axis][side] for side in (0, 1) for axis in spatial],
    )
    return Value(out.shape, held, x.order)


def _product(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    (contracted, batch), (left, right) = params["dimension_numbers"], inputs
    free = [
        [axis for axis in x.identity if axis not in c and axis not in b]
        for x, c, b in zip(inputs, contracted, batch, strict=True)
    ]
    left = graph.whole(graph.ordered(left, (*batch[0], *free[0], *contracted[0])))
    right = graph.whole(graph.ordered(right, (*batch[1], *contracted[1], *free[1])))
    depth = math.prod(left.shape[axis] for axis in contracted[0])
    batches = [left.shape[axis] for axis in batch[0]]
    # Without batch axes, a product may have any number of rows' axes.
    keeps_rows = len(contracted[0]) == 1 and (len(free[0]) == 1 or not batches and free[0])
    keeps_columns = len(contracted[1]) == len(free[1]) == 1
    rows, columns = left.held, right.held
    # In a reshape, 0 keeps a size; at most one other may be open.
    same = [0] * len(batches)
    if not keeps_rows:
        rows = graph.add("Reshape", rows, np.array([*same, -1, depth], np.int64))
    if not keeps_columns:
        if isinstance(columns, np.ndarray):
            columns = columns.reshape(*columns.shape[: len(batches)], depth, -1)
        else:
            columns = graph.add("Reshape", columns, np.array([*same, depth, -1], np.int64))
    flat = not batches and (not keeps_rows or len(free[0]) == 1)
    gemm = flat and isinstance(columns, np.ndarray)
    held = graph.add("Gemm" if gemm else "MatMul", rows, columns)
    if not keeps_rows or not keeps_columns:
        held = _reshaped(graph, held, out.shape)
    return Value.plain(out.shape, held)


def _instance_norm(
    graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any
) -> Value:
    x = graph.whole(graph.ordered(inputs[0], CHANNELS_FIRST))
    learned = [np.broadcast_to(p.held, x.shape[-1:]).astype(np.float32) for p in inputs[1:]]
    held = graph.add("InstanceNormalization", x.held, *learned, epsilon=EPSILON)
    return Value(out.shape, held, x.order)


def _average_pool(
    graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any
) -> Value:
    x = graph.whole(graph.ordered(inputs[0], CHANNELS_FIRST))
    held = graph.add("AveragePool", x.held, kernel_shape=[2, 2], strides=[2, 2])
    return Value(out.shape, held, x.order)


RULES: dict[str, Callable[..., Any]] = {
    **{name: _operator(operator) for name, operator in ELEMENTWISE.items()},
    **{name: _elementwise(write) for name, write in EXPRESSIONS.items()},
    **{name: _reduce(operator) for name, operator in REDUCTIONS.items()},
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "div": _div,
    "dot_general": _product,
    "max": _max,
    "pad": _pad,
    "reduce_window_max": _max_pool,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
# Functions that are one operator (`mesh.kept_whole`).
FUNCTIONS = {"instance_norm": _instance_norm, "average_2x2": _average_pool}
