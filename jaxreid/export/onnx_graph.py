"""ONNX graphs under construction, and the values of a jaxpr as they hold them.

The graph is written as other programs like it: convolutions have channels first, and dimensions
that were symbolic in the jaxpr stay open.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

# Version of ONNX's operators: read by onnxruntime 1.12, OpenVINO 2022.3, TensorRT 8.6 and newer.
OPSET = 17
# Version of the file format of the same age.
IR_VERSION = 8

Axes = tuple[int, ...]
Node = onnx.NodeProto


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

    @classmethod
    def plain(cls, shape: tuple[Any, ...], held: str | np.ndarray) -> "Value":
        """Return an array that the graph holds as the jaxpr has it."""
        return cls(shape, held, tuple(range(len(shape))))

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
        inputs: shapes and types by name; an open dimension is symbolic.
    """

    def __init__(self, inputs: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        self.nodes: list[Node] = []
        self.tensors: dict[str, np.ndarray] = {}
        # Sums that become means when they are divided: input, axes and number of entries.
        self.sums: dict[str, tuple[str, list[int], int]] = {}
        self._inputs = [_described(name, spec.shape, spec.dtype) for name, spec in inputs.items()]
        self._outputs: list[onnx.ValueInfoProto] = []
        # Input and axis of every open dimension, and the tensors that hold their sizes.
        self._dimensions = {
            str(size): (name, axis)
            for name, spec in reversed(list(inputs.items()))
            for axis, size in enumerate(spec.shape)
            if not isinstance(size, int)
        }
        self._sizes: dict[str, str] = {}
        self._count: collections.Counter[str] = collections.Counter()

    def add(self, operator: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Add a node with one result, and return its name."""
        return self.add_several(operator, 1, *inputs, **attributes)[0]

    def add_several(
        self, operator: str, results: int, *inputs: str | np.ndarray, **attributes: Any
    ) -> list[str]:
        """Add a node and return the names of its results."""
        outputs = [self._name(operator) for _ in range(results)]
        self._append(operator, inputs, outputs, **attributes)
        return outputs

    def add_cast(self, tensor: str | np.ndarray, dtype: Any) -> str:
        """Add a conversion to another type of numbers, and return the name of its result."""
        return self.add("Cast", tensor, to=_element_type(dtype))

    def add_output(self, name: str, value: Value, dtype: Any) -> None:
        """Make a value a result of the graph."""
        self._append("Identity", [self.plain(value).held], [name])
        self._outputs.append(_described(name, value.shape, dtype))

    def tensor(self, array: np.ndarray) -> str:
        """Add a constant tensor, and return its name."""
        name = self._name("constant")
        self.tensors[name] = np.asarray(array, order="C")
        return name

    def _append(
        self,
        operator: str,
        inputs: Sequence[str | np.ndarray],
        outputs: Sequence[str],
        **attributes: Any,
    ) -> None:
        names = [x if isinstance(x, str) else self.tensor(x) for x in inputs]
        self.nodes.append(helper.make_node(operator, names, outputs, outputs[0], **attributes))

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
        spread = value.spread if axes is None else value.spread & set(axes)
        if not spread:
            return value
        kept = value.spread - spread
        shape = [1 if axis in kept else value.shape[axis] for axis in value.order]
        if isinstance(value.held, np.ndarray) and all(isinstance(size, int) for size in shape):
            held: str | np.ndarray = np.broadcast_to(value.held, shape)
        else:
            # An axis that is not spread keeps its size.
            target = [1 if axis not in spread else value.shape[axis] for axis in value.order]
            held = self.add("Expand", value.held, self.shape(target))
        return dataclasses.replace(value, held=held, spread=kept)

    def plain(self, value: Value) -> Value:
        """Return a value as the jaxpr has it."""
        return self.whole(self.ordered(value, value.identity))

    def aligned(self, operands: Sequence[Value]) -> tuple[list[Value], Axes, frozenset[int]]:
        """Bring operands into one order; return them, it, and the axes that all of them spread."""
        arrays = [x for x in operands if x.shape]
        if not arrays:
            return list(operands), (), frozenset()
        # Constants and what is small follow the others.
        lead = min(arrays, key=lambda x: (x.constant, len(x.spread)))
        aligned = [self.ordered(x, lead.order) if x.shape else x for x in operands]
        return aligned, lead.order, frozenset.intersection(*(x.spread for x in arrays))

    def model(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Return the model that the graph is, with its `metadata_props`."""
        made = helper.make_graph(
            self.nodes,
            "jaxreid",
            self._inputs,
            self._outputs,
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(made, opset_imports=opset, producer_name="jaxreid")
        model.ir_version = IR_VERSION
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model)
        return model


def _described(name: str, shape: Sequence[Any], dtype: Any) -> onnx.ValueInfoProto:
    sizes = [size if isinstance(size, int) else str(size) for size in shape]
    return helper.make_tensor_value_info(name, _element_type(dtype), sizes)


def _element_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
