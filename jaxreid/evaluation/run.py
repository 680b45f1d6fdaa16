"""Evaluation of a model on its test sets: images, features, results, log, files."""

import dataclasses
import hashlib
import io
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxreid.data.images.on_disk import chained
from jaxreid.data.overlap import Trace, found_by_itself, shared_people, trace
from jaxreid.data.split import Split
from jaxreid.evaluation.calibration import Calibration
from jaxreid.evaluation.calibration_file import CALIBRATION
from jaxreid.evaluation.curves import CURVES, curves_of
from jaxreid.evaluation.feature_file import StoredFeatures, StoredScores
from jaxreid.evaluation.fitting import fit
from jaxreid.evaluation.given_scores import GivenScores
from jaxreid.evaluation.means import means_of
from jaxreid.evaluation.ranking import protocol_of
from jaxreid.evaluation.ranking.metrics import PRECISIONS
from jaxreid.evaluation.ranking.protocol import RULES
from jaxreid.evaluation.reliability import RELIABILITY, reliabilities, write_reliability
from jaxreid.evaluation.results import (
    Result,
    results_of,
    results_table,
    shortlist_sentence,
    write_queries,
    write_ranking,
)
from jaxreid.evaluation.retrieval import evaluate
from jaxreid.evaluation.scoring import Scorer
from jaxreid.evaluation.shortlist import check_matcher, check_size, check_window
from jaxreid.evaluation.variants import PLAIN, Variant, make_variants
from jaxreid.mesh import to_host
from jaxreid.models.model import Model, abstract_variables, feature_shape
from jaxreid.names import check_name
from jaxreid.runs.files import replace_file
from jaxreid.runs.log import Writer, event, progress, write_json
from jaxreid.runs.workdir import KEPT

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# Settings of `Scorer`.
SCORING = (
    *("batch_size", "query_tile", "gallery_tile"),
    *("dtype", "precision", "flip", "memory", "memory_dir"),
)
# The splits "query" and "gallery" by test set.
TestSets = Mapping[str, Mapping[str, Split]]
# File in a work directory.
TRACE = "trained_on.npz"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Evaluation of a model on test sets: the settings `eval` without those of `Scorer`.

    Attributes:
        variants: rows of the results table for each set; the first is drawn and listed per query.
        junk: rule of `ranking.protocol`, or "auto" for the one that fits the set.
        average_precision: "standard" or "trapezoid", as for `rank_queries`.
        pictures: queries per test set in ranking.png.
        every_epochs: evaluate every N epochs; 0 only before the first and after the last.
        untrained: evaluate before the first epoch.
    """

    variants: tuple[Variant, ...] = (PLAIN,)
    junk: str = "auto"
    average_precision: str = "standard"
    pictures: int = 4
    every_epochs: int = 0
    untrained: bool = True

    def due(self, epoch: int) -> bool:
        """Return whether to evaluate after this many epochs."""
        if epoch == 0:
            return self.untrained
        return bool(self.every_epochs) and epoch % self.every_epochs == 0

    def check(self, tests: TestSets) -> None:
        """Raise ValueError if a test set cannot be evaluated; needs no model."""
        for name, splits in tests.items():
            protocol_of(name, splits["query"], splits["gallery"], self.junk)

    def on(
        self,
        scorer: Scorer | GivenScores,
        query: Split,
        gallery: Split,
        name: str = "",
        features: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> tuple[dict[str, Result], dict[str, Any], list[str]]:
        """Evaluate one test set; its features [Q + G, ...] are computed if they are not known.

        Its scores are written into `keep` [Q, G].

        Returns:
            Results by variant; the protocol, for the rows of results; and messages for the user.

        Raises:
            ValueError: there is nothing to evaluate.
        """
        start = time.perf_counter()
        rule, messages = protocol_of(name, query, gallery, self.junk)
        variants, more = self._possible(name, query, gallery, rule)
        if rule == "camera" and (twins := found_by_itself(query, gallery)):
            more.append(
                f"WARNING: {name}: {len(twins)} of {len(query)} queries ({', '.join(twins[:3])}) "
                "are in the gallery as the same file under another camera and find themselves. "
                "Remove the doubles, or use --config.eval.junk=same-image for copies of one name."
            )
        if features is None:
            features = encode(scorer, query, gallery, name)
        protocol = {"junk": rule, "average_precision": self.average_precision}
        options = protocol | {"keep": keep, "title": name}
        results = evaluate(scorer, features, query, gallery, variants, **options)
        protocol["fingerprint"] = fingerprint(query, gallery)
        if query.origins and query.origins[0].place:
            protocol["place"] = query.origins[0].place
        protocol["precision"] = scorer.precision
        protocol["seconds"] = round(time.perf_counter() - start, 2)
        if (peak := _peak_memory()) is not None:
            protocol["peak_memory_gb"] = round(peak, 2)
        if sentence := shortlist_sentence(name, results):
            more.append(sentence)
        return results, protocol, messages + more

    def run(
        self,
        scorer: Scorer | GivenScores,
        tests: TestSets,
        writer: Writer,
        workdir: pathlib.Path,
        *,
        step: int,
        again: bool = False,
        initial: str = "untrained",
        model: str = "",
        stored: StoredFeatures | StoredScores | None = None,
        keep: np.ndarray | None = None,
    ) -> dict[str, dict[str, Result]]:
        """Evaluate every test set; write events and files.

        The files are results.json, queries.jsonl, curves.json, ranking.png, calibration.json and
        reliability.png.

        `step` is the number of updates of the model. If the run already holds an evaluation of
        every set at this step, nothing is evaluated unless `again`. The results call the model of
        step 0 `initial`. `stored` holds the features of the only test set, if they are known, and
        `keep` takes its scores.

        `model` names other weights than those of the run, such as their average: of these, only
        results.json is written.

        Returns:
            Results by set and variant; empty if nothing was evaluated.
        """
        if not again and self._held(tests, writer, step, model):
            return {}
        identity = described(scorer.variables) if stored is None else dict(stored.model)
        features = None if stored is None else stored.features
        evaluated, events = {}, []
        for name, splits in tests.items():
            results, protocol, messages = self.on(
                scorer, splits["query"], splits["gallery"], name, features, keep
            )
            for message in messages:
                writer.say(message)
            for variant, result in results.items():
                row = {"variant": variant} | result.metrics | {"cmc": result.cmc.round(6).tolist()}
                row |= protocol | identity | result.variant.options
                row |= {"model": model} if model else {}
                events.append(event("eval", step, row, name))
            evaluated[name] = results
        # The files before the events, by which a later start knows that they are there.
        if jax.process_index() == 0:
            if not model:
                # They add the figures of the other files to the events.
                digest = identity["model_digest"]
                for message in calibrate(workdir, evaluated, events, model_digest=digest):
                    writer.say(message)
            rows = results_of([*writer.events, *events], initial=initial)
            write_json(workdir / "results.json", {"results": rows, "means": means_of(rows)})
            if not model:
                first = {name: next(iter(results.values())) for name, results in evaluated.items()}
                write_json(workdir / CURVES, curves_of(evaluated))
                write_queries(workdir / "queries.jsonl", tests, first)
                if stored is None or stored.pictured:
                    write_ranking(workdir / "ranking.png", tests, first, queries=self.pictures)
                else:
                    writer.say(
                        f"{stored.name}: its images are not available; ranking.png is skipped."
                    )
        for row in events:
            writer.append(row)
        return evaluated

    def _possible(
        self, name: str, query: Split, gallery: Split, rule: str
    ) -> tuple[tuple[Variant, ...], list[str]]:
        """Return the variants that images and junk rule support; messages if some are left out."""
        timed = all(
            np.isfinite(split.time).all() and (split.camid >= 0).all() for split in (query, gallery)
        )
        # Of other rules, the images that search together would be matches.
        apart = rule == "camera"
        variants, messages = self.variants, []
        if not timed and any(v.tlift is not None for v in variants):
            variants = tuple(v for v in variants if v.tlift is None)
            messages.append(
                f"{name}: not every image has a time and a camera; evaluated without TLift."
            )
        if not apart and any(v.multi_query is not None for v in variants):
            variants = tuple(v for v in variants if v.multi_query is None)
            messages.append(
                f"{name}: junk rule {rule!r}: images of one person and camera are matches; "
                "evaluated without multiple queries."
            )
        return variants, messages

    def _held(self, tests: TestSets, writer: Writer, step: int, model: str) -> bool:
        held = {
            (event["set"], event.get("fingerprint"), event.get("variant", "plain"))
            for event in writer.events
            if (event["kind"], event["step"], event.get("model", "")) == ("eval", step, model)
        }
        return held >= {
            (name, fingerprint(**splits), variant.name)
            for name, splits in tests.items()
            for variant in self._possible(
                name, **splits, rule=protocol_of(name, **splits, junk=self.junk)[0]
            )[0]
        }


def encode(scorer: Scorer, query: Split, gallery: Split, title: str = "") -> np.ndarray:
    """Return the features [Q + G, ...] of a test set, of the queries, then of the gallery."""
    names, images = [*query.name, *gallery.name], chained([query.image, gallery.image])
    with progress(f"{title} features".strip(), total=len(images)) as bar:
        return scorer.encode(images, names, bar)


def calibrate(
    workdir: pathlib.Path,
    evaluated: Mapping[str, Mapping[str, Result]],
    events: list[dict[str, Any]],
    *,
    model_digest: str,
) -> list[str]:
    """Write calibration.json and reliability.png; add to the events how well calibrations hold.

    A calibration of the same model on a user's own images stays.

    Returns:
        Messages for the user.
    """
    pairs = {
        name: result.pairs
        for name, results in evaluated.items()
        for result in results.values()
        if result.pairs is not None
    }
    if not pairs:
        return []
    judged = reliabilities(pairs)
    for row in events:
        # The only variant whose pairs are kept (`Result`).
        if row["variant"] == PLAIN.name:
            for where, reliability in judged.get(row["set"], {}).items():
                key = f"calibrated_on_{where.replace(' ', '_')}"
                row[f"{key}_ece"] = reliability.ece
                row[f"{key}_log_loss"] = reliability.log_loss
    write_reliability(workdir / RELIABILITY, judged)
    path = workdir / CALIBRATION
    try:
        held = Calibration.read(path)
    except (OSError, ValueError):
        held = None
    if held is not None and held.own and held.model_digest == model_digest:
        return [f"{path} stays: it was calibrated on your own images ({held.names})."]
    fingerprints = {row["set"]: row["fingerprint"] for row in events}
    fit(pairs, fingerprints, model_digest=model_digest).save(path)
    return []


def make_evaluation(
    model: Model, mesh: Mesh, settings: Mapping[str, Any]
) -> tuple[Scorer, Evaluation]:
    """Build the scorer and the evaluation from the settings `eval`.

    Raises:
        ValueError: a setting is invalid.
    """
    scoring = {name: settings[name] for name in SCORING if name in settings}
    rest = {name: value for name, value in settings.items() if name not in SCORING}
    names = [field.name for field in dataclasses.fields(Evaluation) if field.name != "variants"]
    rules = {name: rest.pop(name) for name in names if name in rest}
    scorer = Scorer(model, mesh, **scoring)
    features = {name: scoring[name] for name in ("flip", "dtype") if name in scoring}
    evaluation = Evaluation(make_variants(**features, **rest), **rules)
    if evaluation.junk != "auto":
        check_name(evaluation.junk, RULES, "eval.junk")
    check_name(evaluation.average_precision, PRECISIONS, "eval.average_precision")
    for variant in evaluation.variants:
        if variant.shortlist is not None:
            check_matcher(model.matcher)
            variables = abstract_variables(model)
            check_size(variant.shortlist["size"])
            check_window(feature_shape(model, variables), variant.shortlist["window"])
        _check_embeddings(model, variant)
    return scorer, evaluation


def _check_embeddings(model: Model, variant: Variant) -> None:
    """Raise ValueError if a variant averages embeddings and the model has none."""
    if model.neck.features.kind == "embedding":
        return
    ways = []
    if variant.expand is not None:
        ways.append("eval.expand=0")
    if variant.multi_query is not None and variant.multi_query["pool"] != "scores":
        ways.append("eval.multi_query=scores")
    if ways:
        raise ValueError(
            f"this model returns {model.neck.features.words}, which have no mean that a matcher "
            f"could compare; expected embeddings: set {ways[0]}."
        )


def keep_trace(workdir: pathlib.Path, images: Split) -> None:
    """Write the trace that identifies the training images of a run in later test sets."""
    if jax.process_index() == 0:
        file = io.BytesIO()
        np.savez_compressed(file, **trace(images).arrays())
        replace_file(workdir / TRACE, file.getvalue())


def warnings_of(workdir: pathlib.Path, tests: TestSets) -> list[str]:
    """Return warnings about test sets that share images or people with a run's training set."""
    try:
        with np.load(io.BytesIO((workdir / TRACE).read_bytes())) as arrays:
            known = Trace.from_arrays(arrays)
    except (OSError, ValueError, KeyError):
        # A run of an older version, or a copy of its checkpoints alone.
        return []
    overlaps = shared_people(known, tests)
    return [f"WARNING: {overlap.sentence(name)}" for name, overlap in overlaps.items()]


def report(writer: Writer, workdir: pathlib.Path, *, initial: str = "untrained") -> None:
    """Log the results of a run as a table, and the location of its files."""
    writer.say(results_table(results_of(writer.events, initial=initial)))
    names = ("results.json", "queries.jsonl", "ranking.png", CALIBRATION, RELIABILITY, *KEPT)
    files = [name for name in names if (workdir / name).exists()]
    # A folder of results alone has no checkpoints.
    rest = "metrics and checkpoints" if (workdir / "checkpoints").exists() else "metrics"
    writer.say(f"{', '.join(files)}, {rest} are in {workdir}")


def fingerprint(query: Split, gallery: Split) -> str:
    """Return eight hexadecimal digits that change with any image, name, person, camera or time."""
    return hashlib.sha256(f"{query.fingerprint} {gallery.fingerprint}".encode()).hexdigest()[:8]


def described(variables: Any) -> dict[str, Any]:
    """Return the digest and the number of the parameters of a model, for rows of results."""
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return {"model_digest": digest_of(variables), "parameters": count}


def digest_of(variables: Any) -> str:
    """Return eight hexadecimal digits that change with any parameter or statistic."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(to_host(leaf)).tobytes())
    return digest.hexdigest()[:8]


def _peak_memory() -> float | None:
    """Return the largest resident set of this process so far, in GB; None where it is unknown."""
    if resource is None:
        return None
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 1e9 if sys.platform == "darwin" else kilobytes * 1024 / 1e9
