"""Trains or evaluates a person re-identification model.

python -m jaxreid.main --config=configs/qaconv.py --workdir=runs/qaconv

The text after a colon chooses data set and options (configs/qaconv.py:market1501,debug); any value
can be set on the command line (--config.optim.lr=0.01). The same command continues an interrupted
run. --mode=evaluate evaluates the newest checkpoint of the work directory again, or, where there is
none, the file of weights that --config.init_from names.
"""

import os
import pathlib
import sys
import traceback

import jax
from absl import app, flags, logging
from ml_collections import config_flags

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with its argument after a colon.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: its results and checkpoints."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Several processes; the cluster (TPU pod, Slurm, ...) tells which."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several processes without such a cluster: HOST:PORT of process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator: how many.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "With --coordinator: which one this is.")
flags.mark_flags_as_required(["config", "workdir"])


def start_jax() -> None:
    """Joins the other processes, and remembers compiled programs between runs."""
    if _COORDINATOR.value or _DISTRIBUTED.value:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if not jax.config.jax_compilation_cache_dir:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache / "jaxreid" / "compiled"))


def main(argv: list[str]) -> int:
    """Returns the exit status: 0 done, 1 failed, 75 or 130 stopped and ready to be continued."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    # Late, so that --help and misspelt flags answer at once.
    from jaxreid.reid import evaluate_run
    from jaxreid.training.loop import train

    try:
        start_jax()
        config = _CONFIG.value.to_dict()
        if _MODE.value == "evaluate":
            evaluate_run(config, _WORKDIR.value)
            return 0
        return 0 if train(config, _WORKDIR.value) else 75
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the newest checkpoint", file=sys.stderr)
        return leave(130)
    except Exception as error:
        if _TRACEBACK.value or not isinstance(error, ValueError | OSError | FloatingPointError):
            traceback.print_exc()
            return leave(1)
        return leave(fail(error))


def leave(status: int) -> int:
    """Ends one of several processes at once: an orderly end would wait for the others for ever."""
    if jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def fail(error: Exception) -> int:
    """Says what is wrong, in words; returns the exit status."""
    while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps them
        error = error.args[0]
    text = str(error.args[0] if isinstance(error, KeyError) else error).strip()
    if "Traceback" in text:  # absl tells a failure inside a configuration file with all of it
        text = text.splitlines()[-1]
    print(f"error: {text}\n(--help explains, --traceback shows where it arose)", file=sys.stderr)
    return 1


def parse_flags(argv: list[str]) -> list[str]:
    """As absl does, but a wrong setting in a configuration is an answer and not a crash."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if "--traceback" in argv:
            raise
        sys.exit(fail(error))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
