"""Weights that a training keeps as files beside its checkpoints: their average, and the best."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from jaxreid.evaluation.means import METRICS
from jaxreid.evaluation.run import TestSets
from jaxreid.mesh import to_host
from jaxreid.names import check_name
from jaxreid.runs.log import Writer
from jaxreid.runs.workdir import AVERAGED, BEST
from jaxreid.weights.file import Selection, read_selection, save_weights


def save_average(
    workdir: pathlib.Path, average: Mapping[str, Any], card: Mapping[str, Any], *, step: int
) -> None:
    """Write the average of the weights (`averaging.updated`) to averaged.safetensors.

    Args:
        workdir: work directory.
        average: {"params", "batch_stats"}.
        card: keywords of `make_model`.
        step: updates so far.
    """
    if jax.process_index() == 0:
        source = f"the average of the weights of a training, after step {step}"
        save_weights(workdir / AVERAGED, to_host(average), card, source=source)


class Best:
    """The best weights of a run by one metric of one test set, in best.safetensors.

    Args:
        workdir: work directory.
        card: keywords of `make_model`.
        choice: "SET:METRIC", as in "synthetic_people/mall:mAP".
        tests: test sets of the run.
        every_epochs: epochs between two evaluations, among which it chooses.

    Raises:
        ValueError: the choice names no test set or metric, or there is nothing to choose from.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        card: Mapping[str, Any],
        choice: str,
        tests: TestSets,
        *,
        every_epochs: int,
    ) -> None:
        # A place in the name of a set may hold colons, too.
        self._set, _, self._metric = choice.rpartition(":")
        check_name(self._set, tests, "test set in checkpoint.best, which is SET:METRIC,")
        check_name(self._metric, METRICS, "metric in checkpoint.best, which is SET:METRIC,")
        if not every_epochs:
            raise ValueError(
                f"checkpoint.best is {choice!r}, but eval.every_epochs is 0: only the last weights "
                "are evaluated, and there is nothing to choose from. Evaluate in between, as with "
                "--config.eval.every_epochs=5."
            )
        self._path, self._card = workdir / BEST, card

    @property
    def warning(self) -> str:
        """Warning about selection on a test set, for the log."""
        return (
            f"WARNING: {BEST} is chosen by {self._metric} of {self._set}: that is selection on the "
            "target, and results of these weights on this set are optimistic. Report those of "
            "the last weights, or of a set that chose nothing."
        )

    def keep(self, variables: Mapping[str, Any], writer: Writer, *, step: int, model: str) -> None:
        """Write the weights if their evaluation is better than that of the file.

        The file is replaced as a whole. It records the test that chose it; a file that another
        choice left is replaced.

        Args:
            variables: {"params", "batch_stats"}.
            writer: event log with the evaluation of these weights.
            step: updates so far; the weights before the first one are not chosen.
            model: name of the weights in the event, "" for those of the run.
        """
        if not step or jax.process_index():
            return
        wanted = {"kind": "eval", "set": self._set, "step": step}
        value = next(
            event[self._metric]
            for event in writer.events
            if event.items() >= wanted.items() and event.get("model", "") == model
        )
        held = read_selection(self._path) if self._path.exists() else None
        same = held is not None and (held.set, held.metric) == (self._set, self._metric)
        if same and held.value >= value:
            return
        chosen = Selection(self._set, self._metric, value, step)
        save_weights(
            self._path,
            to_host(variables),
            self._card,
            source=f"the {model or 'last'} weights of a training, {chosen.sentence}",
            selection=chosen,
        )
        writer.say(f"{self._path}: the {model or 'last'} weights, {chosen.sentence}")
