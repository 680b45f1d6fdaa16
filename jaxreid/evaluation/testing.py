"""Evaluating a model on the test sets of a run, during training or from a work directory."""

import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxreid.data.images.pillow import image_batches
from jaxreid.data.sets import load_sets
from jaxreid.data.split import Split
from jaxreid.evaluation.ranking.metrics import PRECISIONS
from jaxreid.evaluation.ranking.protocol import RULES
from jaxreid.evaluation.ranking.rerank import rerank_matrix
from jaxreid.evaluation.ranking.tlift import tlift as lift
from jaxreid.evaluation.results import (
    protocol_of,
    results_of,
    results_table,
    shortlist_sentence,
    write_queries,
    write_ranking,
)
from jaxreid.evaluation.run import evaluate
from jaxreid.evaluation.scoring import Evaluator
from jaxreid.evaluation.shortlist import check_matcher, check_window
from jaxreid.mesh import make_mesh, shardings
from jaxreid.models.model import Model, feature_shape, init_variables, make_model
from jaxreid.names import check_name
from jaxreid.runs.log import Writer, write_json
from jaxreid.runs.workdir import holds_checkpoint
from jaxreid.weights.checkpoint import Checkpoints
from jaxreid.weights.file import load_weights, read_card

RERANK = ("k1", "k2", "weight", "squared", "normalize")
TLIFT = ("tau", "sigma", "k", "alpha")
SIGHTING = ("camid", "time")


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
        shortlist: evaluate from coarse to fine as well, with so many images scored exactly for each
            query, after those of maps pooled by `shortlist_window`; 0 for not.
        tlift: evaluate with TLift as well, with `tlift_options`, keywords of `ranking.tlift`.
        every_epochs: how often the caller is told to evaluate in between; 0 for never.
        loaded: step 0 has weights from a file; the results call it "loaded", not "untrained".
        batch_size: as for `Evaluator`; so are flip and dtype.
        **tiles: the tile sizes of `Evaluator`.

    Raises:
        ValueError: a setting that cannot work.
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
        shortlist: int,
        shortlist_window: tuple[int, int],
        every_epochs: int,
        batch_size: int,
        flip: bool = False,
        dtype: str = "float32",
        loaded: bool = False,
        **tiles: int,
    ) -> None:
        self.evaluator = Evaluator(
            model, mesh, batch_size=batch_size, flip=flip, dtype=dtype, **tiles
        )
        if junk != "auto":
            check_name(junk, RULES, "eval.junk")
        check_name(average_precision, PRECISIONS, "eval.average_precision")
        _check_options(rerank_options, tlift_options)
        # What makes other numbers of the same weights is part of the variant's name.
        self._prefix = [n for n, on in (("flip", flip), (dtype, dtype != "float32")) if on]
        self._workdir, self._pictures, self._junk = workdir, pictures, junk
        self._precision = average_precision
        self._rerank = rerank_options if rerank else None
        self._tlift = tlift_options if tlift else None
        window = {"size": shortlist, "window": tuple(shortlist_window)}
        self._shortlist = window if shortlist else None
        if shortlist:
            check_matcher(model.matcher)
            variables = jax.eval_shape(lambda: init_variables(model, 0))
            check_window(feature_shape(model, variables), **window)
        self._initial = "loaded" if loaded else "untrained"
        self._every = every_epochs
        self._batches = functools.partial(
            image_batches,
            **model.image_format,
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
        rules, lifts, told = {}, {}, []
        for name, splits in tests.items():
            rules[name], sentences = protocol_of(
                name, splits["query"], splits["gallery"], self._junk
            )
            timed = all(
                np.isfinite(split.time).all() and (split.camid >= 0).all()
                for split in splits.values()
            )
            lifts[name] = self._tlift if timed else None
            if self._tlift is not None and not timed:
                sentences.append(
                    f"{name}: not every image has a time and a camera; evaluated without TLift."
                )
            told += sentences
        wanted = {(name, self._name(v)) for name in tests for v in self._variants(lifts[name])}
        found = {
            (e["set"], e.get("variant", "plain"))
            for e in writer.events
            if e["kind"] == "eval" and e["step"] == step
        }
        if found >= wanted and not again:
            return
        for sentence in told:
            writer.say(sentence)
        results = {}
        for name, splits in tests.items():
            progress = lambda what, name=name, **keys: writer.progress(f"{name} {what}", **keys)  # noqa: E731
            results[name] = evaluate(
                self.evaluator,
                variables,
                splits["query"],
                splits["gallery"],
                self.load,
                progress,
                junk=rules[name],
                precision=self._precision,
                rerank=self._rerank,
                tlift=lifts[name],
                shortlist=self._shortlist,
            )
            if self._shortlist is not None:
                writer.say(shortlist_sentence(name, results[name]))
        for name, variants in results.items():
            rule = {"junk": rules[name], "average_precision": self._precision}
            for variant, result in variants.items():
                row = {"variant": self._name(variant)} | result.metrics | rule
                writer.write("eval", step, row | self._options(variant), name)
        if jax.process_index() == 0:
            write_json(self._workdir / "results.json", {"results": self._results(writer)})
            plain = {name: variants["plain"] for name, variants in results.items()}
            write_queries(self._workdir / "queries.jsonl", tests, plain)
            write_ranking(self._workdir / "ranking.png", tests, plain, queries=self._pictures)

    def tell(self, writer: Writer, what: str) -> None:
        """Says the results of the run, and where they and `what` else are."""
        writer.say(results_table(self._results(writer)))
        writer.say(f"results.json, queries.jsonl, ranking.png{what} are in {self._workdir}")

    def load(self, splits: Sequence[Split]) -> Iterator[np.ndarray]:
        """This process's parts of the batches of all images of some splits."""
        images = [image for split in splits for image in split.image]
        names = [name for split in splits for name in split.name]
        return self._batches(images, names)

    def _variants(self, tlift: Mapping[str, Any] | None) -> list[str]:
        """What `evaluate` gives."""
        again = ["rerank"] if self._rerank is not None else []
        lifted = ["+".join([*again, "tlift"])] if tlift is not None else []
        return ["plain", *again, *lifted, *(["shortlist"] if self._shortlist else [])]

    def _name(self, variant: str) -> str:
        return "+".join([*self._prefix, *([variant] if variant != "plain" else [])]) or "plain"

    def _options(self, variant: str) -> dict[str, Any]:
        """The options that were given for a variant."""
        given = {"rerank": self._rerank, "tlift": self._tlift, "shortlist": self._shortlist}
        return {f"{p}_options": dict(given[p]) for p in variant.split("+") if given.get(p)}

    def _results(self, writer: Writer) -> list[dict[str, Any]]:
        return results_of(writer.events, initial=self._initial)

    def due(self, epoch: int) -> bool:
        """True if an evaluation is wanted after this many epochs: always before the first."""
        return epoch == 0 or bool(self._every) and epoch % self._every == 0


def _check_options(rerank: Mapping[str, Any], tlift: Mapping[str, Any]) -> None:
    """Raises ValueError now for what would stop the evaluation when all features are there."""
    for name, given, valid in (("rerank", rerank, RERANK), ("tlift", tlift, TLIFT)):
        for option in given:
            check_name(option, valid, f"option in eval.{name}_options")
    rerank_matrix(1 - np.eye(2), 1, **rerank)
    one = {f"{of}_{what}": np.zeros(1, int) for of in ("query", "gallery") for what in SIGHTING}
    lift(np.ones((1, 1)), **one, **tlift)


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
            held = make_model(**checkpoints.card()["model"])  # perhaps with a classifier
            abstract = jax.eval_shape(lambda: init_variables(held, seed))
            variables = checkpoints.restore_variables(abstract, mesh)
            step = checkpoints.latest_step
    _, tests = load_sets(**{**data, "train": None})
    with Writer(workdir, resume_at=None) as writer:
        for sentence in told or [f"evaluating the checkpoint of step {step} in {workdir}"]:
            writer.say(sentence)
        evaluation.run(variables, tests, writer, step=step, again=True)
        evaluation.tell(writer, "")
