"""Recipes by name: the files of the folder `configs`.

In a checkout, also an editable one, they are in the folder `configs` at its top; an installed
package holds them beside this file (see `setup.py`).
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

from jaxreid.names import check_name
from jaxreid.runs.settings import RULES, leaves

_HERE = pathlib.Path(__file__).resolve().parent
FOLDER = _HERE if (_HERE / "common.py").exists() else _HERE.parents[1] / "configs"
if FOLDER != _HERE:
    __path__.append(str(FOLDER))

SHARED = ("__init__", "common")  # files that are not recipes


def recipes() -> list[str]:
    """The names of the recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in SHARED)


def load(name: str) -> types.ModuleType:
    """The module of a recipe.

    Args:
        name: a recipe, or the path of a Python file that has a function `get_config`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such recipe, or a file that is not one.
    """
    path = pathlib.Path(name).expanduser()
    if path.suffix != ".py" and "/" not in name:
        return importlib.import_module(f"{__name__}.{check_name(name, recipes(), 'recipe')}")
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {name}; expected a recipe ({', '.join(recipes())}) or the path of one."
        )
    spec = importlib.util.spec_from_loader(
        path.stem, importlib.machinery.SourceFileLoader(path.stem, str(path))
    )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name} cannot be read: {type(error).__name__}: {error}.") from error
    if not callable(getattr(module, "get_config", None)):
        raise ValueError(f"{name} is not a recipe: expected a function get_config in it.")
    return module


def get(recipe: str) -> ConfigDict:
    """The settings of a recipe, locked.

    Args:
        recipe: as for `load`, with an argument after a colon ("qaconv:market1501,small"); or the
            work directory of a run, whose settings they then are.

    Raises:
        FileNotFoundError, ValueError: as `load`; an argument that the recipe does not take.
    """
    name, colon, argument = recipe.partition(":")
    record = pathlib.Path(recipe).expanduser() / "config.json"
    if record.is_file():
        return _recorded(record)
    get_config = load(name).get_config
    try:
        config = get_config(argument) if colon else get_config()
    except ValueError:
        raise  # explains itself
    except Exception as error:
        raise ValueError(f"get_config of {name}: {type(error).__name__}: {error}.") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"get_config of {name} returns {config!r}; expected a ConfigDict.")
    return config.lock()


def _recorded(record: pathlib.Path) -> ConfigDict:
    """The settings of a run; new ones, which an older run did not have, as `common` has them."""
    try:
        held = json.loads(record.read_text())["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record} is not the record of a run, or damaged ({error}).") from error
    common = importlib.import_module(f"{__name__}.common")
    config = common.base("synthetic")
    for path in ("model.backbone", "model.neck", "model.matcher", "objective"):
        section, _, part = path.rpartition(".")
        (config[section] if section else config)[part] = ConfigDict()
    _update(config, held)
    return config.lock()


def _update(config: ConfigDict, held: Mapping[str, Any]) -> None:
    for name, value in held.items():
        if isinstance(value, dict):
            if name not in config:
                config[name] = ConfigDict()
            _update(config[name], value)
        elif value is not None:
            with config.ignore_type():
                config[name] = tuple(value) if isinstance(value, list) else value


def commented(config: ConfigDict | Mapping[str, Any], recipe: str) -> str:
    """Every setting of a configuration with its comment, a line each.

    Args:
        config: settings.
        recipe: as for `get`; where the comments are read.
    """
    explained = comments(recipe)
    places = {rule: i for i, rule in enumerate(RULES)}

    def place(path: str) -> int:
        while path and path not in places:
            path = path.rpartition(".")[0]
        return places.get(path, len(places))

    lines = []
    by_place = sorted(leaves(config), key=lambda leaf: (place(leaf[0]), leaf[0][-5:] != ".name"))
    for path, value in by_place:
        section, _, name = path.rpartition(".")
        # A section that is chosen by its name is explained there.
        comment = explained.get(path) or (explained.get(section, "") if name == "name" else "")
        setting = f"{path} = {value!r}"
        lines.append(f"{setting:<46}  # {comment}" if comment else setting)
    return "\n".join(lines)


def comments(recipe: str) -> dict[str, str]:
    """The comments on settings, by path, in `common.py` and in the source of a recipe."""
    name = recipe.partition(":")[0]
    path = pathlib.Path(name).expanduser()
    files = [FOLDER / f"{name}.py" for name in ("common", *recipes())]
    if path.suffix == ".py" and path.is_file():
        files.insert(1, path)
    elif name in recipes():
        files.insert(1, FOLDER / f"{name}.py")
    defined: dict[str, str] = {}
    assigned: dict[str, str] = {}
    for file in files:  # what an earlier one says counts
        first, second = _comments(file.read_text())
        defined, assigned = first | defined, second | assigned
    return assigned | defined


def _comments(source: str) -> tuple[dict[str, str], dict[str, str]]:
    """The comments in the dictionaries of a recipe, and those on its assignments."""
    behind, above = {}, {}  # by line
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
    names = {"config": ""}  # of sections: data = config.data = ...
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
    """The setting that is assigned to, such as config.optim.lr; else ""."""
    parts = []
    while isinstance(target, ast.Attribute):
        parts.insert(0, target.attr)
        target = target.value
    if not parts or not isinstance(target, ast.Name) or target.id not in names:
        return ""
    return ".".join([*filter(None, [names[target.id]]), *parts])
