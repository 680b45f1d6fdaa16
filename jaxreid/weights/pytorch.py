"""Conversion of the original PyTorch weights: names, layouts, and a report on every tensor.

A checkpoint is a mapping from official names to NumPy arrays; `torch_checkpoint` reads the files.
Supported are the ImageNet weights of torchvision and of IBN-Net, torchreid's OSNet, and the models
of QAConv 1.0 to 2.1.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from flax import traverse_util

from jaxreid.models.backbones import osnet, resnet
from jaxreid.models.model import abstract_variables, feature_shape, make_model
from jaxreid.names import check_name

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# QAConv uses pixels in [0, 1] without normalisation.
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
MEMORY = ("criterion.class_memory", "criterion.valid_class")

# Backbones whose official names are known here.
ARCHITECTURES = (*resnet.FAMILY, *osnet.FAMILY)

# Modules that wrap others, anywhere in a name: data parallel, compiled, sharded, recomputed.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# A name of every ResNet, and of every OSNet; what precedes it is the prefix of the network.
ANCHORS = ("layer1.0.conv1.weight", "conv2.0.conv1.conv.weight")
# First words of official names.
_RESNET = {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}
_OSNET = {"conv2", "conv3", "conv4", "conv5", "pool2", "pool3", "classifier"}
_QACONV = {"base", "neck_conv", "neck_bn", "criterion"}
# Stage and block of a ResNet.
_BLOCK = re.compile(r"(?:base\.)?layer([1-4])\.(\d+)\.")

# Path of a variable, such as ("backbone", "layer1_0", "conv1", "kernel").
Path = tuple[str, ...]
T = TypeVar("T")


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
    inverse = (3, 2, 0, 1) if len(shape) == 4 else (1, 0)
    # The gate's linear layers are 1x1 convolutions in PyTorch.
    ones = (1, 1) if "gate" in path else ()
    return tuple(shape[axis] for axis in inverse) + ones


def from_official(path: Path, tensor: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Convert a tensor in PyTorch's layout (`official_shape`) to a variable."""
    if path[-1] == "kernel":
        tensor = tensor.reshape(tensor.shape[:2]) if "gate" in path else tensor
        tensor = tensor.transpose((2, 3, 1, 0) if tensor.ndim == 4 else (1, 0))
    return np.asarray(tensor.reshape(shape), order="C")


def to_official(path: Path, array: np.ndarray) -> np.ndarray:
    """Convert a variable to a tensor in PyTorch's layout, the inverse of `from_official`."""
    shape = official_shape(path, array.shape)
    if path[-1] == "kernel":
        array = array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0))
    return np.asarray(array.reshape(shape), order="C")


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
    arch = card["backbone"]["name"]
    kinds = card["neck"]["name"], card["matcher"]["name"]
    if arch not in ARCHITECTURES:
        raise ValueError(f"there is no published network {arch!r}; {_PUBLISHED}.")
    prefix = "base." if kinds == ("map", "qaconv") else ""
    flat = traverse_util.flatten_dict({k: variables[k] for k in ("params", "batch_stats")})
    tensors = {
        official_name(path, arch, prefix=prefix): to_official(path, np.asarray(array, np.float32))
        for (_, *path), array in flat.items()
    }
    size = (card["height"], card["width"])
    converted = convert(tensors, arch, cut=card["backbone"].get("cut"), input_size=size)
    back = traverse_util.flatten_dict(converted.variables)
    same = back.keys() == flat.keys() and all(np.array_equal(back[k], flat[k]) for k in flat)
    if not (converted.report.complete and same and kinds == _kinds(converted.card)):
        raise ValueError(
            f"no published code has {arch} with the neck {kinds[0]!r} and the matcher {kinds[1]!r} "
            f"of this model; {_PUBLISHED}."
        )
    if arch in resnet.FAMILY:
        tensors |= _unused(arch, prefix, tensors)
    for name in [name for name in tensors if name.endswith("running_mean")]:
        tensors[name.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    return tensors


_PUBLISHED = (
    "published are OSNet with its own neck, QAConv with the neck 'map' on a ResNet of full width, "
    "and ResNets of ImageNet"
)


def _kinds(card: Mapping[str, Any]) -> tuple[str, str]:
    return card["neck"]["name"], card["matcher"]["name"]


def _unused(arch: str, prefix: str, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return what a whole ResNet has beside some tensors: zeros, and variances of one."""
    whole = make_model(**_card({}, arch, "", None, None))
    rest = {}
    for (_, *path), leaf in traverse_util.flatten_dict(abstract_variables(whole)).items():
        name, shape = official_name(path, arch, prefix=prefix), official_shape(path, leaf.shape)
        if name not in tensors:
            make = np.ones if name.endswith("running_var") else np.zeros
            rest[name] = make(shape, np.float32)
    channels = feature_shape(whole, abstract_variables(whole))[0]
    rest[f"{prefix}fc.weight"] = np.zeros((1000, channels), np.float32)
    rest[f"{prefix}fc.bias"] = np.zeros(1000, np.float32)
    return rest


def without_wrappers(name: str) -> str:
    """Remove the names of wrappers from an official name."""
    return ".".join(word for word in name.split(".") if word not in WRAPPERS)


def owners(names: Iterable[str], skip: Sequence[str] = ()) -> list[str]:
    """List the prefixes of the networks in a checkpoint, such as "" or "model.backbone."."""
    clean = dict.fromkeys(map(without_wrappers, names))
    ends = {name: end for end in ANCHORS for name in clean if f".{name}".endswith(f".{end}")}
    return [n.removesuffix(end) for n, end in ends.items() if not n.startswith(tuple(skip))]


def unwrapped(
    checkpoint: Mapping[str, T], skip: Sequence[str] = ()
) -> tuple[dict[str, T], list[str]]:
    """Remove the prefixes that wrappers and other toolboxes put before official names.

    Names beside the network keep theirs. "base." remains for QAConv, which is recognised by its
    neck or matcher or by the absence of other parts.

    Args:
        checkpoint: values by name.
        skip: prefixes of names to leave out, which decides between several networks.

    Returns:
        The values by official name, and messages on what was removed.

    Raises:
        ValueError: several networks, or two tensors of one name; the message begins with a verb.
    """
    clean = _renamed(checkpoint, without_wrappers, skip)
    found = sorted({word for name in checkpoint for word in name.split(".") if word in WRAPPERS})
    messages = [f"names have the prefix '{word}.' of a wrapper; read without it" for word in found]
    networks = owners(clean, skip)
    if len(networks) > 1 and "" not in networks:
        raise ValueError(
            f"holds {len(networks)} networks, whose names begin with {', '.join(networks)}; leave "
            f"all but one out, as in --skip={networks[-1].rstrip('.')}."
        )
    prefix = "" if "" in networks else "".join(networks)
    if f".{prefix}".endswith(".base."):
        outer = prefix.removesuffix("base.")
        inside = {name.removeprefix(outer).split(".")[0] for name in clean}
        if inside <= _QACONV or inside & (_QACONV - {"base"}):
            prefix = outer
    if prefix:
        clean = _renamed(clean, lambda name: name.removeprefix(prefix), skip)
        messages.append(f"names begin with '{prefix}'; read without it")
    return clean, messages


def _renamed(
    checkpoint: Mapping[str, T], rename: Callable[[str], str], skip: Sequence[str]
) -> dict[str, T]:
    """Rename, where of two that get one name at most one is not skipped."""
    renamed: dict[str, tuple[str, T]] = {}
    for name, value in checkpoint.items():
        other = renamed.get(new := rename(name))
        if other and not any(n.startswith(tuple(skip)) for n in (name, other[0])):
            raise ValueError(
                f"holds both {other[0]} and {name}; leave one out with --skip={other[0]} or "
                f"--skip={name}."
            )
        if not other or other[0].startswith(tuple(skip)):
            renamed[new] = name, value
    return {name: value for name, (_, value) in renamed.items()}


def foreign(names: Iterable[str], skip: Sequence[str] = ()) -> list[str]:
    """List the first words of names that no supported network has."""
    rest = [name for name in names if not name.startswith(tuple(skip))]
    like = (
        _RESNET if any(name.startswith(ANCHORS[0]) for name in rest) else _OSNET | {"conv1", "fc"}
    )
    like = _RESNET | _QACONV if any(name.startswith("base.") for name in rest) else like
    return [word for word in dict.fromkeys(n.split(".")[0] for n in rest) if word not in like]


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


def fitting(
    checkpoint: Mapping[str, np.ndarray], *, skip: Sequence[str] = (), **options: Any
) -> list[str]:
    """List the architectures for which `convert` is complete, for an error; takes some seconds."""
    used = [name for name in checkpoint if not name.startswith(tuple(skip))]
    # The numbers of blocks rule out most ResNets before any of their networks is traced.
    blocks: dict[int, int] = {}
    for layer, index in (match.groups() for match in map(_BLOCK.match, used) if match):
        blocks[int(layer)] = max(blocks.get(int(layer), 0), int(index) + 1)
    if blocks:
        names = [
            name
            for name, of in resnet.FAMILY.items()
            if all(resnet.BLOCKS[of["depth"]][k - 1] == count for k, count in blocks.items())
        ]
    else:
        names = list(osnet.FAMILY)
    return [
        name for name in names if convert(checkpoint, name, skip=skip, **options).report.complete
    ]
