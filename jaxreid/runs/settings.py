"""Settings: which there are, and which values make sense.

A configuration is a dictionary of sections. These checks need neither data nor a model, so that a
mistake is found at once; backbone, neck, matcher and objective check their options themselves.
"""

import importlib.util
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxreid.names import check_name


class Number(NamedTuple):
    """Numbers from `low` to `high`."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    above: bool = False  # `low` itself is not valid

    def __str__(self) -> str:
        return f"{'a whole number' if self.whole else 'a number'} {self.range}"

    @property
    def range(self) -> str:
        """The range in words."""
        if self.high < math.inf:
            return (
                f"above {self.low}, at most {self.high}"
                if self.above
                else (f"from {self.low} to {self.high}")
            )
        if self.low > -math.inf:
            return f"{'above' if self.above else 'of at least'} {self.low}"
        return "(not nan or inf)"

    def holds(self, value: Any) -> bool:
        """True for a valid value."""
        kinds = int if self.whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)


class Numbers(NamedTuple):
    """Tuples of numbers, as many as the example has, or any number; rising ones if `rising`."""

    each: Number
    example: tuple[float, ...]
    rising: bool = False
    any_length: bool = False

    def __str__(self) -> str:
        count = "" if self.any_length else f"{len(self.example)} "
        order = "rising " if self.rising else ""
        kind = "whole numbers" if self.each.whole else "numbers"
        return f"a tuple of {count}{order}{kind} {self.each.range}, as in {self.example}"

    def holds(self, value: Any) -> bool:
        """True for a valid value."""
        if not isinstance(value, tuple) or not all(self.each.holds(one) for one in value):
            return False
        if not self.any_length and len(value) != len(self.example):
            return False
        return not self.rising or list(value) == sorted(value)


class Choice(NamedTuple):
    """One of some texts."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"

    def holds(self, value: Any) -> bool:
        """True for a valid value."""
        return value in self.names


class Flag(NamedTuple):
    """True or False."""

    def __str__(self) -> str:
        return "True or False"

    def holds(self, value: Any) -> bool:
        """True for a valid value."""
        return isinstance(value, bool)


class Text(NamedTuple):
    """Texts, or None."""

    example: str
    none: bool = False
    empty: bool = False

    def __str__(self) -> str:
        return f"a text{' or None' * self.none}, as in {self.example!r}"

    def holds(self, value: Any) -> bool:
        """True for a valid value."""
        if isinstance(value, str):
            return bool(value) or self.empty
        return value is None and self.none


class Names(NamedTuple):
    """Tuples of names; one alone may be given as it is where `single`."""

    example: str
    single: bool = False
    empty: bool = False

    def __str__(self) -> str:
        return f"a tuple of names, as in ({self.example!r},)"

    def holds(self, value: Any) -> bool:
        """True for a valid value."""
        if isinstance(value, str):
            return self.single and bool(value)
        if not isinstance(value, tuple) or not (value or self.empty):
            return False
        return all(isinstance(name, str) and name for name in value)


class Options(NamedTuple):
    """Dictionaries, with a name where `named`."""

    named: str = ""

    def __str__(self) -> str:
        if self.named:
            return f"a dictionary with a name, as in {{'name': {self.named!r}}}"
        return "a dictionary of options"

    def holds(self, value: Any) -> bool:
        """True for a valid value."""
        if not isinstance(value, dict):
            return False
        return not self.named or isinstance(value.get("name"), str)


# Of `jax.default_matmul_precision`.
PRECISIONS = ("default", "high", "highest", "fastest", "bfloat16", "tensorfloat32", "float32")
COUNT, SIZE = Number(0, whole=True), Number(1, whole=True)
SHARE = Number(0, 1)
FACTORS = Numbers(Number(0), (0.5, 2.0), rising=True)

RULES = {
    "seed": Number(0, 2**31 - 1, whole=True),
    "precision": Choice(PRECISIONS),
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
    "model.height": SIZE,
    "model.width": SIZE,
    "model.mean": Numbers(Number(), (0.485, 0.456, 0.406)),
    "model.std": Numbers(Number(0, above=True), (0.229, 0.224, 0.225)),
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
    "sampler.save_graph": Flag(),
    "optim.name": Text("sgd"),
    "optim.lr": Number(0, above=True),
    "optim.backbone_lr": Number(0),
    "optim.momentum": SHARE,
    "optim.nesterov": Flag(),
    "optim.betas": Numbers(SHARE, (0.9, 0.999)),
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
    "eval.batch_size": SIZE,
    "eval.query_tile": SIZE,
    "eval.gallery_tile": SIZE,
    "eval.dtype": Text("float32"),
    "eval.flip": Flag(),
    "eval.junk": Text("auto"),
    "eval.average_precision": Text("standard"),
    "eval.rerank": Flag(),
    "eval.rerank_options": Options(),
    "eval.tlift": Flag(),
    "eval.tlift_options": Options(),
    "eval.shortlist": COUNT,
    "eval.shortlist_window": Numbers(SIZE, (2, 4)),
    "eval.every_epochs": COUNT,
    "eval.untrained": Flag(),
    "eval.pictures": COUNT,
    "checkpoint.every_steps": SIZE,
    "checkpoint.keep": SIZE,
    "checkpoint.keep_every": COUNT,
    "log.every_steps": SIZE,
}
# Checked where they are given.
OPTIONS = {
    "eval.rerank_options.k1": SIZE,
    "eval.rerank_options.k2": SIZE,
    "eval.rerank_options.weight": SHARE,
    "eval.tlift_options.tau": Number(0, above=True),
    "eval.tlift_options.sigma": Number(0, above=True),
    "eval.tlift_options.k": SIZE,
    "eval.tlift_options.alpha": Number(0),
}
# Not in every configuration, as older ones were written without them.
OPTIONAL = {"init_expects": "", "eval.untrained": True}
ABSENT = ("schedule.warmup_epochs",)  # has a default where it is used


def resolved(config: Any) -> dict[str, Any]:
    """A configuration as plain data, checked.

    Args:
        config: a ConfigDict or a dictionary of sections; lists stand for tuples, as in JSON.

    Raises:
        ValueError: a setting that is missing, unknown or out of its range; it says by its path what
            was expected.
    """
    config = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(config, Mapping):
        raise ValueError(
            f"the configuration is {config!r}; expected a dictionary of settings, as "
            "jaxreid.configs.get('qaconv') gives it."
        )
    config = _plain(config)
    for path, value in OPTIONAL.items():
        section, _, name = path.rpartition(".")
        held = config.get(section, {}) if section else config
        if isinstance(held, dict):
            held.setdefault(name, value)
    check_sections(config)
    for path, rule in (RULES | OPTIONS).items():
        value = value_at(config, path)
        if not rule.holds(value) and not (value is None and path in (*ABSENT, *OPTIONS)):
            raise ValueError(f"{path} is {value!r}; expected {rule}.")
    for path, value in leaves(config):
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{path} is {value}; expected {Number()}.")
    if config["freeze_epochs"] > config["epochs"]:
        raise ValueError(
            f"freeze_epochs is {config['freeze_epochs']} of {config['epochs']} epochs; expected at "
            "most epochs, of which they are the first."
        )
    return config


def check_sections(config: Mapping[str, Any]) -> None:
    """Raises ValueError where a setting is missing or unknown."""
    known = {path.partition(".")[0] for path in RULES}
    for section in dict.fromkeys([*known, *config]):
        check_name(section, known, "setting")
        if section not in config:
            raise ValueError(
                f"the configuration has no {section}; start from that of a recipe, as "
                "jaxreid.configs.get('qaconv') gives it."
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
                    f"the configuration has no {path}; start from that of a recipe, as "
                    "jaxreid.configs.get('qaconv') gives it."
                )


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """The value of a setting by its path; None where there is none."""
    for name in path.split("."):
        if name not in config:
            return None
        config = config[name]
    return config


def start_message(expected: str, backbone: str) -> str:
    """A warning for a run from random weights, whose recipe is published with others.

    Args:
        expected: setting `init_expects`, such as "ImageNet".
        backbone: its name.
    """
    return (
        f"WARNING: this recipe starts from {expected} weights of {backbone}, and init_from names "
        "none: from random weights it does not reach the published accuracy. Type "
        f"--config.init_from={backbone}.safetensors (a file that `jaxreid convert {backbone}.pth "
        f"--arch={backbone} --out={backbone}.safetensors` makes of PyTorch's), or use the option "
        "small of the recipe, which is for random weights."
    )


def check_tensorflow() -> None:
    """Raises ModuleNotFoundError, with the cure, where training cannot read its data."""
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
    """All settings by path, with their values; options of a dictionary are settings as well."""
    if not hasattr(config, "keys"):
        yield path, config
        return
    for key in list(config.keys()):  # a ConfigDict's items would resolve its references
        yield from leaves(config[key], f"{path}.{key}" if path else key)
