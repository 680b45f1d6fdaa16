"""Translation of functions to ONNX graphs, by way of their jaxprs.

Whatever depends on weights alone is computed here, so that the graph holds its result.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreid.export.onnx_folding import fold
from jaxreid.export.onnx_graph import Graph, Value
from jaxreid.export.onnx_rules import ELEMENTWISE, EXPRESSIONS, FUNCTIONS, RULES

# Primitives that call another jaxpr, with the parameter that holds it.
CALLS = {
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
}


def make_graph(
    function: Callable[..., jax.Array], inputs: Mapping[str, jax.ShapeDtypeStruct], output: str
) -> Graph:
    """Write a function as an ONNX graph.

    Args:
        function: takes the inputs in order, and returns one array.
        inputs: shapes and types by name; an open dimension is symbolic.
        output: name of the result.

    Raises:
        ValueError: the function uses a primitive without a rule.
    """
    closed = jax.make_jaxpr(function)(*inputs.values())
    graph = Graph(inputs)
    values = [Value.plain(spec.shape, name) for name, spec in inputs.items()]
    (result,) = _walk(graph, closed.jaxpr, [_constant(c) for c in closed.consts], values)
    graph.add_output(output, result, closed.out_avals[0].dtype)
    fold(graph)
    return graph


def _constant(value: Any) -> Value:
    array = np.asarray(value)
    return Value.plain(array.shape, array)


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
            "export it as stablehlo, or add a rule to jaxreid.export.onnx_rules.RULES."
        )
    results = rule(graph, inputs, equation.params, *out)
    return results if isinstance(results, list) else [results]


def _evaluated(graph: Graph, equation: Any, inputs: Sequence[Value]) -> list[Value] | None:
    """Compute an equation of constants; None where its shapes are open."""
    name, out = equation.primitive.name, [v.aval for v in equation.outvars]
    spread: frozenset[int] = frozenset()
    if name in ELEMENTWISE or name in EXPRESSIONS:
        aligned, order, spread = graph.aligned(inputs)
        shape = np.broadcast_shapes(*(np.shape(x.held) for x in aligned))
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
