"""Settings of a run that may change: when it is resumed, and after values that are not finite."""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from jaxreid.runs.settings import leaves

# Path of a setting, its value in the run, and another one.
Change = tuple[str, Any, Any]

# Settings that a resumed run may change, because training does not depend on them. Exceptions: the
# batch and tile sizes of eval may change the last bits of the scores in a class graph, and
# augment.on those of a training step: the images are the same to the bit, but the device compiles
# another program.
FREE = (
    "data.dir",
    "data.prepared_dir",
    "data.skip_broken",
    "data.test",
    "eval",
    "checkpoint",
    "log",
    "sampler.save_graph",
    "init_expects",
    "augment.on",
    "remat",
)
# Settings that a run may also change after a loss or weights that were not finite.
REMEDIES = (
    "optim.lr",
    "optim.backbone_lr",
    "optim.clip_norm",
    "optim.weight_decay",
    "optim.eps",
    "precision",
)


def is_free(key: str, old: Any, new: Any) -> bool:
    """Return whether a resumed run may change a setting."""
    if key == "data.train":  # the images may have moved
        return without_places(old) == without_places(new)
    return any(key == free or key.startswith(free + ".") for free in FREE)


def trained_with(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a training depends on but for its seed, by path."""
    plain = json.loads(json.dumps(config))
    held = {path: value for path, value in leaves(plain) if path != "seed"}
    if "data.train" in held:
        held["data.train"] = without_places(held["data.train"])
    return {path: value for path, value in held.items() if not is_free(path, value, None)}


def without_places(names: str | Sequence[str] | None) -> str | list[str] | None:
    """Return names of data sets without their places: "market1501" for "market1501:/data/market".

    Their content is compared by its digest.
    """
    if names is None or isinstance(names, str):
        return names and re.sub(r"^([^:?]*):[^?]*", r"\1", names)
    return [without_places(name) for name in names]


def cures(change: Change) -> bool:
    """Return whether a run may change a setting after values that are not finite."""
    key, old, new = change
    # An optimizer without clipping has a state of another structure.
    return key in REMEDIES and (key != "optim.clip_norm" or bool(old) == bool(new))


def differences(old: Any, new: Any, key: str = "") -> list[Change]:
    """Return the settings in which two configurations differ, below `key`."""
    if isinstance(old, dict) and isinstance(new, dict):
        changes = []
        for name in sorted(old.keys() | new.keys()):
            inner = f"{key}.{name}" if key else name
            changes += differences(old.get(name), new.get(name), inner)
        return changes
    return [] if old == new else [(key, old, new)]


def refusal(path: pathlib.Path, changes: Sequence[Change]) -> str:
    """Return a message on settings that a run with checkpoints cannot change."""
    lines = [f"  {key}: {old!r} in the run, {new!r} now" for key, old, new in changes]
    advice = "Use the same configuration to resume it, or another --workdir."
    if any(key == "epochs" for key, *_ in changes):
        advice = (
            "The learning rate depends on the number of epochs, so a run cannot be extended. Use "
            "the same configuration to resume it. To train on from its weights, start another "
            f"run: --workdir=ANOTHER --config.init_from={path}"
        )
    title = f"work directory {path} holds a run with another configuration:"
    return "\n".join([title, *lines, advice])
