"""The verb sweep: a recipe with several seeds and settings, in one process or one a device."""

import argparse
import os
import re
import sys
from typing import Any

from jaxreid.cli import values
from jaxreid.cli.pieces import add_json, add_verb


def add_sweep(commands: Any) -> None:
    """Add the verb."""
    verb = add_verb(
        commands,
        "sweep",
        sweep_recipe,
        "train a recipe with several seeds and settings",
        "jaxreid sweep --config=qaconv --seeds=0-4 --set optim.lr=1e-3,3e-3 --workdir=runs/s",
        "Every combination is a run of its own, as if trained by hand, in DIR/lr=0.001,seed=0. "
        "The same command resumes where it was stopped; finished runs are skipped. Further "
        "--config.PATH=VALUE hold for all runs. Of several devices each trains a run of its own.",
    )
    verb.add_argument(
        "--config",
        required=True,
        dest="recipe",
        metavar="RECIPE",
        help="recipe or path of a recipe file, optionally with :ARGUMENT",
    )
    verb.add_argument("--workdir", required=True, metavar="DIR", help="folder of the runs")
    verb.add_argument(
        "--seeds",
        type=values.numbers,
        metavar="N,N-N",
        help="run seeds, as in 0-4 or 0,3,7 (default: that of the recipe)",
    )
    verb.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        dest="sets",
        metavar="PATH=VALUE,VALUE",
        help="values of a setting to try; repeatable, for all combinations",
    )
    verb.add_argument(
        "--at-once",
        type=values.at_least(1),
        metavar="N",
        help="runs trained at once, each in a process and on a device of its own (default: as many "
        "as there are devices); 1: one after the other, each on all devices",
    )
    verb.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    add_json(verb)
    verb.set_defaults(passes_on=True)


def sweep_recipe(args: argparse.Namespace) -> dict[str, Any]:
    """Train every combination; print how each run ended."""
    from absl import logging

    from jaxreid import main as program
    from jaxreid.runs.settings import check_tensorflow

    if wrong := [word for word in args.rest if not re.match(r"--(config\.|test\b)|[^-]", word)]:
        raise ValueError(
            f"{' '.join(wrong)}: a sweep starts its processes itself; expected --seeds, --set, "
            "--test, and settings of all runs (--config.PATH=VALUE)."
        )
    # Orbax logs the stack traces of errors that it raises, too.
    logging.set_verbosity(logging.FATAL)
    sys.argv = ["jaxreid sweep", f"--config={args.recipe}", *args.rest]
    config = program.configuration(program.parse_flags(sys.argv))
    check_tensorflow()
    from jaxreid.runs.log import table
    from jaxreid.training.sweep import make_runs, parse_values, run_all
    from jaxreid.training.sweep_devices import answer, run_all_at_once

    tried: dict[str, list[Any]] = {}
    for text in args.sets:
        path, equals, listed = text.partition("=")
        if not (equals and listed) or path in ("seed", *tried):
            raise ValueError(
                f"--set {text}: expected PATH=VALUE,VALUE with each path once, as in "
                "--set optim.lr=1e-3,3e-3; seeds are given by --seeds=0-4."
            )
        program.check_path(config, path)
        tried[path] = parse_values(listed)
    runs = make_runs(config, args.seeds or [config["seed"]], tried)
    alone = args.worker or args.at_once == 1 or len(runs) == 1
    devices = [] if alone else _devices(args, len(runs))
    if len(devices) < 2:
        program.start_jax()
    if args.worker:
        # The output of libraries goes to stderr, as messages do.
        with os.fdopen(os.dup(1), "w") as answers:
            os.dup2(2, 1)
            answer(runs, args.workdir, answers)
        return {}
    if len(devices) < 2:
        ends = run_all(runs, args.workdir)
    else:
        print(f"{len(runs)} runs on {len(devices)} devices; their output is in {args.workdir}/")
        ends = run_all_at_once(runs, args.workdir, _worker(args), devices)
    state = {end.run.name: end for end in ends}
    rows = []
    for run in runs:
        end = state.get(run.name)
        minutes = f"{end.seconds / 60:.1f}" if end and end.seconds else ""
        rows.append((run.name, end.state if end else "not started", minutes))
    print("\n" + table(("run", "state", "minutes"), rows))
    failed = [end for end in ends if end.state == "failed"]
    for end in failed:
        print(f"{end.run.name} failed: {end.error}")
    stopped = any(end.state == "stopped" for end in ends) or len(ends) < len(runs)
    if stopped:
        print("stopped; the same command resumes")
    elif failed:
        print(f"{len(failed)} of {len(runs)} runs failed; the same command tries them again")
    else:
        print(f"compare them: jaxreid compare {args.workdir}")
    # As `train`: stopped, and resumed by the same command.
    args.status = 75 if stopped else int(bool(failed))
    return {
        "workdir": args.workdir,
        "runs": [
            {
                "name": run.name,
                "settings": run.settings,
                "state": state[run.name].state if run.name in state else "not started",
                "seconds": round(state[run.name].seconds, 2) if run.name in state else 0.0,
                "error": state[run.name].error if run.name in state else "",
            }
            for run in runs
        ],
    }


def _devices(args: argparse.Namespace, runs: int) -> list[dict[str, str]]:
    """Return the environments of processes that see a device each, at most one for each run."""
    from jaxreid.places import STORES, scheme_of
    from jaxreid.training.sweep_devices import environment_of, visible_devices

    backend, count = visible_devices()
    if not backend:
        return []  # JAX reports the reason in this process
    if args.at_once is not None and args.at_once > count:
        raise ValueError(
            f"--at-once={args.at_once}: expected at most the number of devices, which is {count}."
        )
    used = min(args.at_once or count, runs)
    if used > 1 and scheme_of(args.workdir) in STORES:
        raise ValueError(
            f"--workdir={args.workdir}: the output of several processes is written to a folder on "
            "this machine. Use one, or --at-once=1, which trains each run on all devices."
        )
    return [environment_of(backend, device) for device in range(used)]


def _worker(args: argparse.Namespace) -> list[str]:
    """Return the command of this sweep as one of its processes."""
    command = [sys.executable, "-m", "jaxreid", "sweep", f"--config={args.recipe}", *args.rest]
    command += [f"--workdir={args.workdir}", "--worker", "--json"]
    if args.seeds:
        command.append(f"--seeds={','.join(map(str, args.seeds))}")
    return command + (["--set", *args.sets] if args.sets else [])
