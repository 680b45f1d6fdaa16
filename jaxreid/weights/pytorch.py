"""Weights of published PyTorch code as variables and back, with a report on every tensor.

A checkpoint is a mapping from official names (`official`) to NumPy arrays; `torch_checkpoint` reads
the files. Supported are the ImageNet weights of torchvision and of IBN-Net, torchreid's OSNet, and
the models of QAConv 1.0 to 2.1.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from jaxreid.models.backbones import resnet
from jaxreid.models.model import Model, abstract_variables, feature_shape, make_model
from jaxreid.names import check_name
from jaxreid.weights.official import (
    ARCHITECTURES,
    from_official,
    official_name,
    official_shape,
    official_shapes,
    to_official,
)

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# QAConv uses pixels in [0, 1] without normalisation.
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
MEMORY = ("criterion.class_memory", "criterion.valid_class")
_PUBLISHED = (
    "published are OSNet with its own neck, QAConv with the neck 'map' on a ResNet of full width, "
    "and ResNets of ImageNet"
)


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
) -> Converted:
    """Convert the tensors of a checkpoint to variables.

    Args:
        checkpoint: arrays by official name. Names of QAConv's backbone begin with "base.", those
            of its matcher with "criterion.".
        arch: backbone, one of `ARCHITECTURES`.
        cut: cut of a QAConv model without a neck; with a neck, it follows from the neck's weights.
        input_size: (height, width) of the images; default 384x128 for QAConv, 256x128 for OSNet,
            224x224 for ImageNet weights of a ResNet.
        normalisation: {"mean", "std"} of the pixels; default none for QAConv, otherwise ImageNet's.
        skip: official names, or prefixes of them, to leave out.
        memory: include the class memory of QAConv 1.x, regardless of `skip`.

    Returns:
        The variables that could be converted. The caller decides whether the report is acceptable.

    Raises:
        ValueError: an unknown architecture, or a cut that contradicts the neck.
    """
    check_name(arch, ARCHITECTURES, "architecture")
    skip = tuple(skip)
    prefix = "base." if any(name.startswith("base.") for name in checkpoint) else ""
    card = _card(checkpoint, arch, prefix, cut, input_size) | dict(normalisation or {})
    if "classes" in card and "classifier.weight".startswith(skip):
        card["classes"] = 0
    variables: dict[tuple[str, ...], np.ndarray] = {}
    loaded, missing, mismatched, expected = [], [], [], set()
    model = make_model(**card)
    abstract = abstract_variables(model)
    for (collection, *path), leaf in traverse_util.flatten_dict(abstract).items():
        name, shape = official_name(path, arch, prefix=prefix), official_shape(path, leaf.shape)
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
    ignorable = (*MEMORY, f"{prefix}fc.", *_after(card, prefix), *skip)
    unused = [n for n in rest if n.endswith("num_batches_tracked") or n.startswith(ignorable)]
    unexpected = [name for name in rest if name not in unused]
    report = Report(loaded, missing, unexpected, mismatched, unused)
    return Converted(traverse_util.unflatten_dict(variables), card, report)


def _card(
    checkpoint: Mapping[str, np.ndarray],
    arch: str,
    prefix: str,
    cut: str | None,
    input_size: tuple[int, int] | None,
) -> dict[str, Any]:
    """Derive the keywords of `make_model` from the checkpoint, as far as possible."""
    if prefix:
        height, width = input_size or (384, 128)
        neck: dict[str, Any] = {"name": "map", "channels": 0, "norm": "none"}
        if "neck_conv.weight" in checkpoint:
            channels, inputs = checkpoint["neck_conv.weight"].shape[:2]
            norm = "batch" if "neck_bn.weight" in checkpoint else "none"
            neck |= {"channels": channels, "norm": norm}
            wide = 4 if resnet.FAMILY.get(arch, {"depth": 50})["depth"] >= 50 else 1
            after = {128: "layer2", 256: "layer3", 512: "layer4"}.get(inputs // wide, cut)
            if cut not in (None, after):
                raise ValueError(f"cut is {cut}, but the neck in the file is after {after}.")
            cut = after
        cut = cut or "layer3"
        stride = resnet.ResNet(cut=cut).stride
        positions = -(-height // stride) * -(-width // stride)
        weights = checkpoint.get("criterion.fc.weight", np.zeros((1, 0))).shape[-1]
        # Version 2.1 dropped the neck's normalisation and the second half of the head.
        old = neck["norm"] == "batch" if neck["channels"] else weights == 2 * positions
        return {
            "backbone": {"name": arch, "cut": cut} if arch in resnet.FAMILY else {"name": arch},
            "neck": neck,
            "matcher": {"name": "qaconv", "head": "v1" if old else "v2.1"},
            "height": height,
            "width": width,
            **RAW,
        }
    if arch in resnet.FAMILY:
        height, width = input_size or (224, 224)
        return {
            "backbone": {"name": arch},
            "neck": {"name": "pooled", "pool": "average", "bn": False},
            "matcher": {"name": "embedding", "metric": "cosine"},
            "height": height,
            "width": width,
            "interpolation": "bilinear",
            **IMAGENET,
        }
    height, width = input_size or (256, 128)
    classifier = checkpoint.get("classifier.weight")
    return {
        "backbone": {"name": arch},
        "neck": {"name": "linear"},
        # As for the published results: cosine distance for OSNet-AIN, otherwise Euclidean.
        "matcher": {"name": "embedding", "metric": "cosine" if "_ain_" in arch else "euclidean"},
        "classes": 0 if classifier is None else len(classifier),
        "height": height,
        "width": width,
        "interpolation": "bilinear",
        **IMAGENET,
    }


def _after(card: Mapping[str, Any], prefix: str) -> list[str]:
    """Return the name prefixes of the layers after the cut."""
    cut = card["backbone"].get("cut", "layer4")
    return [f"{prefix}{layer}." for layer in resnet.CUTS if layer > cut]


def published(variables: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a model's weights as the original code names them, the inverse of `convert`.

    Names of QAConv's matcher begin with "criterion.". What the original code has and never uses is
    there, too: counters, and of a ResNet the layers after the cut and the classifier, as zeros.

    Args:
        variables: {"params", "batch_stats"}.
        card: keywords of `make_model`.

    Raises:
        ValueError: no original code has such a model.
    """
    arch, kinds = card["backbone"]["name"], _kinds(card)
    if arch not in ARCHITECTURES:
        raise ValueError(f"the network {arch!r} is not published; {_PUBLISHED}.")
    unpublished = ValueError(
        f"no published code has {arch} with the neck {kinds[0]!r} and the matcher {kinds[1]!r} "
        f"of this model; {_PUBLISHED}."
    )
    prefix = "base." if kinds == ("map", "qaconv") else ""
    # Variables of other necks and matchers have no official names.
    if kinds != _kinds(_card({}, arch, prefix, None, None)):
        raise unpublished
    flat = traverse_util.flatten_dict({k: variables[k] for k in ("params", "batch_stats")})
    tensors = {
        official_name(path, arch, prefix=prefix): to_official(path, np.asarray(array, np.float32))
        for (_, *path), array in flat.items()
    }
    size = (card["height"], card["width"])
    try:
        converted = convert(tensors, arch, cut=card["backbone"].get("cut"), input_size=size)
    # Published networks take no images of this size, or are cut elsewhere.
    except ValueError as error:
        raise unpublished from error
    back = traverse_util.flatten_dict(converted.variables)
    same = back.keys() == flat.keys() and all(np.array_equal(back[k], flat[k]) for k in flat)
    if not (converted.report.complete and same):
        raise unpublished
    if arch in resnet.FAMILY:
        tensors |= _unused(arch, prefix, tensors)
    for name in [name for name in tensors if name.endswith("running_mean")]:
        tensors[name.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    return tensors


def published_network(arch: str) -> Model:
    """Return a backbone as published, with its neck, without a classifier."""
    return make_model(**_card({}, arch, "", None, None))


def _kinds(card: Mapping[str, Any]) -> tuple[str, str]:
    return card["neck"]["name"], card["matcher"]["name"]


def _unused(arch: str, prefix: str, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return what a whole ResNet has beside some tensors: zeros, and variances of one."""
    whole = published_network(arch)
    rest = {}
    for name, shape in official_shapes(whole, arch, prefix=prefix).items():
        if name not in tensors:
            make = np.ones if name.endswith("running_var") else np.zeros
            rest[name] = make(shape, np.float32)
    channels = feature_shape(whole, abstract_variables(whole))[0]
    rest[f"{prefix}fc.weight"] = np.zeros((1000, channels), np.float32)
    rest[f"{prefix}fc.bias"] = np.zeros(1000, np.float32)
    return rest
