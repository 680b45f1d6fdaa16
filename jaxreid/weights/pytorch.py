"""Weights of published PyTorch code as variables and back, with a report on every tensor.

A checkpoint is a mapping from official names (`layouts`) to NumPy arrays; `torch_checkpoint` reads
the files.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from jaxreid.models.backbones import resnet
from jaxreid.models.model import Model, abstract_variables, feature_shape, make_model
from jaxreid.names import check_name
from jaxreid.weights.layouts import ARCHITECTURES, LAYOUTS, layout_of
from jaxreid.weights.layouts.layout import Layout
from jaxreid.weights.layouts.qaconv import MEMORY
from jaxreid.weights.official import from_official, official_shape, to_official

_PUBLISHED = "those that are: " + ", ".join(each.title for each in LAYOUTS if each.rest)


@dataclasses.dataclass(frozen=True)
class Report:
    """Conversion report: the tensors of a checkpoint, by official name.

    Attributes:
        loaded: converted.
        missing: required by the model, but not in the checkpoint.
        unexpected: in the checkpoint, but unknown.
        mismatched: (name, shape in the checkpoint, expected shape).
        unused: known, but not needed: counters, ImageNet classes, layers after the cut, skipped
            names.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    unused: list[str]

    @property
    def complete(self) -> bool:
        """True if every required tensor was loaded and every tensor was known."""
        return not (self.missing or self.unexpected or self.mismatched)


@dataclasses.dataclass(frozen=True)
class Converted:
    """Result of `convert`.

    Attributes:
        variables: {"params", "batch_stats"}, and {"memory"} if requested and present.
        card: keywords of `make_model`.
        report: outcome for each tensor.
    """

    variables: dict[str, Any]
    card: dict[str, Any]
    report: Report


def convert(
    checkpoint: Mapping[str, np.ndarray],
    arch: str,
    *,
    cut: str | None = None,
    input_size: tuple[int, int] | None = None,
    normalisation: Mapping[str, Sequence[float]] | None = None,
    skip: Sequence[str] = (),
    memory: bool = False,
    card: Mapping[str, Any] | None = None,
) -> Converted:
    """Convert the tensors of a checkpoint to variables.

    Args:
        checkpoint: arrays by official name. Those of a matcher begin with "criterion.".
        arch: backbone, one of `ARCHITECTURES`.
        cut: cut of a QAConv model without a neck; with a neck, it follows from the neck's weights.
        input_size: (height, width) of the images; default: that of the published models.
        normalisation: {"mean", "std"} of the pixels; default: that of the published models.
        skip: official names, or prefixes of them, to leave out.
        memory: include the class memory of QAConv 1.x, regardless of `skip`.
        card: keywords of `make_model`, in place of `cut` and `input_size`, for a network that is in
            none of the published forms, such as a narrow one.

    Returns:
        The variables that could be converted. The caller decides whether the report is acceptable.

    Raises:
        ValueError: an unknown architecture, or a cut that contradicts the neck.
    """
    check_name(arch, ARCHITECTURES, "architecture")
    skip = tuple(skip)
    layout = layout_of(checkpoint, arch)
    try:
        card = dict(card or layout.card(checkpoint, arch, cut=cut, input_size=input_size))
    # Tensors of other axes than their names promise, or some of a list.
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"the names are those of {layout.title}, but its tensors are damaged or incomplete "
            f"({error!r}); save the checkpoint again."
        ) from error
    card |= dict(normalisation or {})
    if "classes" in card and "classifier.weight".startswith(skip):
        card["classes"] = 0
    variables: dict[tuple[str, ...], np.ndarray] = {}
    loaded, missing, mismatched, expected = [], [], [], set()
    model = make_model(**card)
    checkpoint, parts = layout.adapted(checkpoint, card), tuple(model.neck.features.parts)
    abstract = abstract_variables(model)
    for (collection, *path), leaf in traverse_util.flatten_dict(abstract).items():
        name, shape = layout.name(path, arch, parts), official_shape(path, leaf.shape)
        expected.add(name)
        if name.startswith(skip):
            continue
        if name not in checkpoint:
            missing.append(name)
        elif checkpoint[name].shape != shape:
            mismatched.append((name, checkpoint[name].shape, shape))
        else:
            loaded.append(name)
            variables[collection, *path] = from_official(path, checkpoint[name], leaf.shape)
    if memory:
        expected |= {name for name in MEMORY if name in checkpoint}
        h, w, d = feature_shape(model, abstract)
        feature = checkpoint.get("criterion.class_memory")
        if feature is None:
            missing.append("criterion.class_memory")
        elif feature.shape[1:] != (d, h, w):
            expected_shape = (len(feature), d, h, w)
            mismatched.append(("criterion.class_memory", feature.shape, expected_shape))
        else:
            loaded += [name for name in MEMORY if name in checkpoint]
            valid = checkpoint.get("criterion.valid_class", np.ones(len(feature)))
            variables["memory", "feature"] = np.asarray(feature.transpose(0, 2, 3, 1), order="C")
            variables["memory", "valid"] = valid > 0
    taken = {*loaded, *(name for name in expected if not name.startswith(skip))}
    rest = [name for name in checkpoint if name not in taken]
    ignorable = (*MEMORY, *skip)
    unused = [
        name
        for name in rest
        if name.endswith("num_batches_tracked")
        or name.startswith(ignorable)
        or re.match(rf"{layout.unused}|{_after(card)}", name)
        or re.match(layout.zeros, name)
        and not checkpoint[name].any()
    ]
    unexpected = [name for name in rest if name not in unused]
    report = Report(loaded, missing, unexpected, mismatched, unused)
    return Converted(traverse_util.unflatten_dict(variables), card, report)


def _after(card: Mapping[str, Any]) -> str:
    """Return a pattern of names of the layers after the cut of a ResNet."""
    cut = card["backbone"].get("cut", resnet.CUTS[-1])
    after = "|".join(layer for layer in resnet.CUTS if layer > cut)
    return rf"(base\.)?({after})\." if after else r"(?!)"


def published(variables: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a model's weights as the original code names them, the inverse of `convert`.

    Names of QAConv's matcher begin with "criterion.". What the original code has and never uses is
    there, too: counters, and of a ResNet the layers after the cut and the classifier, as zeros.

    Args:
        variables: {"params", "batch_stats"}.
        card: keywords of `make_model`.

    Raises:
        ValueError: no original code has such a model, or it is not written for its code.
    """
    arch = card["backbone"]["name"]
    if arch not in ARCHITECTURES:
        raise ValueError(f"the network {arch!r} has no official names; {_PUBLISHED}.")
    flat = traverse_util.flatten_dict({k: variables[k] for k in ("params", "batch_stats")})
    for layout in LAYOUTS:
        if layout.rest and (tensors := _named(flat, card, layout)) is not None:
            break
    else:
        neck, matcher = _kinds(card)
        raise ValueError(
            f"a model of {arch} with the neck {neck!r} and the matcher {matcher!r} is not written "
            f"under official names; {_PUBLISHED}."
        )
    tensors |= layout.rest(arch, tensors)
    for name in [name for name in tensors if name.endswith("running_mean")]:
        tensors[name.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    return tensors


def _named(
    flat: Mapping[tuple[str, ...], Any], card: Mapping[str, Any], layout: Layout
) -> dict[str, np.ndarray] | None:
    """Return variables by official name, or None if the code of a layout has no such model."""
    arch, model = card["backbone"]["name"], make_model(**card)
    if arch not in layout.backbones:
        return None
    parts = tuple(model.neck.features.parts)
    names = {path[1:]: layout.name(path[1:], arch, parts) for path in flat}
    tensors = {
        names[path[1:]]: to_official(path[1:], np.asarray(array, np.float32))
        for path, array in flat.items()
    }
    if layout_of(tensors, arch) is not layout:
        return None
    size = (card["height"], card["width"])
    try:
        converted = convert(tensors, arch, cut=card["backbone"].get("cut"), input_size=size)
    # Published networks take no images of this size, or are cut elsewhere.
    except ValueError:
        return None
    back = traverse_util.flatten_dict(converted.variables)
    same = back.keys() == flat.keys() and all(np.array_equal(back[k], flat[k]) for k in flat)
    theirs = make_model(**converted.card).backbone
    same &= all(getattr(theirs, k) == getattr(model.backbone, k) for k in theirs.IDENTITY)
    kinds = _kinds(converted.card) == _kinds(card)
    if not (converted.report.complete and same and kinds):
        return None
    inner = {name for path, name in names.items() if path[0] != "backbone"}
    return {name if name in inner else layout.outer + name: x for name, x in tensors.items()}


def published_network(arch: str) -> Model:
    """Return a backbone as published, with its neck, without a classifier."""
    return make_model(**layout_of((), arch).card({}, arch))


def _kinds(card: Mapping[str, Any]) -> tuple[str, str]:
    return card["neck"]["name"], card["matcher"]["name"]
