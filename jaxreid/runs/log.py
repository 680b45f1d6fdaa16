"""Output of a run: metrics.jsonl, TensorBoard, progress bars and tables. Process 0 only."""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from jaxreid.mesh import to_host
from jaxreid.runs.files import append, replace_file
from jaxreid.runs.tensorboard import Board

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Replace a file atomically by indented JSON; raise ValueError for NaN and infinity."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, text.encode())


def read_events(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read the events of a metrics.jsonl, without lines cut off by a kill or a full disk."""
    if not path.exists():
        return []
    events = []
    for line in path.read_bytes().decode(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            events.append(json.loads(line))
    return [event for event in events if isinstance(event, dict) and "step" in event]


class Writer:
    """Event log of one run.

    Every event is a line of `metrics.jsonl`: {"kind", "step", "time", ...}.

    Args:
        workdir: work directory; must exist.
        resume_at: step at which a training starts or resumes. Later events are dropped, because
            they will be written again. None only appends, because a training may be writing to
            the same directory.

    Attributes:
        events: events of the run so far.
    """

    def __init__(self, workdir: pathlib.Path, *, resume_at: int | None) -> None:
        self._active = jax.process_index() == 0
        path = workdir / "metrics.jsonl"
        self.events = read_events(path)
        if resume_at is not None:
            self.events = [event for event in self.events if event["step"] <= resume_at]
        if not self._active:
            return
        self._path = path
        if resume_at is not None:
            lines = "".join(json.dumps(event) + "\n" for event in self.events)
            replace_file(path, lines.encode())
        elif not path.exists():
            replace_file(path, b"")
        elif not path.read_bytes().endswith(b"\n"):
            append(path, b"\n")
        # A kill may have come between the two logs, so a training writes the second one anew.
        again = None if resume_at is None else self.events
        self._beside = again is None
        self._board = Board.open(workdir / "tensorboard", again)

    def write(self, kind: str, step: int, values: dict[str, Any], name: str = "") -> None:
        """Write one event (`event`), also to TensorBoard.

        Raises:
            OSError: no space, or the work directory is gone.
        """
        self.append(event(kind, step, values, name))

    def append(self, event: dict[str, Any]) -> None:
        """Write an event, also to TensorBoard; raise OSError as `write`."""
        self.events.append(event)
        if not self._active:
            return
        append(self._path, (json.dumps(event, allow_nan=False) + "\n").encode())
        if self._board is None:
            return
        try:
            self._board.write(event)
        except FileNotFoundError:
            # A training that starts meanwhile removes the file, and shows these events itself.
            if not self._beside:
                raise

    def say(self, text: str) -> None:
        """Print a line to stdout, above any progress bar."""
        if self._active:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()


def event(kind: str, step: int, values: dict[str, Any], name: str = "") -> dict[str, Any]:
    """Return an event of now, a line of `metrics.jsonl`.

    Args:
        kind: "train", "eval" or "search".
        step: updates so far.
        values: numbers and strings.
        name: test set, for "eval".
    """
    head = {"kind": kind, "step": step, "time": round(time.time(), 3)}
    return head | ({"set": name} if name else {}) | values


def progress(what: str, *, total: int, initial: int = 0, unit: str = "img", least: int = 0) -> tqdm:
    """Create a progress bar with rate and remaining time, drawn by process 0 only.

    If stderr is not a terminal, it is redrawn at most once in ten seconds. A total below `least` is
    done too soon for a bar.
    """
    interactive = sys.stderr.isatty()
    return tqdm(
        desc=what.strip(),
        total=total,
        initial=initial,
        unit=unit,
        disable=total < least or jax.process_index() != 0,
        dynamic_ncols=interactive,
        ncols=None if interactive else 120,
        mininterval=0.2 if interactive else 10.0,
        leave=True,
    )


def show(bar: tqdm, values: dict[str, float], *, images_left: int) -> None:
    """Show loss and accuracy from `Meter.read`, and the remaining time, at the next redraw."""
    chosen = {key: f"{values[key]:.3f}" for key in ("loss", "accuracy") if key in values}
    seconds = images_left / values["images_per_second"]
    bar.set_postfix(chosen | {"left": tqdm.format_interval(seconds)}, refresh=False)


class Meter:
    """Means of the metrics over several steps, fetched from the devices only when read.

    It also measures where the time goes: "input_wait", the share of the time since the last reading
    in which the loop waited for a batch, and "goodput", the share of all time since the meter was
    made that went into training steps: without start, compilation, input, evaluation and saving.

    Args:
        lr: base learning rate, which the metric "rate" multiplies.
        every_steps: steps between two readings.
    """

    def __init__(self, *, lr: float, every_steps: int) -> None:
        if every_steps < 1:
            raise ValueError(f"log.every_steps is {every_steps}; expected at least 1.")
        self._lr, self._every = lr, every_steps
        self._made, self._productive = time.perf_counter(), 0.0
        self._calls, self._compiled = 0, set()  # type: int, set[Callable[..., Any]]
        self.start()

    def start(self) -> None:
        """Discard all metrics and restart the clock of images per second."""
        self._steps: list[dict[str, jax.Array]] = []
        self._images, self._since = 0, time.perf_counter()
        self._waited = self._compiling = 0.0

    def waits(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, measuring how long each is waited for."""
        batches, end = iter(batches), object()
        while True:
            start = time.perf_counter()
            batch = next(batches, end)
            self._waited += time.perf_counter() - start
            if batch is end:
                return
            yield batch

    def call(self, step: Callable[..., Result], *arguments: Any) -> Result:
        """Call a jitted step; the first call of each compiles."""
        self._calls += 1
        start = time.perf_counter()
        with jax.profiler.StepTraceAnnotation("train", step_num=self._calls):
            result = step(*arguments)
        if step in self._compiled:
            return result
        self._compiling += time.perf_counter() - start
        self._compiled.add(step)
        return result

    def due(self, step: int) -> bool:
        """Return whether to read the metrics after this step."""
        return step % self._every == 0

    def add(self, metrics: dict[str, jax.Array], images: int) -> None:
        """Add the metrics of one step, which may still be running, and its image count."""
        self._steps.append(metrics)
        self._images += images

    def read(self, step: int) -> dict[str, float]:
        """Return the means since the last reading, "lr" in place of "rate", and rates of work.

        Blocks until the devices have finished the steps.

        Args:
            step: updates so far, for the error message.

        Raises:
            FloatingPointError: a metric is not finite.
        """
        count = len(self._steps)
        values = {
            key: float(np.mean([to_host(metrics[key]) for metrics in self._steps]))
            for key in self._steps[0]
        }
        if not all(np.isfinite(list(values.values()))):
            raise FloatingPointError(
                f"metrics are not finite between steps {step - count + 1} and {step}: {values}."
            )
        values["lr"] = self._lr * values.pop("rate")
        now = time.perf_counter()
        elapsed = now - self._since
        self._productive += elapsed - self._waited - self._compiling
        values["images_per_second"] = self._images / elapsed
        values["input_wait"] = self._waited / elapsed
        values["goodput"] = self._productive / (now - self._made)
        self.start()
        return values


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a plain text table: first column left-aligned, the others right-aligned."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def render(line: Sequence[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        cells[0] = line[0].ljust(widths[0])
        return "  ".join(cells)

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([render(lines[0]), rule, *map(render, lines[1:])])
