"""Settings of a configuration, and their valid values.

A configuration is a dictionary of sections. These checks need neither data nor a model, so mistakes
are reported before anything is loaded. Backbone, neck, matcher and objective check their own
options.
"""

import importlib.util
import math
from collections.abc import Iterator, Mapping
from typing import Any

from jaxreid.names import check_name
from jaxreid.runs.rules import Choice, Flag, Names, Number, Numbers, Options, Text

# Values of `jax.default_matmul_precision`.
PRECISIONS = ("default", "high", "highest", "fastest", "bfloat16", "tensorfloat32", "float32")
COUNT, SIZE = Number(0, whole=True), Number(1, whole=True)
# Whole numbers and others that the arrays of a run can hold: int32 and float32.
LARGEST, LARGEST_FLOAT, SMALLEST_FLOAT = 2**31 - 1, 3.4e38, 1.2e-38
# Largest values where arrays of that size are made.
LIMITS = {
    "epochs": 1_000_000,
    "model.height": 4096,
    "model.width": 4096,
    "augment.pad": 4096,
    "eval.batch_size": 1_000_000,
    "eval.query_tile": 1_000_000,
    "eval.gallery_tile": 1_000_000,
}
SHARE = Number(0, 1)
# Shares of a mean that the next value of it keeps: with all of it, nothing would be learned.
DECAY = Number(0, 1, below=True)
FACTORS = Numbers(Number(0), (0.5, 2.0), rising=True)

RULES = {
    "seed": Number(0, LARGEST, whole=True),
    "precision": Choice(PRECISIONS),
    "remat": Flag(),
    "ema": DECAY,
    "batch_size": SIZE,
    "epochs": SIZE,
    "freeze_epochs": COUNT,
    "init_from": Text("resnet50.safetensors", none=True),
    "init_skip": Names("matcher", empty=True),
    "init_expects": Text("ImageNet", empty=True),
    "data.train": Names("market1501", single=True),
    "data.test": Names("market1501"),
    "data.dir": Text("/data/market1501", none=True),
    "data.prepared_dir": Text("/data/tfds", none=True),
    "data.identities": COUNT,
    "data.skip_broken": Flag(),
    "model.height": Number(1, LIMITS["model.height"], whole=True),
    "model.width": Number(1, LIMITS["model.width"], whole=True),
    # Of pixels from 0 to 1, and not to 255.
    "model.mean": Numbers(SHARE, (0.485, 0.456, 0.406)),
    "model.std": Numbers(Number(0, 1, above=True), (0.229, 0.224, 0.225)),
    "model.interpolation": Text("bicubic"),
    "model.freeze_stats": Flag(),
    "model.dtype": Text("float32"),
    "model.backbone": Options("resnet50"),
    "model.neck": Options("map"),
    "model.matcher": Options("qaconv"),
    "objective": Options("class_memory"),
    "sampler.name": Text("random"),
    "sampler.instances": SIZE,
    "sampler.quota": Numbers(SIZE, (16, 16), any_length=True),
    "sampler.alternate": Flag(),
    "sampler.graph_window": Numbers(SIZE, (2, 2)),
    "sampler.save_graph": Flag(),
    "optim.name": Text("sgd"),
    "optim.lr": Number(0, above=True),
    "optim.backbone_lr": Number(0),
    "optim.momentum": DECAY,
    "optim.nesterov": Flag(),
    "optim.betas": Numbers(DECAY, (0.9, 0.999)),
    "optim.eps": Number(0, above=True),
    "optim.weight_decay": Number(0),
    "optim.clip_norm": Number(0),
    "schedule.name": Text("step"),
    "schedule.step_epochs": COUNT,
    "schedule.drop_epochs": Numbers(SIZE, (30, 50), rising=True, any_length=True),
    "schedule.factor": Number(0, 1, above=True),
    "schedule.warmup_steps": COUNT,
    "schedule.warmup_epochs": COUNT,
    "schedule.per_epoch": Flag(),
    "schedule.threshold": Number(0, above=True),
    "augment.flip": SHARE,
    "augment.pad": COUNT,
    "augment.rotation": Number(0, 180),
    "augment.brightness": FACTORS,
    "augment.contrast": FACTORS,
    "augment.saturation": FACTORS,
    "augment.hue": Numbers(Number(-0.5, 0.5), (-0.1, 0.1), rising=True),
    "augment.occlusion": Numbers(SHARE, (0.0, 0.8), rising=True),
    "augment.translation": SHARE,
    "augment.patch": SHARE,
    "augment.erasing": SHARE,
    "augment.after_accuracy": SHARE,
    "augment.on": Choice(("auto", "host", "device")),
    "eval.batch_size": SIZE,
    "eval.query_tile": SIZE,
    "eval.gallery_tile": SIZE,
    "eval.dtype": Text("float32"),
    "eval.precision": Choice(PRECISIONS),
    "eval.memory": Number(0),
    "eval.memory_dir": Text("/scratch", none=True),
    "eval.flip": Flag(),
    "eval.junk": Text("auto"),
    "eval.average_precision": Text("standard"),
    "eval.rerank": Flag(),
    "eval.rerank_options": Options(),
    "eval.tlift": Flag(),
    "eval.tlift_options": Options(),
    "eval.shortlist": COUNT,
    "eval.shortlist_window": Numbers(SIZE, (2, 4)),
    "eval.expand": COUNT,
    "eval.expand_alpha": Number(0),
    "eval.multi_query": Text("mean"),
    "eval.every_epochs": COUNT,
    "eval.untrained": Flag(),
    "eval.pictures": COUNT,
    "checkpoint.every_steps": SIZE,
    "checkpoint.keep": SIZE,
    "checkpoint.keep_every": COUNT,
    "checkpoint.best": Text("synthetic_people/mall:mAP", empty=True),
    "log.every_steps": SIZE,
    "log.profile": COUNT,
}
# Optional settings inside option dictionaries, checked only if present.
OPTIONS = {
    "eval.rerank_options.k1": SIZE,
    "eval.rerank_options.k2": SIZE,
    "eval.rerank_options.weight": SHARE,
    "eval.tlift_options.tau": Number(0, above=True),
    "eval.tlift_options.sigma": Number(0, above=True),
    "eval.tlift_options.k": SIZE,
    "eval.tlift_options.alpha": Number(0),
}
# Defaults of settings that older configurations lack.
OPTIONAL = {
    "init_expects": "",
    "remat": False,
    "ema": 0.0,
    "data.skip_broken": False,
    "augment.on": "auto",
    "eval.untrained": True,
    "eval.precision": "highest",
    "eval.memory": 0.0,
    "eval.memory_dir": None,
    "checkpoint.best": "",
    "eval.expand": 0,
    "eval.expand_alpha": 3.0,
    "eval.multi_query": "none",
    "log.profile": 0,
}
# Settings that may be missing, because the function that takes them has a default.
ABSENT = ("schedule.warmup_epochs",)


def resolved(config: Any) -> dict[str, Any]:
    """Return a configuration as plain data, after checking every setting.

    Args:
        config: ConfigDict or dictionary of sections; lists become tuples, since JSON has no tuples.

    Raises:
        ValueError: a setting is missing, unknown or out of its range; the message gives its path
            and the expected value.
    """
    config = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(config, Mapping):
        raise ValueError(
            f"the configuration is {config!r}; expected a dictionary of settings, such as "
            "jaxreid.configs.get('qaconv')."
        )
    config = with_defaults(config)
    check_sections(config)
    for path, value in leaves(config):
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_width(path, number)
    for path, rule in (RULES | OPTIONS).items():
        value = value_at(config, path)
        if not rule.holds(value) and not (value is None and path in (*ABSENT, *OPTIONS)):
            raise ValueError(f"{path} is {value!r}; expected {rule}.")
    if config["freeze_epochs"] > config["epochs"]:
        raise ValueError(
            f"freeze_epochs is {config['freeze_epochs']} of {config['epochs']} epochs; expected at "
            "most the number of epochs, because it counts the first of them."
        )
    return config


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration with the settings that older ones lack."""
    config = _plain(config)
    for path, value in OPTIONAL.items():
        section, _, name = path.rpartition(".")
        parent = config.get(section, {}) if section else config
        if isinstance(parent, dict):
            parent.setdefault(name, value)
    return config


def _check_width(path: str, number: int | float) -> None:
    """Raise ValueError for a number that is too large for its arrays, or for 32 bits."""
    if isinstance(number, int):
        if abs(number) > (limit := LIMITS.get(path, LARGEST)):
            # Python prints numbers of up to 4,300 digits.
            shown = number if abs(number) < 10**20 else "a number of more than 20 digits"
            raise ValueError(f"{path} is {shown}; expected at most {limit:,}.")
    elif not math.isfinite(number):
        raise ValueError(f"{path} is {number}; expected {Number()}.")
    elif number and not SMALLEST_FLOAT <= abs(number) <= LARGEST_FLOAT:
        raise ValueError(
            f"{path} is {number}; expected 0 or a size from {SMALLEST_FLOAT} to {LARGEST_FLOAT}, "
            "which 32 bits can hold."
        )


def check_section(name: str, values: Mapping[str, Any]) -> None:
    """Raise ValueError for a value of a section that breaks its rule; other names are ignored."""
    for path, value in ((f"{name}.{key}", _plain(value)) for key, value in values.items()):
        if path in RULES and not RULES[path].holds(value):
            raise ValueError(f"{path} is {value!r}; expected {RULES[path]}.")


def check_sections(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a missing or unknown setting."""
    known = {path.partition(".")[0] for path in RULES}
    for section in dict.fromkeys([*known, *config]):
        check_name(section, known, "setting")
        if section not in config:
            raise ValueError(
                f"the configuration has no {section}; start from a recipe, such as "
                "jaxreid.configs.get('qaconv')."
            )
        names = [path.partition(".")[2] for path in RULES if path.startswith(section + ".")]
        if not names:
            continue
        if not isinstance(config[section], dict):
            raise ValueError(
                f"{section} is {config[section]!r}; expected a dictionary of settings."
            )
        for name in config[section]:
            check_name(f"{section}.{name}", [f"{section}.{n}" for n in names], "setting")
        for name in names:
            path = f"{section}.{name}"
            if name not in config[section] and path not in ABSENT:
                raise ValueError(
                    f"the configuration has no {path}; start from a recipe, such as "
                    "jaxreid.configs.get('qaconv')."
                )


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """Return the setting at a dotted path; None if there is not one."""
    for name in path.split("."):
        # A ConfigDict is not a Mapping.
        if not hasattr(config, "keys") or name not in config:
            return None
        config = config[name]
    return config


def start_message(expected: str, backbone: str) -> str:
    """Return a warning for a run that starts from random weights although its recipe does not.

    `expected` is the setting `init_expects`, such as "ImageNet".
    """
    return (
        f"WARNING: this recipe starts from {expected} weights of {backbone}, but init_from is not "
        "set. It does not reach the published accuracy from random weights. Set "
        f"--config.init_from={backbone}.safetensors (which `jaxreid convert {backbone}.pth "
        f"--arch={backbone} --out={backbone}.safetensors` writes from PyTorch weights), or use "
        "the recipe's option small, which is meant for random weights."
    )


def check_tensorflow() -> None:
    """Raise ModuleNotFoundError, with the install command, if training cannot read its data."""
    for name in ("tensorflow", "tensorflow_datasets"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(
                f"training reads its data with {name}, which is not installed: "
                "pip install 'jaxreid[train]'"
            )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(one) for one in value)
    return value.item() if type(value).__module__ == "numpy" and value.ndim == 0 else value


def leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting as (path, value), including options inside dictionaries."""
    if not hasattr(config, "keys"):
        yield path, config
        return
    # Not items(): a ConfigDict's would resolve its references.
    for key in list(config.keys()):
        yield from leaves(config[key], f"{path}.{key}" if path else key)
