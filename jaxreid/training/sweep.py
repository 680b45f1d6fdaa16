"""Sweeps: runs of one recipe that differ in seed and settings, one after the other."""

import ast
import copy
import dataclasses
import hashlib
import itertools
import os
import re
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from jaxreid.programs import sharing
from jaxreid.runs.record import is_finished
from jaxreid.runs.settings import resolved, value_at
from jaxreid.training.loop import train

# Longest name of a work directory, in characters.
LONGEST = 100


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        name: of its work directory, such as "lr=0.001,seed=0".
        settings: values by path that the sweep sets, the seed last.
        config: resolved configuration.
    """

    name: str
    settings: dict[str, Any]
    config: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class End:
    """Outcome of a run of a sweep.

    Attributes:
        run: the run.
        state: "finished", "skipped" (it was finished before), "stopped" by a signal, or "failed".
        seconds: that it took.
        error: sentence of a failed run; "" otherwise.
    """

    run: Run
    state: str
    seconds: float = 0.0
    error: str = ""


def make_runs(
    config: Mapping[str, Any], seeds: Sequence[int], values: Mapping[str, Sequence[Any]]
) -> list[Run]:
    """Return a run for every combination of settings and every seed, the seeds of one together.

    Args:
        config: resolved configuration that the runs start from.
        seeds: run seeds.
        values: values by path of a setting ("optim.lr").

    Raises:
        ValueError: a value is out of its range, or is given twice.
    """
    paths = {**values, "seed": seeds}
    lasts = Counter(path.rpartition(".")[2] for path in paths)
    runs = []
    for combination in itertools.product(*paths.values()):
        settings = {p: _typed(config, p, v) for p, v in zip(paths, combination, strict=True)}
        changed: dict[str, Any] = copy.deepcopy(dict(config))
        for path, value in settings.items():
            section, _, name = path.rpartition(".")
            (value_at(changed, section) if section else changed)[name] = value
        parts = []
        for path, value in settings.items():
            last = path.rpartition(".")[2]
            parts.append(f"{last if lasts[last] == 1 else path}={value}")
        runs.append(Run(_safe(",".join(parts)), settings, resolved(changed)))
    twice = [name for name, count in Counter(run.name for run in runs).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} runs are requested twice, such as {twice[0]}.")
    return runs


def parse_values(text: str) -> list[Any]:
    """Parse values with commas, "1e-3,3e-3"; commas inside brackets belong to a value."""
    parts = re.findall(r"(?:[^,()\[\]{}]|\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\})+", text)
    return [_literal(part.strip()) for part in parts]


def run_all(runs: Sequence[Run], folder: str | os.PathLike) -> list[End]:
    """Train runs in work directories below a folder, in this process; programs are shared.

    A finished run is skipped, a stopped one is resumed, and one that fails does not stop the
    others. After a signal the remaining runs are not started.

    Args:
        runs: runs to train.
        folder: of the work directories; created if it does not exist.

    Returns:
        Outcomes of the runs that were started.
    """
    ends: list[End] = []
    with sharing():
        for number, run in enumerate(runs, 1):
            say(f"\nrun {number} of {len(runs)}: {run.name}{remaining(ends, len(runs))}")
            ends.append(end_of(run, folder))
            if ends[-1].state == "skipped":
                say("finished before")
            elif ends[-1].state == "failed":
                say(f"failed: {ends[-1].error}")
            elif ends[-1].state == "stopped":
                break
    return ends


def end_of(run: Run, folder: str | os.PathLike) -> End:
    """Train a run in its work directory below a folder, unless it is finished."""
    workdir = os.path.join(folder, run.name)
    start = time.perf_counter()
    try:
        if is_finished(workdir, run.config):
            return End(run, "skipped")
        state = "finished" if train(run.config, workdir) else "stopped"
        return End(run, state, time.perf_counter() - start)
    except Exception as error:
        sentence = str(error)
        if not isinstance(error, ValueError | OSError | FloatingPointError):
            # A bug, not the user's error: show its stack trace, and go on with the other runs.
            traceback.print_exc()
            sentence = f"{type(error).__name__}: {sentence.partition(chr(10))[0]}"
        return End(run, "failed", time.perf_counter() - start, sentence)


def remaining(ends: Sequence[End], count: int, *, at_once: int = 1) -> str:
    """Return the remaining time in words, from the runs that were trained by this command."""
    seconds = [end.seconds for end in ends if end.state == "finished"]
    if not seconds:
        return ""
    left = sum(seconds) / len(seconds) * (count - len(ends)) / at_once
    return f", about {tqdm.format_interval(left)} left"


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def _typed(config: Mapping[str, Any], path: str, value: Any) -> Any:
    """Return a value as the setting holds it: 1 is 1.0 where a number with a fraction may be."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and isinstance(value_at(config, path), float) else value


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _safe(name: str) -> str:
    """Return a name for a folder; a digest stands for replaced and cut characters."""
    safe = re.sub(r"[^\w.,=+-]", "_", name, flags=re.ASCII)
    if safe == name and len(name) <= LONGEST:
        return name
    return f"{safe[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
