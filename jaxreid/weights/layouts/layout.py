"""Layout: how one published code names the variables of its models."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from jaxreid.models.model import Model, abstract_variables
from jaxreid.weights.official import Path, official_shape

Tensors = Mapping[str, np.ndarray]
# Substitutions (pattern, replacement) in a dotted path, one after the other.
Rules = Sequence[tuple[str, str]]

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
# Pixels in [0, 1] without normalisation.
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names of one published code, and the models that its checkpoints hold.

    Attributes:
        title: the code, for messages.
        backbones: names of backbones that it has.
        card: called as `card(tensors, arch, cut=..., input_size=...)` with the tensors of a
            checkpoint by official name, returns the keywords of `make_model`; ValueError for a cut
            that contradicts the tensors. Without tensors, the model as published.
        rules: called with the backbone's name and the names of the neck's parts, returns the
            substitutions that make an official name of a path whose leaf is already official, such
            as "backbone.layer1_0.conv1.weight".
        outer: prefix of the backbone's names in files, if `state_dict.unwrapped` removes it.
        sign: pattern of a name that only checkpoints of this code have; "" for any checkpoint.
        unused: pattern of names that the model does not need.
        zeros: pattern of names of tensors that the model lacks because they are all 0.
        adapted: called with tensors and card, returns the tensors of a model of that size.
        rest: called with the backbone's name and the tensors of a model, returns the tensors that
            a published file has besides them; None if models are not written in this layout.
    """

    title: str
    backbones: Collection[str]
    card: Callable[..., dict[str, Any]]
    rules: Callable[[str, Sequence[str]], Rules]
    outer: str = ""
    sign: str = ""
    unused: str = r"(?!)"
    zeros: str = r"(?!)"
    adapted: Callable[[Tensors, Mapping[str, Any]], Tensors] = lambda tensors, _: tensors
    rest: Callable[[str, Tensors], dict[str, np.ndarray]] | None = None

    def holds(self, names: Collection[str], arch: str) -> bool:
        """Return whether a checkpoint with these names is of this code."""
        return arch in self.backbones and any(re.match(self.sign, name) for name in names or ("",))

    def name(self, path: Path, arch: str, parts: Sequence[str] = ()) -> str:
        """Return the official name of a variable.

        Args:
            path: path of the variable, without its collection.
            arch: name of the backbone.
            parts: names of the neck's parts, in order.
        """
        *modules, leaf = path
        name = ".".join([*modules, _LEAVES.get(leaf, leaf)])
        for pattern, replacement in self.rules(arch, parts):
            name = re.sub(pattern, replacement, name)
        return name

    def shapes(self, model: Model, arch: str) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a model's variables in PyTorch, by official name."""
        parts = tuple(model.neck.features.parts)
        return {
            self.name(path, arch, parts): official_shape(path, leaf.shape)
            for (_, *path), leaf in traverse_util.flatten_dict(abstract_variables(model)).items()
        }


def classes_of(tensors: Tensors) -> int:
    """Return the number of classes of a classifier with a bias; 0 without one."""
    return len(tensors["classifier.bias"]) if "classifier.bias" in tensors else 0
