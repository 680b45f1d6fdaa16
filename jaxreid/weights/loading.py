"""Weights of a file in a model: what fits is loaded, the rest is reported or refused."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxreid.mesh import check_same_file
from jaxreid.models.model import abstract_variables, make_model
from jaxreid.weights.bundled import located
from jaxreid.weights.file import card_in, check_digest, check_finite, open_file, selection_in

PARTS = ("backbone", "neck", "matcher", "classifier", "memory")


def load_weights(
    path: str | pathlib.Path | None,
    model: Mapping[str, Any],
    *,
    skip: Sequence[str] = (),
    whole: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Load the variables of a weights file that fit a model.

    Args:
        path: path of the file; None loads nothing.
        model: keywords of `make_model`.
        skip: parts of the file to leave out: "neck", "matcher", "classifier", "memory".
        whole: require every variable of the model; otherwise parts other than the backbone may
            keep their initial values.

    Returns:
        A tree {"params", "batch_stats"} with some of the model's variables, and {"memory"} if the
        file holds one; messages on what was loaded and what was not.

    Raises:
        FileNotFoundError, ValueError: the file does not exist, is not a weights file of jaxreid,
            is damaged, or does not fit the model.
    """
    if path is None:
        return {}, []
    unknown = set(skip) - set(PARTS[1:])
    if unknown:
        raise ValueError(f"init_skip names {sorted(unknown)}; valid: {', '.join(PARTS[1:])}.")
    path = located(path)
    # A work directory is on a file system that all processes share.
    if not path.is_dir():
        check_same_file(path)
    with open_file(path) as file:
        card = card_in(file, path)
        if (stored := card["backbone"]["name"]) != (requested := model["backbone"]["name"]):
            raise ValueError(f"{path} holds the backbone {stored}, expected {requested}.")
        stored_model, requested_model = make_model(**card), make_model(**model)
        # Options may override the architecture that the backbone's name implies.
        for option in requested_model.backbone.IDENTITY:
            stored, requested = (
                getattr(m.backbone, option) for m in (stored_model, requested_model)
            )
            if stored != requested:
                raise ValueError(f"{path} has {option} {stored}, expected {requested}.")
        abstract = abstract_variables(requested_model)
        leaves = traverse_util.flatten_dict(abstract)
        expected = {key: leaf.shape for key, leaf in leaves.items() if key[1] not in skip}
        tensors = {tuple(name.split("/")): file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        # Parts of another kind do not fit: OSNet's neck cannot initialise QAConv's.
        incompatible = {p for p in ("neck", "matcher") if card[p]["name"] != model[p]["name"]}
        if card.get("classes", 0) != model.get("classes", 0):
            incompatible.add("classifier")
        tensors = {
            key: x for key, x in tensors.items() if _part(key) not in incompatible.union(skip)
        }
        matched = {key: tensors[key] for key in expected if key in tensors}
        missing = {key for key in expected if key not in tensors}
        absent = {_part(key) for key in missing} - {_part(key) for key in matched}
        problems = [
            f"{'/'.join(key)} is {shape} in the file, expected {expected[key]}"
            for key, part in matched.items()
            if (shape := tuple(part.get_shape())) != expected[key]
        ] + [
            f"{'/'.join(key)} is not in the file"
            for key in sorted(missing)
            if whole or _part(key) == "backbone" or _part(key) not in absent
        ]
        if problems:
            raise ValueError(_misfit(path, problems, card, model, whole=whole))
        memory = {key: part for key, part in tensors.items() if key[0] == "memory"}
        check_digest(file, path)
        selection = selection_in(file)
        variables = {
            key: _as_type(file.get_tensor("/".join(key)), leaves.get(key), key, path)
            for key in matched | memory
        }
    check_finite({"/".join(key): x for key, x in variables.items()}, f"{path} is refused")
    unused = [key for key in tensors if key not in variables]
    messages = [f"{path}: {_summary(variables)} loaded"]
    if selection is not None:
        messages.append(
            f"WARNING: {path} was {selection.sentence}; its results on {selection.set} are "
            "optimistic"
        )
    if missing:
        messages.append(f"not in the file, newly initialised: {', '.join(sorted(absent))}")
    if unused:
        messages.append(f"in the file, not used: {_summary(dict.fromkeys(unused))}")
    messages += [
        f"{p} not loaded, because it is of another kind ({card[p]['name']})"
        for p in sorted(incompatible - {"classifier"})
    ]
    if classes := card.get("classes"):
        if "classifier" in incompatible:
            messages.append(f"classifier not loaded, because it has {classes} classes")
        elif any(_part(key) == "classifier" for key in variables):
            messages.append(f"classifier loaded, because the number of classes matches ({classes})")
    for setting in ("height", "width", "mean", "std", "interpolation"):
        stored = card.get(setting, "bicubic")
        requested = model.get(setting, stored)
        if np.any(np.asarray(stored) != np.asarray(requested)):
            messages.append(f"{setting} of its images was {stored}, is now {requested}")
    for part in sorted({"neck", "matcher"} & {_part(key) for key in variables}):
        for option, requested in json.loads(json.dumps(dict(model[part]))).items():
            if (stored := card[part].get(option, requested)) != requested:
                messages.append(f"{part}.{option} was {stored}, is now {requested}")
    return traverse_util.unflatten_dict(variables), messages


def _as_type(
    tensor: np.ndarray, leaf: Any, key: tuple[str, ...], path: str | pathlib.Path
) -> np.ndarray:
    """Return a tensor in at least the precision of the model's variable `leaf`."""
    if leaf is None:
        return tensor
    if not jax.numpy.issubdtype(tensor.dtype, jax.numpy.floating):
        raise ValueError(
            f"{path} holds {'/'.join(key)} as {tensor.dtype}, expected {leaf.dtype}; convert the "
            "original weights again."
        )
    return tensor.astype(np.promote_types(tensor.dtype, leaf.dtype), copy=False)


def _part(key: tuple[str, ...]) -> str:
    return "memory" if key[0] == "memory" else key[min(1, len(key) - 1)]


def _summary(keys: Mapping[tuple[str, ...], Any]) -> str:
    parts = [_part(key) for key in keys]
    return ", ".join(f"{part} ({parts.count(part)} tensors)" for part in PARTS if part in parts)


def _misfit(
    path: str | pathlib.Path,
    problems: Sequence[str],
    card: Mapping[str, Any],
    model: Mapping[str, Any],
    *,
    whole: bool,
) -> str:
    stored, requested = (
        traverse_util.flatten_dict(json.loads(json.dumps(dict(keywords))), sep=".")
        for keywords in (card, model)
    )
    differences = [
        f"model.{key} is {stored[key]} in the file, expected {requested[key]}"
        for key in stored
        if key in requested and stored[key] != requested[key]
    ]
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    reason = "; ".join(differences) or "no setting differs: something was skipped in the conversion"
    parts = sorted({problem.split("/")[1] for problem in problems})
    advice = "Use the file's settings"
    if whole:
        advice = "Convert the whole checkpoint again; this file can only start a training"
    elif "backbone" not in parts:
        advice += f', or leave out what does not fit: --config.init_skip="{tuple(parts)}"'
    return f"{path} does not fit the model: {problems[0]}{more}. ({reason}.) {advice}."
