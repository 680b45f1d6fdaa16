"""Recipes by name: the files of the folder `configs`.

In a checkout, also an editable one, they are in the folder `configs` at its top; an installed
package holds them beside this file (see `setup.py`).
"""

import importlib
import importlib.machinery
import importlib.util
import pathlib
import types

from ml_collections import ConfigDict

from jaxreid.names import check_name

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
    except Exception as error:
        raise ValueError(f"{name} cannot be read: {type(error).__name__}: {error}.") from error
    if not callable(getattr(module, "get_config", None)):
        raise ValueError(f"{name} is not a recipe: expected a function get_config in it.")
    return module


def get(recipe: str) -> ConfigDict:
    """The settings of a recipe, locked.

    Args:
        recipe: as for `load`, with an argument after a colon ("qaconv:market1501,small").

    Raises:
        FileNotFoundError, ValueError: as `load`; an argument that the recipe does not take.
    """
    name, colon, argument = recipe.partition(":")
    get_config = load(name).get_config
    config = get_config(argument) if colon else get_config()
    if not isinstance(config, ConfigDict):
        raise ValueError(f"get_config of {name} returns {config!r}; expected a ConfigDict.")
    return config.lock()
