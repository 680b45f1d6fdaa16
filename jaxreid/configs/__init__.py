"""Recipes by name: the files in the folder `configs`.

A checkout (or editable install) has this folder at its top; an installed package has the recipes
next to this file (see `setup.py`).
"""

import ast
import importlib
import importlib.machinery
import importlib.util
import io
import json
import pathlib
import tokenize
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxreid.names import check_name, check_trusted
from jaxreid.places import expanded, place
from jaxreid.runs.settings import RULES, leaves, value_at

_HERE = pathlib.Path(__file__).resolve().parent
FOLDER = _HERE if (_HERE / "common.py").exists() else _HERE.parents[1] / "configs"
if FOLDER != _HERE:
    __path__.append(str(FOLDER))

# Files that are not recipes.
SHARED = ("__init__", "common", "finetuning", "protocols")


def recipes() -> list[str]:
    """List the names of the recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)


def load(name: str) -> types.ModuleType:
    """Import the module of a recipe.

    Args:
        name: a recipe, or the path of a Python file that defines `get_config`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown recipe, or a file that is not a recipe.
    """
    path = expanded(name)
    if path.suffix != ".py" and "/" not in name:
        return importlib.import_module(f"{__name__}.{check_name(name, recipes(), 'recipe')}")
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {name}; expected a recipe ({', '.join(recipes())}) or the path of a recipe "
            "file."
        )
    spec = importlib.util.spec_from_loader(
        path.stem, importlib.machinery.SourceFileLoader(path.stem, str(path))
    )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"cannot import {name}: {type(error).__name__}: {error}.") from error
    if not callable(getattr(module, "get_config", None)):
        raise ValueError(f"{name} is not a recipe: expected a function get_config.")
    return module


def get(recipe: str) -> ConfigDict:
    """Return the locked settings of a recipe, or of a run.

    Args:
        recipe: as for `load`, optionally with an argument after a colon
            ("qaconv:market1501,small"); or the work directory of a run.

    Raises:
        FileNotFoundError, ValueError: as in `load`, or the recipe rejects its argument.
    """
    name, colon, argument = recipe.partition(":")
    record = place(recipe) / "config.json"
    if record.is_file():
        return _recorded(record)
    get_config = load(name).get_config
    try:
        config = get_config(argument) if colon else get_config()
    except ValueError:
        # Recipes raise ValueError with a message for the user.
        raise
    except Exception as error:
        raise ValueError(f"get_config of {name}: {type(error).__name__}: {error}.") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"get_config of {name}: expected a ConfigDict, got {config!r}.")
    return config.lock()


def _recorded(record: pathlib.Path) -> ConfigDict:
    """Load the settings of a run; settings newer than the run take the defaults of `common`."""
    try:
        recorded = json.loads(record.read_text())["config"]
        if not isinstance(recorded, dict):
            raise ValueError(f"config is {recorded!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{record} is damaged or is not the configuration of a run ({error})."
        ) from error
    _check_trusted(recorded, record)
    common = importlib.import_module(f"{__name__}.common")
    config = common.base("synthetic")
    for path in ("model.backbone", "model.neck", "model.matcher", "objective"):
        section, _, part = path.rpartition(".")
        (config[section] if section else config)[part] = ConfigDict()
    _update(config, recorded)
    return config.lock()


def _check_trusted(recorded: Mapping[str, Any], record: pathlib.Path) -> None:
    """Refuse names of modules that nobody has allowed: a work directory may come from anywhere."""
    for path in ("model.backbone", "model.neck", "model.matcher", "objective"):
        check_trusted(value_at(recorded, f"{path}.name"), path.rpartition(".")[2], record)
    for path in ("data.train", "data.test"):
        held = value_at(recorded, path)
        names = held if isinstance(held, list | tuple) else [held]
        if any(":" in str(name) for name in names):
            # Imported late: few name a place or a module.
            from jaxreid.data.sets import check_trusted_sets

            check_trusted_sets(names, record)


def _update(config: ConfigDict, recorded: Mapping[str, Any]) -> None:
    for name, value in recorded.items():
        if isinstance(value, dict):
            if name not in config:
                config[name] = ConfigDict()
            _update(config[name], value)
        elif value is not None:
            with config.ignore_type():
                config[name] = tuple(value) if isinstance(value, list) else value


def commented(config: ConfigDict | Mapping[str, Any], recipe: str) -> str:
    """Format every setting with its comment, one per line.

    Args:
        config: settings.
        recipe: as for `get`; the source of the comments.
    """
    explanations = comments(recipe)
    order = {rule: i for i, rule in enumerate(RULES)}

    def rank(path: str) -> int:
        while path and path not in order:
            path = path.rpartition(".")[0]
        return order.get(path, len(order))

    lines = []
    ordered = sorted(leaves(config), key=lambda leaf: (rank(leaf[0]), leaf[0][-5:] != ".name"))
    for path, value in ordered:
        section, _, name = path.rpartition(".")
        # A section that is selected by name has its comment on the section, not on the name.
        comment = explanations.get(path) or (
            explanations.get(section, "") if name == "name" else ""
        )
        setting = f"{path} = {value!r}"
        lines.append(f"{setting:<46}  # {comment}" if comment else setting)
    return "\n".join(lines)


def comments(recipe: str) -> dict[str, str]:
    """Collect the comments on settings, by path, from `common.py` and all recipes.

    Of several comments on a setting the first counts, in the order `common.py`, `recipe`, the other
    recipes. Comments in dictionaries take precedence over comments on assignments.
    """
    name = recipe.partition(":")[0]
    path = expanded(name)
    files = [FOLDER / f"{name}.py" for name in ("common", *recipes())]
    if path.suffix == ".py" and path.is_file():
        files.insert(1, path)
    elif name in recipes():
        files.insert(1, FOLDER / f"{name}.py")
    defined: dict[str, str] = {}
    assigned: dict[str, str] = {}
    for file in files:
        first, second = _comments(file.read_text())
        defined, assigned = first | defined, second | assigned
    return assigned | defined


def _comments(source: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the comments in the dictionaries of a recipe and those on its assignments."""
    # Comments by line number.
    behind, above = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines = behind if token.line[: token.start[1]].strip() else above
            lines[token.start[0]] = token.string.removeprefix("#").strip()

    def comment(line: int) -> str:
        block, start = [], line
        while start - 1 in above:
            start -= 1
            block.insert(0, above[start])
        return behind.get(line) or " ".join(block)

    defined: dict[str, str] = {}
    assigned: dict[str, str] = {}
    # Local names of sections, as in: data = config.data = ...
    names = {"config": ""}
    assignments = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign))
    for node in sorted(assignments, key=lambda node: node.lineno):
        targets = [one for t in node.targets for one in (t.elts if hasattr(t, "elts") else [t])]
        paths = [path for path in (_path(target, names) for target in targets) if path]
        names |= {t.id: paths[0] for t in targets if isinstance(t, ast.Name) and paths}
        dicts = [inner for inner in ast.walk(node.value) if isinstance(inner, ast.Dict)]
        keys = [key for inner in dicts for key in inner.keys if isinstance(key, ast.Constant)]
        for path in paths:
            assigned.setdefault(path, comment(node.lineno))
            for key in keys:
                if key.lineno > node.lineno:
                    defined.setdefault(f"{path}.{key.value}", comment(key.lineno))
    return tuple({k: v for k, v in held.items() if v} for held in (defined, assigned))


def _path(target: ast.expr, names: Mapping[str, str]) -> str:
    """Return the path of the assigned setting ("optim.lr" for config.optim.lr), or ""."""
    parts = []
    while isinstance(target, ast.Attribute):
        parts.insert(0, target.attr)
        target = target.value
    if not parts or not isinstance(target, ast.Name) or target.id not in names:
        return ""
    return ".".join([*filter(None, [names[target.id]]), *parts])
