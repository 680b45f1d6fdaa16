"""Train or evaluate a person re-identification model.

python -m jaxreid.main --config=qaconv --workdir=runs/qaconv

--config is a recipe or a file such as configs/qaconv.py, optionally followed by a colon and an
argument that selects data set and options (qaconv:market1501,debug). Override any setting by its
path (--config.optim.lr=0.01); --print_config lists them. Repeat the command to resume an
interrupted run. --mode=evaluate evaluates the newest checkpoint in the work directory, with the
settings of the run if --config is omitted. Without a checkpoint it evaluates the weights file
--config.init_from. To train on from the weights of a run, give another --workdir and
--config.init_from=RUN; `jaxreid weights RUN FILE.safetensors` exports them.
"""

import os
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from jaxreid import configs
from jaxreid.huge_pages import use_huge_pages
from jaxreid.names import check_name, nearest
from jaxreid.places import place
from jaxreid.runs import settings

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe or path of a recipe file, optionally with :ARGUMENT.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Work directory of the run, for results and checkpoints."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "Train or evaluate.")
_TEST = flags.DEFINE_list("test", None, "Test sets that replace the recipe's: NAME,NAME,...")
_PRINT = flags.DEFINE_bool("print_config", False, "Print every setting with its comment and exit.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show the stack trace of an error.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Initialise jax.distributed from the cluster (TPU pod, Slurm)."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for several processes without such a cluster."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "With --coordinator: number of processes."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "With --coordinator: index of this process, from 0."
)

EXPLAINED = (ValueError, OSError, FloatingPointError)
KINDS = {"float": "a number", "int": "a whole number", "bool": "True or False"}


class RecipeParser(flags.ArgumentParser):
    """Parser of --config: a recipe by name or path; rejects overrides of unknown settings."""

    def parse(self, argument: str) -> Any:
        """Return the locked configuration."""
        config = configs.get(argument)
        for path in overridden(sys.argv):
            check_path(config, path)
        return config

    def flag_type(self) -> str:
        """Return the type shown by --help."""
        return "recipe"


FLAGS["config"].parser = RecipeParser()


def overridden(argv: list[str]) -> list[str]:
    """List the paths of the settings overridden on a command line."""
    matches = (re.match(r"--?(?:no)?config\.([^=]+)", argument) for argument in argv)
    return [match[1] for match in matches if match]


def check_path(config: Mapping[str, Any], path: str) -> None:
    """Raise ValueError if the configuration has no setting `path` ("optim.lr")."""
    section, parent = config, ""
    for name in path.split("."):
        if not hasattr(section, "keys"):
            raise ValueError(
                f"unknown setting {path}: {parent} is {section!r} and has no settings."
            )
        names = list(section.keys())
        if name not in names:
            last = path.rpartition(".")[2]
            candidates = [
                other for other, _ in settings.leaves(config) if other.rpartition(".")[2] == last
            ]
            if candidates:
                suggestion = " or ".join(f"--config.{other}" for other in candidates)
                raise ValueError(f"unknown setting {path}; did you mean {suggestion}?")
            if parent not in settings.RULES:
                prefix = f"{parent}." if parent else ""
                check_name(f"{prefix}{name}", [f"{prefix}{n}" for n in names], "setting")
            raise ValueError(
                f"unknown setting {path}: {parent} is {section.get('name')!r} and has "
                f"{', '.join(names)}. To select another one with its options, set the whole "
                f"section: --config.{parent}=\"{{'name': ..., '{name}': ...}}\"."
            )
        section, parent = section[name], f"{parent}.{name}" if parent else name


def start_jax() -> None:
    """Connect to the other processes and check that JAX finds a device."""
    import jax

    from jaxreid.mesh import check_devices, remember_compiled

    if _COORDINATOR.value or _DISTRIBUTED.value:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    check_devices()
    remember_compiled()


def main(argv: list[str]) -> int:
    """Return the exit status: 0 success, 1 failure, 75 or 130 stopped and resumable."""
    # Orbax logs the stack traces of errors that it raises, too.
    logging.set_verbosity(logging.FATAL)
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
            from jaxreid.reid.loading import evaluate_run

            evaluate_run(config, _WORKDIR.value)
            return 0
        from jaxreid.training.loop import train

        return 0 if train(config, _WORKDIR.value) else 75
    except KeyboardInterrupt:
        print(
            "interrupted; repeat the command to resume from the newest checkpoint", file=sys.stderr
        )
        return leave(130)
    except BrokenPipeError:  # e.g. --print_config | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return leave(1)
    except Exception as error:
        if _TRACEBACK.value or not explained(error):
            traceback.print_exc()
            return leave(1)
        return leave(fail(error))


def configuration(argv: list[str]) -> dict[str, Any]:
    """Check the command line and return its settings; imports neither JAX nor TensorFlow."""
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
        raise ValueError("--num_processes and --process_id require --coordinator=HOST:PORT.")
    if _COORDINATOR.value is not None and (
        not re.fullmatch(r".+:\d+", _COORDINATOR.value) or None in several
    ):
        raise ValueError(
            f"--coordinator={_COORDINATOR.value}: expected HOST:PORT of process 0, together with "
            "--num_processes and --process_id."
        )
    if _TEST.value is not None:
        config["data"]["test"] = tuple(_TEST.value)
    return settings.resolved(config)


def explained(error: Exception) -> bool:
    """Return True for user errors; other errors are bugs and are shown with a stack trace."""
    missing = isinstance(error, ModuleNotFoundError) and "pip install" in str(error)
    return missing or isinstance(error, EXPLAINED)


def leave(status: int) -> int:
    """Return the status, or exit at once in a multi-process run, where a shutdown would hang."""
    if sys.modules.get("jax") and (_COORDINATOR.value or _DISTRIBUTED.value):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def fail(error: Exception) -> int:
    """Print an error message; return the exit status."""
    # `ml_collections` wraps exceptions.
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0] if isinstance(error, KeyError) else error).strip()
    # Strip the prefix that absl adds to errors of recipes.
    text = re.sub(r"^flag --config=[^ ]*: ", "", text)
    print(f"error: {text}\n(see --help; --traceback shows the stack trace)", file=sys.stderr)
    return 1


def parse_flags(argv: list[str]) -> list[str]:
    """Parse flags like absl, with readable messages for command-line errors."""
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
    """Move --config to the front, because the overrides refer to settings of the recipe.

    An evaluation without --config takes the settings of the run in the work directory.
    """
    name, *rest = argv
    indices = [i for i, a in enumerate(rest) if re.match(r"--?config(=|$)", a)]
    if len(indices) > 1:
        raise ValueError("--config is given more than once; give it once.")
    if indices:
        size = 1 if "=" in rest[indices[0]] else 2
        recipe = rest[indices[0] : indices[0] + size]
        return [name, *recipe, *rest[: indices[0]], *rest[indices[0] + size :]]
    workdir, mode = flag_value(rest, "workdir"), flag_value(rest, "mode")
    if mode == "evaluate" and (place(workdir) / "config.json").exists():
        return [name, f"--config={workdir}", *rest]
    if overridden(rest):
        names = ", ".join(configs.recipes())
        raise ValueError(f"--config is missing: give a recipe ({names}), as in --config=qaconv.")
    return argv


def flag_value(argv: list[str], name: str) -> str:
    """Return the last value of a flag, given as --NAME=VALUE or --NAME VALUE, or ""."""
    value = ""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.match(rf"--?{name}(?:=(.*))?$", argument, re.DOTALL):
            value = following if match[1] is None else match[1]
    return value


def unknown_flag(error: flags.UnrecognizedFlagError, argv: list[str]) -> str:
    """Format an error message that suggests the intended setting or the nearest flags."""
    name = error.flagname.partition("=")[0]
    value = flag_value(argv, re.escape(name)) or "..."
    known = dict.fromkeys(path for path, _ in settings.leaves(configs.get("qaconv")))
    candidates = [path for path in known if path == name or path.endswith(f".{name}")]
    if candidates:
        suggestion = " or ".join(f"--config.{path}={value}" for path in candidates)
        return f"unknown flag --{name}; settings are given by their path: {suggestion}"
    return f"unknown flag --{name}; valid: {', '.join(nearest_flags(name))}, --config.SETTING=..."


def nearest_flags(name: str) -> list[str]:
    """List the flags of this program, nearest match first."""
    own = [flag.name for flag in FLAGS.get_key_flags_for_module(sys.modules[__name__])]
    return [f"--{flag}" for flag in nearest(name, own)]


def illegal_value(error: flags.IllegalFlagValueError) -> str:
    """Format an error message that states the values a setting accepts."""
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
    """Print the flags; with `full`, also the libraries' flags and all settings."""
    app.usage(shorthelp=not full, writeto_stdout=True)
    if full:
        recipe = flag_value(sys.argv, "config") or "qaconv"
        print(f"settings of {recipe}; set each with --config.NAME=VALUE:\n")
        print(configs.commented(configs.get(recipe), recipe))


if __name__ == "__main__":
    use_huge_pages()
    app.run(main, flags_parser=parse_flags)
