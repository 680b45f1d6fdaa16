"""Jaxprs as ONNX graphs: one rule for each primitive that the networks use.

The graph is written as other programs like it: convolutions have channels first and hold the
normalisation that follows them, whatever depends on weights alone is computed here, and dimensions
that were symbolic in the jaxpr stay open.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

# Version of ONNX's operators: read by onnxruntime 1.12, OpenVINO 2022.3, TensorRT 8.6 and newer.
OPSET = 17
# Version of the file format of the same age.
IR_VERSION = 8

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
# Primitives that call another jaxpr, with the parameter that holds it.
CALLS = {
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
}
REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
# An operand that leaves the other as it is.
NEUTRAL = {"Add": 0, "Mul": 1, "Sub": 0, "Div": 1}

Axes = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Value:
    """Array of a jaxpr, as the graph holds it.

    The graph may hold its axes in another order, and one entry of axes along which it repeats
    itself. Transposes and expansions are only written where an operation needs them.

    Attributes:
        shape: shape in the jaxpr; an open dimension is symbolic.
        held: name of a tensor, or an array that depends on no input.
        order: axis k of the tensor is axis order[k] of the jaxpr's array.
        spread: axes of the jaxpr's array of which the tensor holds one entry.
    """

    shape: tuple[Any, ...]
    held: str | np.ndarray
    order: Axes
    spread: frozenset[int] = frozenset()

    @property
    def constant(self) -> bool:
        """Whether it depends on no input."""
        return isinstance(self.held, np.ndarray)

    @property
    def identity(self) -> Axes:
        """The jaxpr's order of axes."""
        return tuple(range(len(self.shape)))

    def at(self, axes: Sequence[int]) -> list[int]:
        """Return the tensor's axes for axes of the jaxpr's array."""
        return [self.order.index(axis) for axis in axes]


class Graph:
    """ONNX graph under construction.

    Args:
        dimensions: input and axis of every open dimension, by name.
    """

    def __init__(self, dimensions: Mapping[str, tuple[str, int]]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}
        self._dimensions, self._sizes = dimensions, {}  # type: Any, dict[str, str]
        self._count: collections.Counter[str] = collections.Counter()
        # Sums that become means when they are divided: input, axes and number of entries.
        self.sums: dict[str, tuple[str, list[int], int]] = {}

    def add(self, operator: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Add a node with one result, and return its name."""
        return self.add_several(operator, 1, *inputs, **attributes)[0]

    def add_several(
        self, operator: str, results: int, *inputs: str | np.ndarray, **attributes: Any
    ) -> list[str]:
        """Add a node and return the names of its results."""
        names = [x if isinstance(x, str) else self.tensor(x) for x in inputs]
        outputs = [self._name(operator) for _ in range(results)]
        self.nodes.append(helper.make_node(operator, names, outputs, outputs[0], **attributes))
        return outputs

    def tensor(self, array: np.ndarray) -> str:
        """Add a constant tensor, and return its name."""
        name = self._name("constant")
        self.tensors[name] = np.asarray(array, order="C")
        return name

    def _name(self, kind: str) -> str:
        self._count[kind] += 1
        return f"{kind}_{self._count[kind]}"

    def shape(self, shape: Sequence[Any]) -> str | np.ndarray:
        """Return a shape as an int64 tensor."""
        if all(isinstance(size, int) for size in shape):
            return np.array(shape, np.int64)
        return self.add("Concat", *map(self._size, shape), axis=0)

    def _size(self, size: Any) -> str | np.ndarray:
        if isinstance(size, int):
            return np.array([size], np.int64)
        if (name := str(size)) not in self._dimensions:
            raise ValueError(f"the size {name} of an intermediate array is not that of an input.")
        if name not in self._sizes:
            tensor, axis = self._dimensions[name]
            whole = self.add("Shape", tensor)
            self._sizes[name] = self.add("Gather", whole, np.array([axis], np.int64), axis=0)
        return self._sizes[name]

    def ordered(self, value: Value, order: Axes) -> Value:
        """Return a value with the tensor's axes in another order."""
        if value.order == order:
            return value
        axes = value.at(order)
        if isinstance(value.held, np.ndarray):
            held: str | np.ndarray = value.held.transpose(axes)
        else:
            held = self.add("Transpose", value.held, perm=axes)
        return dataclasses.replace(value, held=held, order=order)

    def whole(self, value: Value, axes: Sequence[int] | None = None) -> Value:
        """Return a value with all entries of its spread axes, or of some of them."""
        axes = value.spread if axes is None else value.spread & set(axes)
        if not axes:
            return value
        kept = value.spread - axes
        shape = [1 if axis in kept else value.shape[axis] for axis in value.order]
        if isinstance(value.held, np.ndarray) and all(isinstance(size, int) for size in shape):
            held: str | np.ndarray = np.broadcast_to(value.held, shape)
        else:
            # An axis that is not spread keeps its size.
            target = [1 if axis not in axes else value.shape[axis] for axis in value.order]
            held = self.add("Expand", value.held, self.shape(target))
        return dataclasses.replace(value, held=held, spread=kept)

    def plain(self, value: Value) -> Value:
        """Return a value as the jaxpr has it."""
        return self.whole(self.ordered(value, value.identity))


def _is(operand: Value, number: int) -> bool:
    return isinstance(operand.held, np.ndarray) and bool(np.all(operand.held == number))


def _aligned(graph: Graph, operands: Sequence[Value]) -> tuple[list[Value], Axes, frozenset[int]]:
    """Bring operands into one order; return them with it and the axes that all of them spread."""
    arrays = [x for x in operands if x.shape]
    if not arrays:
        return list(operands), (), frozenset()
    # Constants and what is small follow the others.
    lead = min(arrays, key=lambda x: (x.constant, len(x.spread)))
    aligned = [graph.ordered(x, lead.order) if x.shape else x for x in operands]
    return aligned, lead.order, frozenset.intersection(*(x.spread for x in arrays))


def _elementwise(
    write: Callable[..., str],
) -> Callable[[Graph, Sequence[Value], Mapping[str, Any], Any], Value]:
    """Return the rule of a primitive that `write` expresses on tensors of one order."""

    def rule(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
        operands, order, spread = _aligned(graph, inputs)
        held = write(graph, *(x.held for x in operands), **params)
        return Value(out.shape, held, order, spread)

    return rule


def _operator(
    operator: str,
) -> Callable[[Graph, Sequence[Value], Mapping[str, Any], Any], Value]:
    """Return the rule of a primitive that is one operator."""

    def rule(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
        first, *rest = inputs
        if operator in NEUTRAL and rest:
            commutes = operator in ("Add", "Mul")
            if first.shape == out.shape and _is(rest[0], NEUTRAL[operator]):
                return first
            if commutes and rest[0].shape == out.shape and _is(first, NEUTRAL[operator]):
                return rest[0]
        if operator == "Div" and isinstance(first.held, str) and first.held in graph.sums:
            tensor, axes, count = graph.sums[first.held]
            if _is(rest[0], count):
                held = graph.add("ReduceMean", tensor, axes=axes, keepdims=0)
                return dataclasses.replace(first, held=held)
        if operator == "Max" and _is(rest[0], 0):
            return Value(out.shape, graph.add("Relu", first.held), first.order, first.spread)
        return _elementwise(lambda graph, *held, **_: graph.add(operator, *held))(
            graph, inputs, params, out
        )

    return rule


def _integer_pow(graph: Graph, x: Any, *, y: int, **_: Any) -> str:
    return graph.add("Mul", x, x) if y == 2 else graph.add("Pow", x, np.float32(y))


def _rsqrt(graph: Graph, x: Any, **_: Any) -> str:
    return graph.add("Reciprocal", graph.add("Sqrt", x))


def _convert(graph: Graph, x: Any, *, new_dtype: Any, **_: Any) -> str:
    return graph.add("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(new_dtype)))


def _broadcast(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    (x, *_), axes = inputs, params["broadcast_dimensions"]
    new = [axis for axis in range(len(out.shape)) if axis not in axes]
    spread = {axes[i] for i in x.spread} | set(new)
    spread |= {axes[i] for i, size in enumerate(x.shape) if size != out.shape[axes[i]]}
    if len(out.shape) == 4 and new == [1, 2]:
        # Of every channel: beside convolutions, which have channels first.
        x = graph.ordered(x, x.identity)
        order, places = (0, 3, 1, 2), [2, 3]
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
        rank = {axis: i for i, axis in enumerate(a for a in x.identity if a not in axes)}
        order = tuple(rank[axis] for axis in x.order if axis not in axes)
        spread = frozenset(rank[axis] for axis in x.spread if axis not in axes)
        return Value(out.shape, held, order, spread)

    return rule


def _reshape(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    x = graph.plain(inputs[0])
    return Value(out.shape, _reshaped(graph, x.held, out.shape), tuple(range(len(out.shape))))


def _reshaped(graph: Graph, held: str | np.ndarray, shape: Sequence[Any]) -> str:
    unknown = [not isinstance(size, int) for size in shape]
    if sum(unknown) <= 1:
        known = [-1 if u else size for u, size in zip(unknown, shape, strict=True)]
        return graph.add("Reshape", held, np.array(known, np.int64))
    return graph.add("Reshape", held, graph.shape(shape))


def _squeeze(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    (x,), axes = inputs, params["dimensions"]
    held = graph.add("Squeeze", x.held, np.array(sorted(x.at(axes)), np.int64))
    rank = {axis: i for i, axis in enumerate(a for a in x.identity if a not in axes)}
    order = tuple(rank[axis] for axis in x.order if axis in rank)
    return Value(out.shape, held, order, frozenset(rank[a] for a in x.spread if a in rank))


def _transpose(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    (x,), permutation = inputs, list(params["permutation"])
    order = tuple(permutation.index(axis) for axis in x.order)
    return Value(out.shape, x.held, order, frozenset(permutation.index(a) for a in x.spread))


def _slice(graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any) -> Value:
    (x,), rank = inputs, len(out.shape)
    cuts = zip(
        params["start_indices"], params["limit_indices"], params["strides"] or [1] * rank,
        range(rank), strict=True,
    )  # fmt: skip
    cuts = [cut for cut in cuts if (cut[0], cut[1], cut[2]) != (0, x.shape[cut[3]], 1)]
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
    operands, order, _ = _aligned(graph, inputs)
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
    return Value(out.shape, held, tuple(range(len(out.shape))))


def _instance_norm(
    graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any
) -> Value:
    from jaxreid.ops.normalize import EPSILON

    x = graph.whole(graph.ordered(inputs[0], (0, 3, 1, 2)))
    learned = [np.broadcast_to(p.held, x.shape[-1:]).astype(np.float32) for p in inputs[1:]]
    held = graph.add("InstanceNormalization", x.held, *learned, epsilon=EPSILON)
    return Value(out.shape, held, x.order)


def _average_pool(
    graph: Graph, inputs: Sequence[Value], params: Mapping[str, Any], out: Any
) -> Value:
    x = graph.whole(graph.ordered(inputs[0], (0, 3, 1, 2)))
    held = graph.add("AveragePool", x.held, kernel_shape=[2, 2], strides=[2, 2])
    return Value(out.shape, held, x.order)


RULES: dict[str, Callable[..., Any]] = {
    **{name: _operator(operator) for name, operator in ELEMENTWISE.items()},
    **{name: _reduce(operator) for name, operator in REDUCTIONS.items()},
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _elementwise(_convert),
    "dot_general": _product,
    "integer_pow": _elementwise(_integer_pow),
    "pad": _pad,
    "reduce_window_max": _max_pool,
    "reshape": _reshape,
    "rev": _reverse,
    "rsqrt": _elementwise(_rsqrt),
    "select_n": _elementwise(lambda graph, which, no, yes, **_: graph.add("Where", which, yes, no)),
    "slice": _slice,
    "split": _split,
    "square": _elementwise(lambda graph, x, **_: graph.add("Mul", x, x)),
    "squeeze": _squeeze,
    "transpose": _transpose,
}
# Functions that are one operator (`mesh.kept_whole`).
FUNCTIONS = {"instance_norm": _instance_norm, "average_2x2": _average_pool}


def make_onnx(
    function: Callable[..., jax.Array],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    output: str,
    *,
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    """Write a function as an ONNX model.

    Args:
        function: takes the inputs in order, and returns one array.
        inputs: shapes and types by name; an open dimension is symbolic.
        output: name of the result.
        metadata: `metadata_props` of the model.

    Raises:
        ValueError: the function uses a primitive without a rule.
    """
    closed = jax.make_jaxpr(function)(*inputs.values())
    dimensions = {
        str(size): (name, axis)
        for name, spec in reversed(inputs.items())
        for axis, size in enumerate(spec.shape)
        if not isinstance(size, int)
    }
    graph = Graph(dimensions)
    values = [Value(s.shape, name, tuple(range(len(s.shape)))) for name, s in inputs.items()]
    (result,) = _walk(graph, closed.jaxpr, [_constant(c) for c in closed.consts], values)
    graph.nodes.append(helper.make_node("Identity", [_name_of(graph, result)], [output], output))
    _fold(graph)
    made = helper.make_graph(
        graph.nodes,
        "jaxreid",
        [_described(name, spec.shape, spec.dtype) for name, spec in inputs.items()],
        [_described(output, closed.out_avals[0].shape, closed.out_avals[0].dtype)],
        [numpy_helper.from_array(array, name) for name, array in graph.tensors.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(made, opset_imports=opset, producer_name="jaxreid")
    model.ir_version = IR_VERSION
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    return model


def _name_of(graph: Graph, value: Value) -> str:
    held = graph.plain(value).held
    return held if isinstance(held, str) else graph.tensor(held)


def _described(name: str, shape: Sequence[Any], dtype: Any) -> onnx.ValueInfoProto:
    sizes = [size if isinstance(size, int) else str(size) for size in shape]
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), sizes
    )


def _constant(value: Any) -> Value:
    array = np.asarray(value)
    return Value(array.shape, array, tuple(range(array.ndim)))


def _walk(
    graph: Graph, jaxpr: Any, constants: Sequence[Value], arguments: Sequence[Value]
) -> list[Value]:
    """Write the equations of a jaxpr, and return its results."""
    values = dict(zip(jaxpr.constvars, constants, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(variable: Any) -> Value:
        return _constant(variable.val) if hasattr(variable, "val") else values[variable]

    for equation in _live(jaxpr):
        inputs, name = [read(v) for v in equation.invars], equation.primitive.name
        if name in CALLS and equation.params.get("name") not in FUNCTIONS:
            called = equation.params[CALLS[name]]
            inner, held = getattr(called, "jaxpr", called), getattr(called, "consts", ())
            results = _walk(graph, inner, [_constant(c) for c in held], inputs)
        else:
            results = _written(graph, equation, inputs)
        values |= zip(equation.outvars, results, strict=True)
    return [read(v) for v in jaxpr.outvars]


def _live(jaxpr: Any) -> list[Any]:
    """Return the equations that the results depend on, in order."""
    needed, live = {v for v in jaxpr.outvars if not hasattr(v, "val")}, []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(v for v in equation.invars if not hasattr(v, "val"))
            live.append(equation)
    return live[::-1]


def _written(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value]:
    name, out = equation.primitive.name, [v.aval for v in equation.outvars]
    if name != "broadcast_in_dim" and all(x.constant for x in inputs):
        known = _evaluated(graph, equation, inputs)
        if known is not None:
            return known
    rule = FUNCTIONS.get(equation.params.get("name")) or RULES.get(name)
    if rule is None:
        raise ValueError(
            f"the model uses the operation {name!r}, which this exporter cannot write as ONNX; "
            "export it as stablehlo, or add a rule to jaxreid.export.onnx_graph.RULES."
        )
    results = rule(graph, inputs, equation.params, *out)
    return results if isinstance(results, list) else [results]


def _evaluated(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value] | None:
    """Compute an equation of constants; None where its shapes are open."""
    name, out = equation.primitive.name, [v.aval for v in equation.outvars]
    spread: frozenset[int] = frozenset()
    if name in ELEMENTWISE or name in ("select_n", "convert_element_type", "rsqrt", "square"):
        aligned, order, spread = _aligned(graph, inputs)
        shape = np.broadcast_shapes(*(x.held.shape for x in aligned))
        keep = [x.held if not x.shape else np.broadcast_to(x.held, shape) for x in aligned]
    elif all(isinstance(size, int) for array in [*inputs, *out] for size in array.shape):
        keep = [graph.plain(x).held for x in inputs]
        order = None
    else:
        return None
    params = equation.params
    results = equation.primitive.bind(*keep, **params)
    results = results if equation.primitive.multiple_results else [results]
    return [
        Value(
            o.shape, np.asarray(r), tuple(range(len(o.shape))) if order is None else order, spread
        )
        for o, r in zip(out, results, strict=True)
    ]


def _fold(graph: Graph) -> None:
    """Put scales and shifts that follow a convolution or product into it; drop what is unused."""
    uses = collections.Counter(name for node in graph.nodes for name in node.input)
    made: dict[str, onnx.NodeProto] = {}
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
    node: onnx.NodeProto,
    made: dict[str, onnx.NodeProto],
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
