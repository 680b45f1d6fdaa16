"""Evaluation, straight down: images -> features once -> scores -> variants -> results.

Queries are scored, ranked and forgotten block by block: the scores of all pairs are never held at
once.
"""

import dataclasses
import hashlib
import io
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxreid.data.overlap import Trace, shared_people, trace
from jaxreid.data.split import Split
from jaxreid.evaluation.ranking import protocol_of
from jaxreid.evaluation.ranking.k_reciprocal import rerank_blocks
from jaxreid.evaluation.ranking.metrics import PRECISIONS
from jaxreid.evaluation.ranking.protocol import RULES
from jaxreid.evaluation.ranking.temporal_lifting import companion_blocks, tlift
from jaxreid.evaluation.results import (
    Ranking,
    Result,
    results_of,
    results_table,
    shortlist_sentence,
    write_queries,
    write_ranking,
)
from jaxreid.evaluation.scoring import Scorer
from jaxreid.evaluation.shortlist import Shortlist, check_matcher, check_window
from jaxreid.evaluation.variants import PLAIN, Variant, make_variants
from jaxreid.mesh import to_host
from jaxreid.models.model import Model, feature_shape, init_variables
from jaxreid.names import check_name
from jaxreid.runs.files import replace_file
from jaxreid.runs.log import Writer, progress, write_json

SCORING = ("batch_size", "query_tile", "gallery_tile", "dtype", "flip")  # settings of `Scorer`
TestSets = Mapping[str, Mapping[str, Split]]  # by name, the splits "query" and "gallery"
TRACE = "trained_on.npz"  # in a work directory
BLOCK_SIZE = 2**24  # scores that are held at once: 64 MiB


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a model is evaluated on test sets: the settings `eval`, but for those of `Scorer`.

    Attributes:
        variants: rows of the table for each set; the first is drawn, and listed query by query.
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
        """True if an evaluation is wanted after this many epochs."""
        if epoch == 0:
            return self.untrained
        return bool(self.every_epochs) and epoch % self.every_epochs == 0

    def on(
        self, scorer: Scorer, query: Split, gallery: Split, name: str = ""
    ) -> tuple[dict[str, Result], dict[str, Any], list[str]]:
        """Evaluates one test set.

        Args:
            scorer: of the model, with its variables.
            query: Q images.
            gallery: G images.
            name: of the set.

        Returns:
            Results by variant; the protocol, for the rows of results; and sentences for the user.

        Raises:
            ValueError: there is nothing to evaluate.
        """
        start = time.perf_counter()
        rule, sentences = protocol_of(name, query, gallery, self.junk)
        variants, more = self._possible(name, query, gallery)
        names, images = [*query.name, *gallery.name], [*query.image, *gallery.image]
        with progress(f"{name} features".strip(), total=len(images)) as bar:
            features = scorer.encode(images, names, bar)
        protocol = {"junk": rule, "average_precision": self.average_precision}
        results = evaluate(scorer, features, query, gallery, variants, **protocol, title=name)
        protocol["fingerprint"] = fingerprint(query, gallery)
        protocol["seconds"] = round(time.perf_counter() - start, 2)
        if sentence := shortlist_sentence(name, results):
            more.append(sentence)
        return results, protocol, sentences + more

    def run(
        self,
        scorer: Scorer,
        tests: TestSets,
        writer: Writer,
        workdir: pathlib.Path,
        *,
        step: int,
        again: bool = False,
        initial: str = "untrained",
    ) -> dict[str, dict[str, Result]]:
        """Evaluates on every set; writes events, results.json, queries.jsonl and ranking.png.

        Args:
            scorer: of the model, with its variables.
            tests: the test sets.
            writer: of the run.
            workdir: the work directory.
            step: updates of the model.
            again: also if the run holds an evaluation on every set at this step.
            initial: name of the model of step 0 in the results.

        Returns:
            Results by set and variant; none where the run holds them already.
        """
        if not again and self._held(tests, writer, step):
            return {}
        model = {
            "model_digest": digest_of(scorer.variables),
            "parameters": _count(scorer.variables),
        }
        found = {}
        for name, splits in tests.items():
            results, protocol, sentences = self.on(scorer, splits["query"], splits["gallery"], name)
            for sentence in sentences:
                writer.say(sentence)
            for variant, result in results.items():
                row = {"variant": variant} | result.metrics | {"cmc": result.cmc.round(6).tolist()}
                row |= protocol | model | result.variant.options
                writer.write("eval", step, row, name)
            found[name] = results
        if jax.process_index() == 0:
            rows = results_of(writer.events, initial=initial)
            write_json(workdir / "results.json", {"results": rows})
            first = {name: next(iter(results.values())) for name, results in found.items()}
            write_queries(workdir / "queries.jsonl", tests, first)
            write_ranking(workdir / "ranking.png", tests, first, queries=self.pictures)
        return found

    def _possible(
        self, name: str, query: Split, gallery: Split
    ) -> tuple[tuple[Variant, ...], list[str]]:
        """The variants that the images allow, and a sentence if they do not allow all."""
        timed = all(
            np.isfinite(split.time).all() and (split.camid >= 0).all() for split in (query, gallery)
        )
        variants = tuple(v for v in self.variants if timed or v.tlift is None)
        if len(variants) == len(self.variants):
            return variants, []
        return variants, [
            f"{name}: not every image has a time and a camera; evaluated without TLift."
        ]

    def _held(self, tests: TestSets, writer: Writer, step: int) -> bool:
        held = {
            (event["set"], event.get("fingerprint"), event.get("variant", "plain"))
            for event in writer.events
            if event["kind"] == "eval" and event["step"] == step
        }
        return held >= {
            (name, fingerprint(**splits), variant.name)
            for name, splits in tests.items()
            for variant in self._possible(name, **splits)[0]
        }


def make_evaluation(
    model: Model, mesh: Mesh, settings: Mapping[str, Any]
) -> tuple[Scorer, Evaluation]:
    """The scorer and the evaluation of the settings `eval`.

    Raises:
        ValueError: a setting that cannot work.
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
            variables = jax.eval_shape(lambda: init_variables(model, 0))
            check_window(feature_shape(model, variables), **variant.shortlist)
    return scorer, evaluation


def keep_trace(workdir: pathlib.Path, images: Split) -> None:
    """Leaves in a work directory what recognises its training images in later test sets."""
    if jax.process_index() == 0:
        file = io.BytesIO()
        np.savez_compressed(file, **trace(images).arrays())
        replace_file(workdir / TRACE, file.getvalue())


def warnings_of(workdir: pathlib.Path, tests: TestSets) -> list[str]:
    """Sentences about test sets that share images or people with the training set of a run."""
    try:
        with np.load(workdir / TRACE) as arrays:
            known = Trace.from_arrays(arrays)
    except (OSError, ValueError, KeyError):
        return []  # a run of an older version, or a copy of its checkpoints alone
    overlaps = shared_people(known, tests)
    return [f"WARNING: {overlap.sentence(name)}" for name, overlap in overlaps.items()]


def report(writer: Writer, workdir: pathlib.Path, *, initial: str = "untrained") -> None:
    """Logs the results of a run as a table, and where its files are."""
    writer.say(results_table(results_of(writer.events, initial=initial)))
    files = [f for f in ("results.json", "queries.jsonl", "ranking.png") if (workdir / f).exists()]
    writer.say(f"{', '.join(files)}, metrics and checkpoints are in {workdir}")


def fingerprint(query: Split, gallery: Split) -> str:
    """Eight hexadecimal digits that change with any image, name, person, camera or time."""
    return hashlib.sha256(f"{query.fingerprint} {gallery.fingerprint}".encode()).hexdigest()[:8]


def digest_of(variables: Any) -> str:
    """Eight hexadecimal digits that change with any parameter or statistic."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(to_host(leaf)).tobytes())
    return digest.hexdigest()[:8]


def _count(variables: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def evaluate(
    scorer: Scorer,
    features: np.ndarray,
    query: Split,
    gallery: Split,
    variants: Sequence[Variant] = (PLAIN,),
    *,
    junk: str = "camera",
    average_precision: str = "standard",
    title: str = "",
) -> dict[str, Result]:
    """Metrics of one test set.

    Args:
        scorer: of the model, with its variables.
        features: [Q + G, ...], of the queries, then of the gallery.
        query: Q images; TLift needs their times.
        gallery: G images.
        variants: what to evaluate; each by its own numbers alone, in any order. A shortlist is
            compared with the exact scores and needs an exact variant beside it.
        junk: rule of `ranking.protocol`: which images of its own person a query must not find.
        average_precision: "standard" or "trapezoid", as for `rank_queries`.
        title: of the progress bars.

    Returns:
        By name of the variant. The metrics of a shortlist say how many of the exactly best ten were
        in it ("top10_recall", a fraction), and the seconds of both ways ("scoring_seconds",
        "exact_seconds").

    Raises:
        ValueError: no query has a match, or an option is out of its range.

    Source: Liao and Shao, ECCV 2020, and its published code, for re-ranking and TLift of QAConv.
        How scores become distances and similarities is the matcher's to say.
    """
    rankings = {
        variant.name: Ranking(query, gallery, variant, junk, average_precision)
        for variant in variants
    }
    parts = _query_blocks(query, len(gallery), scorer.query_tile, variants)
    sides = features[: len(query)], features[len(query) :]
    seconds = _score(scorer, *sides, parts, rankings, title)
    for options in _distinct([v.rerank for v in variants if v.rerank is not None]):
        _rerank(scorer, features, parts, rankings, options, title)
    results = {name: r.result() for name, r in rankings.items() if r.variant.shortlist is None}
    for name, ranking in rankings.items():
        if ranking.variant.shortlist is not None:
            exact = next(r for r in results.values() if r.variant.exact)
            results[name] = _shortlist(scorer, *sides, parts, ranking, exact, seconds, title)
    return {name: results[name] for name in rankings}


def _query_blocks(
    query: Split, gallery_size: int, query_tile: int, variants: Sequence[Variant]
) -> list[np.ndarray]:
    """Queries whose scores are held at once; with TLift no query is parted from its companions."""
    size = max(1, BLOCK_SIZE // max(1, gallery_size))
    size = max(1, size // query_tile) * query_tile
    lifts = [variant.tlift for variant in variants if variant.tlift is not None]
    if not lifts:
        return np.split(np.arange(len(query)), np.arange(size, len(query), size))
    reach = [{"tau": lift["tau"]} if "tau" in lift else {} for lift in lifts]
    widest = max(reach, key=lambda options: options.get("tau", 0))
    return companion_blocks(query.camid, query.time, size=size, **widest)


def _score(
    scorer: Scorer,
    query: np.ndarray,
    gallery: np.ndarray,
    parts: Sequence[np.ndarray],
    rankings: Mapping[str, Ranking],
    title: str,
) -> float:
    """Ranks by the scores of all pairs; returns the seconds that scoring took."""
    direct = [ranking for ranking in rankings.values() if ranking.variant.direct]
    if not direct:
        return 0.0
    if len(direct) < len(rankings):  # perhaps a shortlist, whose cost is compared with this one
        scorer.scores(query[:1], gallery[:1])  # compiled before the clock starts
    held, seconds = scorer.hold(gallery), 0.0
    with progress(f"{title} scores", total=len(query) * len(gallery), unit="pair") as bar:
        for part in parts:
            start = time.perf_counter()
            scores = scorer.scores(query[part], held, bar)
            seconds += time.perf_counter() - start
            for ranking in direct:
                if ranking.variant.tlift is None:
                    ranking.add(part, scores)
                else:
                    alike = scorer.model.matcher.similarities(scores)
                    ranking.add(part, _lifted(ranking, part, alike))
    return seconds


def _rerank(
    scorer: Scorer,
    features: np.ndarray,
    parts: Sequence[np.ndarray],
    rankings: Mapping[str, Ranking],
    options: Mapping[str, Any],
    title: str,
) -> None:
    """Ranks by re-ranked distances, and by these lifted."""
    chosen = [ranking for ranking in rankings.values() if ranking.variant.rerank == options]
    matcher, count = scorer.model.matcher, chosen[0].shape[0]
    query, gallery = features[:count], features[count:]

    def distances(images: np.ndarray) -> np.ndarray:
        # Distances of all images to some. The matcher need not be symmetric: a query is always the
        # query side of its pairs with the gallery, so that `weight=1` is the plain ranking.
        scores = np.empty((len(images), len(features)), np.float32)
        scores[:, :count] = scorer.scores(query, features[images]).T
        of_query, of_gallery = images < count, images >= count
        if of_query.any():
            scores[of_query, count:] = scorer.scores(features[images[of_query]], gallery)
        if of_gallery.any():
            scores[of_gallery, count:] = scorer.scores(gallery, features[images[of_gallery]]).T
        bar.update(min(len(images), bar.total - bar.n))  # some are asked for again
        return matcher.distances(scores)

    settings = {"block": scorer.gallery_tile} | matcher.rerank_options | dict(options)
    with progress(f"{title} re-ranking", total=len(features)) as bar:
        blocks = rerank_blocks(distances, count, len(gallery), parts=parts, **settings)
        for part, distance in blocks:
            for ranking in chosen:
                alike = 1 - distance
                lift = ranking.variant.tlift is not None
                ranking.add(part, _lifted(ranking, part, alike) if lift else alike)


def _lifted(ranking: Ranking, part: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """Similarities [q, G] of the queries `part`, lifted by their companions."""
    query, gallery = ranking.query, ranking.gallery
    return tlift(
        similarities,
        query_camid=query.camid[part],
        query_time=query.time[part],
        gallery_camid=gallery.camid,
        gallery_time=gallery.time,
        **ranking.variant.tlift,
    )


def _shortlist(
    scorer: Scorer,
    query: np.ndarray,
    gallery: np.ndarray,
    parts: Sequence[np.ndarray],
    ranking: Ranking,
    exact: Result,
    exact_seconds: float,
    title: str,
) -> Result:
    """Ranks from coarse to fine, and says how much of the exactly best it kept at which cost."""
    start = time.perf_counter()
    shortlist = Shortlist(scorer, gallery, **ranking.variant.shortlist)
    seconds = time.perf_counter() - start
    shortlist.scores(query[:1])  # compiled before the clock starts
    kept = []
    with progress(f"{title} shortlists", total=len(query) * len(gallery), unit="pair") as bar:
        for part in parts:
            start = time.perf_counter()
            scores, chosen = shortlist.scores(query[part], bar)
            seconds += time.perf_counter() - start
            ranking.add(part, scores)
            best = exact.top[part]
            kept.append((chosen[:, :, None] == best[:, None]).any(1)[best >= 0])
    # No rates of all pairs: scores beyond the shortlist are of another scale.
    return ranking.result(pairs=False).with_metrics(
        top10_recall=float(np.concatenate(kept).mean()),
        scoring_seconds=seconds,
        exact_seconds=exact_seconds,
    )


def _distinct(items: Sequence[Any]) -> Iterator[Any]:
    for i, item in enumerate(items):
        if item not in items[:i]:
            yield item
