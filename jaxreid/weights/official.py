"""Variables with the axes and shapes that they have in PyTorch, both ways."""

import math
from collections.abc import Sequence

import numpy as np

# Axes of a kernel [h, w, in, out], [h, w, out] or [in, out] in PyTorch's order.
_ORDER = {4: (3, 2, 0, 1), 3: (2, 0, 1), 2: (1, 0)}

# Path of a variable, such as ("backbone", "layer1_0", "conv1", "kernel").
Path = tuple[str, ...]


def official_shape(path: Path, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a variable in PyTorch."""
    if _is_kernel(path):
        first, *rest = _in_order(shape)
        # Of a matcher's linear layer on all positions of a map.
        if len(shape) == 3:
            return first, math.prod(rest)
        # The gate's linear layers are 1x1 convolutions in PyTorch.
        return (first, *rest, 1, 1) if "gate" in path else (first, *rest)
    if path[-1] == "score_embed":
        return 1, 1, math.prod(shape[:2]), math.prod(shape[2:])
    # Weights by direction and position are one row in PyTorch.
    return (1, math.prod(shape)) if path[-1] == "weight" else tuple(shape) or (1,)


def from_official(path: Path, tensor: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Convert a tensor of PyTorch (`official_shape`) to a variable."""
    if _is_kernel(path):
        tensor = tensor.reshape(_in_order(shape)).transpose(np.argsort(_order(len(shape))))
    return np.asarray(tensor.reshape(shape), order="C")


def to_official(path: Path, array: np.ndarray) -> np.ndarray:
    """Convert a variable to a tensor of PyTorch, the inverse of `from_official`."""
    shape = official_shape(path, array.shape)
    if _is_kernel(path):
        array = array.transpose(_order(array.ndim))
    return np.asarray(array.reshape(shape), order="C")


def _is_kernel(path: Path) -> bool:
    return path[-1] in ("kernel", "out_kernel")


def _order(axes: int) -> tuple[int, ...]:
    return _ORDER.get(axes, tuple(range(axes)))


def _in_order(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _order(len(shape)))
