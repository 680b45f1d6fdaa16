"""Trains or evaluates a person re-identification model.

python -m jaxreid.main --config=qaconv --workdir=runs/qaconv

--config names a recipe, or a file such as configs/qaconv.py; the text after a colon chooses data
set and options (qaconv:market1501,debug). Any setting can be set by its path
(--config.optim.lr=0.01); --print_config lists them. The same command continues an interrupted run.
--mode=evaluate evaluates the newest checkpoint of the work directory again, with the settings of
the run where --config is left out, or, where there is none, the file of weights that
--config.init_from names.
"""

import os
import pathlib
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from jaxreid import configs
from jaxreid.names import check_name, nearest
from jaxreid.runs import settings

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe, or path of one, with its argument after a colon.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: its results and checkpoints."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
_TEST = flags.DEFINE_list("test", None, "Other test sets than the recipe's: NAME,NAME,...")
_PRINT = flags.DEFINE_bool("print_config", False, "Print every setting with its comment, and end.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Initialise jax.distributed from the cluster (TPU pod, Slurm)."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several processes without such a cluster: HOST:PORT of process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: which one this is.")

EXPLAINED = (ValueError, OSError, FloatingPointError)
KINDS = {"float": "a number", "int": "a whole number", "bool": "True or False"}


class RecipeParser(flags.ArgumentParser):
    """A recipe by name or path, with its argument; settings that it does not have are refused."""

    def parse(self, argument: str) -> Any:
        """The configuration, locked."""
        config = configs.get(argument)
        for path in overridden(sys.argv):
            check_path(config, path)
        return config

    def flag_type(self) -> str:
        """For --help."""
        return "recipe"


FLAGS["config"].parser = RecipeParser()


def overridden(argv: list[str]) -> list[str]:
    """The paths of the settings that a command line sets."""
    found = (re.match(r"--?(?:no)?config\.([^=]+)", argument) for argument in argv)
    return [match[1] for match in found if match]


def check_path(config: Mapping[str, Any], path: str) -> None:
    """Raises ValueError if there is no setting `path` ("optim.lr") in a configuration."""
    section, place = config, ""
    for name in path.split("."):
        if not hasattr(section, "keys"):
            raise ValueError(f"unknown setting {path}: {place} is {section!r} and has no settings.")
        names = list(section.keys())
        if name not in names:
            last = path.rpartition(".")[2]
            alike = [
                other for other, _ in settings.leaves(config) if other.rpartition(".")[2] == last
            ]
            if alike:
                named = " or ".join(f"--config.{other}" for other in alike)
                raise ValueError(f"unknown setting {path}; did you mean {named}?")
            if place not in settings.RULES:
                inside = f"{place}." if place else ""
                check_name(f"{inside}{name}", [f"{inside}{n}" for n in names], "setting")
            raise ValueError(
                f"unknown setting {path}: {place} is {section.get('name')!r} here and has "
                f"{', '.join(names)}. Give one with other options as a whole: "
                f"--config.{place}=\"{{'name': ..., '{name}': ...}}\"."
            )
        section, place = section[name], f"{place}.{name}" if place else name


def start_jax() -> None:
    """Joins the other processes; finds the devices."""
    import jax

    from jaxreid.mesh import check_devices, remember_compiled

    if _COORDINATOR.value or _DISTRIBUTED.value:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    check_devices()
    remember_compiled()


def main(argv: list[str]) -> int:
    """Returns the exit status: 0 done, 1 failed, 75 or 130 stopped and ready to be continued."""
    logging.set_verbosity(logging.WARNING)
    try:
        config = configuration(argv)
        if _PRINT.value:
            print(configs.commented(config, FLAGS["config"].config_filename), flush=True)
            return 0
        if not _WORKDIR.value:
            raise ValueError(
                "--workdir is missing: give the directory of the run, as in --workdir=runs/qaconv."
            )
        if _MODE.value == "train":
            settings.check_tensorflow()
        start_jax()
        if _MODE.value == "evaluate":
            from jaxreid.reid.loaded import evaluate_run

            evaluate_run(config, _WORKDIR.value)
            return 0
        from jaxreid.training.loop import train

        return 0 if train(config, _WORKDIR.value) else 75
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the newest checkpoint", file=sys.stderr)
        return leave(130)
    except BrokenPipeError:  # as in: --print_config | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return leave(1)
    except Exception as error:
        if _TRACEBACK.value or not explained(error):
            traceback.print_exc()
            return leave(1)
        return leave(fail(error))


def configuration(argv: list[str]) -> dict[str, Any]:
    """The settings of the command line, checked, before JAX or TensorFlow are imported."""
    if len(argv) > 1:
        raise ValueError(
            f"unknown arguments: {' '.join(argv[1:])}; expected --FLAG=VALUE (--config.optim.lr=1)."
        )
    if _CONFIG.value is None:
        names = ", ".join(configs.recipes())
        raise ValueError(f"--config is missing: give a recipe ({names}), as in --config=qaconv.")
    config = _CONFIG.value.to_dict()
    several = _NUM_PROCESSES.value, _PROCESS_ID.value
    if _COORDINATOR.value is None and several != (None, None):
        raise ValueError("--num_processes and --process_id belong to --coordinator=HOST:PORT.")
    if _COORDINATOR.value is not None and (
        not re.fullmatch(r".+:\d+", _COORDINATOR.value) or None in several
    ):
        raise ValueError(
            f"--coordinator={_COORDINATOR.value}: expected HOST:PORT of process 0, and with it "
            "--num_processes and --process_id."
        )
    if _TEST.value is not None:
        config["data"]["test"] = tuple(_TEST.value)
    return settings.resolved(config)


def explained(error: Exception) -> bool:
    """True for the mistakes of a user; others are faults of the program, shown with a traceback."""
    missing = isinstance(error, ModuleNotFoundError) and "pip install" in str(error)
    return missing or isinstance(error, EXPLAINED)


def leave(status: int) -> int:
    """Ends one of several processes at once: an orderly end would wait for the others for ever."""
    if "jax" in sys.modules and (_COORDINATOR.value or _DISTRIBUTED.value):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def fail(error: Exception) -> int:
    """Prints an error in words; returns the exit status."""
    while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps them
        error = error.args[0]
    text = str(error.args[0] if isinstance(error, KeyError) else error).strip()
    text = re.sub(r"^flag --config=[^ ]*: ", "", text)  # absl's introduction to what a recipe says
    print(f"error: {text}\n(--help explains, --traceback shows where it arose)", file=sys.stderr)
    return 1


def parse_flags(argv: list[str]) -> list[str]:
    """Parses as absl does, but a mistake on the command line is explained in a sentence."""
    try:
        argv[:] = with_recipe(argv)
        if {"--help", "-h", "-help", "--helpfull", "-helpfull"} & set(argv):
            print_help(full=bool({"--helpfull", "-helpfull"} & set(argv)))
            sys.exit(0)
        return FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        sys.exit(fail(ValueError(unknown_flag(error, argv))))
    except flags.IllegalFlagValueError as error:
        if "--traceback" in argv:
            raise
        sys.exit(fail(ValueError(illegal_value(error))))
    except flags.Error as error:
        if "--traceback" in argv:
            raise
        missing = re.match(r"Missing value for flag (\S+)", str(error))
        advice = f"; write {missing[1]}=VALUE" if missing else ""
        sys.exit(fail(ValueError(f"{error}{advice}")))
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if "--traceback" in argv:
            raise
        sys.exit(fail(error))


def with_recipe(argv: list[str]) -> list[str]:
    """The command line with --config first, as its settings are those of a recipe.

    An evaluation without it takes the settings of the run in the work directory.
    """
    name, *rest = argv
    places = [i for i, a in enumerate(rest) if re.match(r"--?config(=|$)", a)]
    if len(places) > 1:
        raise ValueError("--config is given more than once; give it once.")
    if places:
        size = 1 if "=" in rest[places[0]] else 2
        recipe = rest[places[0] : places[0] + size]
        return [name, *recipe, *rest[: places[0]], *rest[places[0] + size :]]
    workdir, mode = flag_value(rest, "workdir"), flag_value(rest, "mode")
    if mode == "evaluate" and (pathlib.Path(workdir).expanduser() / "config.json").exists():
        return [name, f"--config={workdir}", *rest]
    if overridden(rest):
        names = ", ".join(configs.recipes())
        raise ValueError(f"--config is missing: give a recipe ({names}), as in --config=qaconv.")
    return argv


def flag_value(argv: list[str], name: str) -> str:
    """The value of a flag, given as --NAME=VALUE or --NAME VALUE; "" if it is not given."""
    value = ""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.match(rf"--?{name}(?:=(.*))?$", argument, re.DOTALL):
            value = following if match[1] is None else match[1]
    return value


def unknown_flag(error: flags.UnrecognizedFlagError, argv: list[str]) -> str:
    """A message that finds the setting which was meant."""
    name = error.flagname.partition("=")[0]
    value = flag_value(argv, re.escape(name)) or "..."
    known = dict.fromkeys(path for path, _ in settings.leaves(configs.get("qaconv")))
    alike = [path for path in known if path == name or path.endswith(f".{name}")]
    if alike:
        named = " or ".join(f"--config.{path}={value}" for path in alike)
        return f"unknown flag --{name}; settings are given by their path: {named}"
    return f"unknown flag --{name}; valid: {', '.join(nearest_flags(name))}, --config.SETTING=..."


def nearest_flags(name: str) -> list[str]:
    """The flags of this program, the nearest first."""
    own = [flag.name for flag in FLAGS.get_key_flags_for_module(sys.modules[__name__])]
    return [f"--{flag}" for flag in nearest(name, own)]


def illegal_value(error: flags.IllegalFlagValueError) -> str:
    """A message that says which kind of value a setting takes."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if not match:
        return str(error)
    path, value = match[1], match[2]
    rule = settings.RULES.get(path)
    kind = FLAGS[f"config.{path}"].flag_type() if f"config.{path}" in FLAGS else ""
    expected = rule or KINDS.get(kind)
    if not expected and "ConfigDict" in str(error):
        expected = "a dictionary of settings"
    return f"{path} is {value!r}; expected {expected}." if expected else str(error)


def print_help(*, full: bool) -> None:
    """Prints the flags; with `full` also those of the libraries, and the settings."""
    app.usage(shorthelp=not full, writeto_stdout=True)
    if full:
        recipe = flag_value(sys.argv, "config") or "qaconv"
        print(f"settings of {recipe}, each of which can be set with --config.NAME=VALUE:\n")
        print(configs.commented(configs.get(recipe), recipe))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
