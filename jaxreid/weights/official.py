"""Variables as the original PyTorch code has them: their names and layouts, both ways.

An official name is one in the `state_dict` of torchvision and IBN-Net (ResNets), of torchreid
(OSNet) or of QAConv.
"""

import re
from collections.abc import Sequence

import numpy as np
from flax import traverse_util

from jaxreid.models.backbones import osnet, resnet
from jaxreid.models.model import Model, abstract_variables

# Backbones whose official names are known here.
ARCHITECTURES = (*resnet.FAMILY, *osnet.FAMILY)

# Axes of a kernel [h, w, in, out] or [in, out] in PyTorch's order, and the way back.
_TO_PYTORCH = {4: (3, 2, 0, 1), 2: (1, 0)}
_FROM_PYTORCH = {4: (2, 3, 1, 0), 2: (1, 0)}

# Path of a variable, such as ("backbone", "layer1_0", "conv1", "kernel").
Path = tuple[str, ...]


def official_name(path: Path, arch: str, *, prefix: str = "") -> str:
    """Return the name of a variable in the original's `state_dict`.

    Args:
        path: path of the variable, without its collection.
        arch: name of the backbone.
        prefix: prefix of the backbone's names: "base." in QAConv, otherwise "".
    """
    part, *modules, leaf = path
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    leaf = leaves.get(leaf, leaf)
    if part == "backbone":
        if arch in resnet.FAMILY:
            modules = [_resnet_module(module) for module in modules]
        else:
            modules = [_osnet_module(module, ain="_ain_" in arch) for module in modules]
        return prefix + ".".join([*modules, leaf])
    if part == "neck":
        official = (
            {"conv": "neck_conv", "bn": "neck_bn"} if prefix else {"fc": "fc.0", "bn": "fc.1"}
        )
        return f"{official.get(modules[0], modules[0])}.{leaf}"
    if part == "matcher":
        official = {"norm_in": "bn", "norm_out": "logit_bn"}
        return f"criterion.{official[modules[0]] if modules else 'fc'}.{leaf}"
    return ".".join([part, *modules, leaf])


def _resnet_module(name: str) -> str:
    name = re.sub(r"^(layer\d)_", r"\1.", name)
    return {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}.get(name, name)


def _osnet_module(name: str, *, ain: bool) -> str:
    if block := re.fullmatch(r"(conv[234])_(\d)", name):
        return f"{block[1]}.{block[2]}"
    if transition := re.fullmatch(r"pool([23])", name):
        return f"pool{transition[1]}.0" if ain else f"conv{transition[1]}.2.0"
    if stream := re.fullmatch(r"stream(\d)_(\d)", name):
        number, index = int(stream[1]), stream[2]
        if ain:
            return f"conv2.{number - 1}.layers.{index}"
        return "conv2a" if number == 1 else f"conv2{'abcd'[number - 1]}.{index}"
    return name


def official_shape(path: Path, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a variable in PyTorch's layout."""
    if path[0] == "matcher":
        # Weights by direction and position are one row in PyTorch.
        return (1, int(np.prod(shape))) if path[-1] == "weight" else (1,)
    if path[-1] != "kernel":
        return tuple(shape)
    # The gate's linear layers are 1x1 convolutions in PyTorch.
    ones = (1, 1) if "gate" in path else ()
    return tuple(shape[axis] for axis in _TO_PYTORCH[len(shape)]) + ones


def from_official(path: Path, tensor: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Convert a tensor in PyTorch's layout (`official_shape`) to a variable."""
    if path[-1] == "kernel":
        tensor = tensor.reshape(tensor.shape[:2]) if "gate" in path else tensor
        tensor = tensor.transpose(_FROM_PYTORCH[tensor.ndim])
    return np.asarray(tensor.reshape(shape), order="C")


def to_official(path: Path, array: np.ndarray) -> np.ndarray:
    """Convert a variable to a tensor in PyTorch's layout, the inverse of `from_official`."""
    shape = official_shape(path, array.shape)
    if path[-1] == "kernel":
        array = array.transpose(_TO_PYTORCH[array.ndim])
    return np.asarray(array.reshape(shape), order="C")


def official_shapes(model: Model, arch: str, *, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's variables in PyTorch's layout, by official name."""
    leaves = traverse_util.flatten_dict(abstract_variables(model)).items()
    return {
        official_name(path, arch, prefix=prefix): official_shape(path, leaf.shape)
        for (_, *path), leaf in leaves
    }
