"""The state dict of a network in a checkpoint: its section, and prefixes of official names."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

# Keys that lead to a dictionary in a checkpoint, and a dictionary of tensors.
Place = tuple[str, ...]
Section = dict[str, Any]
T = TypeVar("T")

# Levels of dictionaries in a training checkpoint.
_DEPTH = 6
# Modules that wrap others, anywhere in a name: data parallel, compiled, sharded, recomputed.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# A name of every ResNet, OSNet, ViT and CLIP; what precedes it is the prefix of the network.
ANCHORS = (
    "layer1.0.conv1.weight",
    "conv2.0.conv1.conv.weight",
    "blocks.0.attn.qkv.weight",
    "visual.ln_pre.weight",
)
# First words of official names.
_RESNET = {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}
_OSNET = {"conv2", "conv3", "conv4", "conv5", "pool2", "pool3", "classifier"}
_VIT = {"cls_token", "pos_embed", "register_tokens", "patch_embed", "blocks", "norm", "head"}
_QACONV = {"base", "neck_conv", "neck_bn", "scaleLayers", "encoder", "criterion"}


def network_of(content: Mapping[Any, Any]) -> tuple[Section, list[str]]:
    """Choose the section of a checkpoint that holds its network.

    The section may be the checkpoint itself. That of averaged or teacher weights is taken if there
    is nothing else; names of the section "criterion" beside it get the prefix "criterion.".

    Returns:
        Tensors by name, {} if there are none, and messages on the sections.
    """
    sections = dict(_sections(content))
    if not sections:
        return {}, []
    networks = [place for place, section in sections.items() if owners(section)]
    place = min(networks or sections, key=_rank)
    chosen = sections[place]
    if place and (criterion := sections.get((*place[:-1], "criterion"))):
        # QAConv's losses hold their matcher under this name; in early versions, the loss is the
        # matcher.
        names = {name: without_wrappers(name).removeprefix("matcher.") for name in criterion}
        chosen = chosen | {f"criterion.{new}": criterion[name] for name, new in names.items()}
    messages = [f"the weights are in its section {'.'.join(place)!r}"] if place else []
    if others := [".".join(other) for other in networks if other != place]:
        messages.append(
            f"other sections with weights are not used: {', '.join(others)} (save one alone to "
            "convert it)"
        )
    return chosen, messages


def _sections(content: Mapping[Any, Any], place: Place = ()) -> Iterable[tuple[Place, Section]]:
    """Yield the dictionaries of tensors with their keys, outer ones first."""
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and (isinstance(value, np.ndarray) or hasattr(value, "detach"))
    }
    if tensors:
        yield place, tensors
    for name, value in content.items():
        if isinstance(value, Mapping) and len(place) < _DEPTH:
            yield from _sections(value, (*place, str(name)))


def _rank(place: Place) -> tuple[bool, int]:
    """Return the order in which a section is taken for the model; averages and teachers last."""
    words = set(re.split(r"[._]", ".".join(place).lower()))
    usual = ("state_dict", "model")
    first = next((i for i, name in enumerate(usual) if name in place), len(usual))
    other = not words.isdisjoint({"ema", "swa", "teacher", "optimizer", "optim", "criterion"})
    return other, first


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
    used = sorted({word for name in checkpoint for word in name.split(".") if word in WRAPPERS})
    messages = [f"names have the prefix '{word}.' of a wrapper; read without it" for word in used]
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
    families = {"base.": _RESNET | _QACONV, ANCHORS[0]: _RESNET, ANCHORS[2]: _VIT}
    fitting = (words for start, words in families.items() if any(n.startswith(start) for n in rest))
    like = next(fitting, _OSNET | {"conv1", "fc"})
    return [word for word in dict.fromkeys(n.split(".")[0] for n in rest) if word not in like]
