"""Evaluating a model on the test sets of a run, during training or from a work directory."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxreid.checkpoint import Checkpoints
from jaxreid.data import pipeline
from jaxreid.data.datasets import Split, load_sets
from jaxreid.evaluate import Evaluator, evaluate
from jaxreid.graph import class_graph, save_graph
from jaxreid.mesh import make_mesh, shardings
from jaxreid.model import Model, init_variables, make_model
from jaxreid.names import check_name
from jaxreid.pretrained import load_weights, read_card
from jaxreid.ranking.metrics import PRECISIONS
from jaxreid.ranking.protocol import RULES
from jaxreid.report import protocol_of, results_of, results_table, write_queries, write_ranking
from jaxreid.runs import holds_checkpoint
from jaxreid.writer import Writer, write_json


class Evaluation:
    """Evaluates a model on test sets and leaves the results in a work directory.

    Args:
        model: made with `axis_name=None`.
        mesh: the devices.
        workdir: the work directory.
        pictures: queries per test set in ranking.png.
        junk: rule of `ranking.protocol`, or "auto".
        average_precision: "standard" or "trapezoid", as for `rank_queries`.
        rerank: evaluate re-ranked as well, with `rerank_options`, keywords of `ranking.rerank`.
        tlift: evaluate with TLift as well, with `tlift_options`, keywords of `ranking.tlift`.
        every_epochs: how often the caller is told to evaluate in between; 0 for never.
        loaded: step 0 has weights from a file; the results call it "loaded", not "untrained".
        batch_size: as for `Evaluator`.
        **tiles: the other keywords of `Evaluator`: tile sizes and `flip`.
    """

    def __init__(
        self,
        model: Model,
        mesh: Mesh,
        workdir: pathlib.Path,
        *,
        pictures: int,
        junk: str,
        average_precision: str,
        rerank: bool,
        rerank_options: Mapping[str, Any],
        tlift: bool,
        tlift_options: Mapping[str, Any],
        every_epochs: int,
        batch_size: int,
        loaded: bool = False,
        **tiles: int,
    ) -> None:
        self._evaluator = Evaluator(model, mesh, batch_size=batch_size, **tiles)
        if junk != "auto":
            check_name(junk, RULES, "eval.junk")
        check_name(average_precision, PRECISIONS, "eval.average_precision")
        self._workdir, self._pictures, self._junk = workdir, pictures, junk
        self._precision = average_precision
        self._rerank = rerank_options if rerank else None
        self._tlift = tlift_options if tlift else None
        self._initial = "loaded" if loaded else "untrained"
        self._every = every_epochs
        self._batches = functools.partial(
            pipeline.eval_batches,
            height=model.height,
            width=model.width,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def run(
        self,
        variables: Any,
        tests: Mapping[str, Mapping[str, Split]],
        writer: Writer,
        *,
        step: int,
        again: bool = False,
    ) -> None:
        """Evaluates on every set; writes events, results.json, queries.jsonl and ranking.png.

        Args:
            variables: {"params", "batch_stats"} of the model.
            tests: by name of the test set, its splits "query" and "gallery".
            writer: of the run.
            step: updates of the model.
            again: also if the run holds an evaluation on every set at this step.
        """
        found = {e["set"] for e in writer.events if e["kind"] == "eval" and e["step"] == step}
        if found >= tests.keys() and not again:
            return
        results, rules, lifts = {}, {}, {}
        for name, splits in tests.items():
            rules[name], told = protocol_of(name, splits["query"], splits["gallery"], self._junk)
            timed = all(np.isfinite(split.time).all() for split in splits.values())
            lifts[name] = self._tlift if timed else None
            if self._tlift is not None and not timed:
                told.append(f"{name} has no times: it is evaluated without TLift.")
            for sentence in told:
                writer.say(sentence)
        for name, splits in tests.items():
            progress = lambda what, name=name, **keys: writer.progress(f"{name} {what}", **keys)  # noqa: E731
            results[name] = evaluate(
                self._evaluator,
                variables,
                splits["query"],
                splits["gallery"],
                lambda split: self._batches(pipeline.ImageStore(split.image, split.name)),
                progress,
                junk=rules[name],
                precision=self._precision,
                rerank=self._rerank,
                tlift=lifts[name],
            )
        for name, variants in results.items():
            rule = {"junk": rules[name], "average_precision": self._precision}
            for variant, result in variants.items():
                writer.write("eval", step, {"variant": variant} | result.metrics | rule, name)
        if jax.process_index() == 0:
            write_json(self._workdir / "results.json", {"results": self._results(writer)})
            plain = {name: variants["plain"] for name, variants in results.items()}
            write_queries(self._workdir / "queries.jsonl", tests, plain)
            write_ranking(self._workdir / "ranking.png", tests, plain, queries=self._pictures)

    def nearest_classes(
        self,
        variables: Any,
        images: Split,
        writer: Writer,
        anchors: np.ndarray,
        count: int,
        *,
        save_as: str | None,
    ) -> np.ndarray:
        """The training classes that the model takes for most alike.

        Args:
            variables: {"params", "batch_stats"} of the model.
            images: the training set.
            writer: of the run.
            anchors: [C] int, an image of every class.
            count: neighbours wanted of each.
            save_as: name in the folder `graphs` of the work directory, or None.

        Returns:
            [C, count] int32, the most alike first.
        """
        chosen = images.take(anchors)
        store = pipeline.ImageStore(chosen.image, chosen.name)
        graph = class_graph(
            self._evaluator, variables, self._batches(store), len(chosen), count, writer.progress
        )
        if save_as and jax.process_index() == 0:
            save_graph(self._workdir / "graphs" / save_as, graph, chosen)
        return graph.neighbours

    def tell(self, writer: Writer, what: str) -> None:
        """Says the results of the run, and where they and `what` else are."""
        writer.say(results_table(self._results(writer)))
        writer.say(f"results.json, queries.jsonl, ranking.png{what} are in {self._workdir}")

    def _results(self, writer: Writer) -> list[dict[str, Any]]:
        return results_of(writer.events, initial=self._initial)

    def due(self, epoch: int) -> bool:
        """True if an evaluation is wanted after this many epochs: always before the first."""
        return epoch == 0 or bool(self._every) and epoch % self._every == 0


def settings(config: dict[str, Any], workdir: str) -> dict[str, Any]:
    """The settings of an evaluation.

    Args:
        config: a configuration.
        workdir: the work directory, which may not exist.

    Returns:
        The configuration; where there is no checkpoint and `init_from` is given, its model is that
        of the file.

    Raises:
        FileNotFoundError, ValueError: a file that cannot be used.
    """
    if config["init_from"] and not holds_checkpoint(workdir):
        return config | {"model": read_card(config["init_from"])}
    return config


def evaluate_workdir(
    *,
    workdir: pathlib.Path,
    seed: int,
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    eval: Mapping[str, Any],
    checkpoint: Mapping[str, Any],
    init_from: str | None,
    **_: Any,
) -> None:
    """Evaluates the newest checkpoint of a work directory, or a file of weights.

    Args:
        workdir: of a training, or of nothing yet.
        seed: of the training.
        data: keywords of `datasets.load_sets`; only the test sets are read.
        model: keywords of `make_model`.
        eval: keywords of `Evaluation`.
        checkpoint: keywords of `Checkpoints`.
        init_from: a file of weights; it is evaluated if there is no checkpoint.
        **_: the sections that only training needs.

    Raises:
        FileNotFoundError: there is no checkpoint and no file.
        ValueError: a setting that cannot work.
    """
    mesh, alone = make_mesh(), make_model(**model)
    evaluation = Evaluation(alone, mesh, workdir, loaded=bool(init_from), **eval)
    if init_from and not holds_checkpoint(workdir):
        variables, told = load_weights(init_from, model, skip=("memory",), whole=True)
        variables, step = jax.device_put(variables, shardings(mesh, P())), 0
    else:
        told = []
        with Checkpoints(workdir, {"model": model}, **checkpoint) as checkpoints:
            abstract = jax.eval_shape(lambda: init_variables(alone, seed))
            variables = checkpoints.restore_variables(abstract, mesh)
            step = checkpoints.latest_step
    _, tests = load_sets(**{**data, "train": None})
    with Writer(workdir, resume_at=None) as writer:
        for sentence in told or [f"evaluating the checkpoint of step {step} in {workdir}"]:
            writer.say(sentence)
        evaluation.run(variables, tests, writer, step=step, again=True)
        evaluation.tell(writer, "")
