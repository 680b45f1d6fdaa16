"""Results: metrics of a test set, rows, a table, and files.

A row of `results.json` identifies its model, its test set by a fingerprint of the images, its
variant and its protocol.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.data.split import Split
from jaxreid.evaluation.means import METRICS, family, means_of
from jaxreid.evaluation.ranking import (
    QueryRanks,
    junk_groups,
    rank_queries,
    summarize,
    top_matches,
)
from jaxreid.evaluation.ranking.pairs import Pairs
from jaxreid.evaluation.ranking.roc import Roc, RocAccumulator
from jaxreid.evaluation.variants import PLAIN, Variant
from jaxreid.pictures.canvas import save
from jaxreid.pictures.ranking import Row, Tile, ranking_picture
from jaxreid.runs.files import replace_file
from jaxreid.runs.log import table

# Gallery images kept of each query's ranking.
LISTED = 10
RANKS = (1, 5, 10, 20)
# Ranks of the curve in the files.
CMC = 50


@dataclasses.dataclass(frozen=True)
class Result:
    """Evaluation of one test set with one variant.

    Attributes:
        variant: the evaluated variant.
        metrics: rank1, rank5, rank10, rank20, mAP, mINP (fractions) and the numbers of queries;
            over all pairs tpr_at_fpr_... and equal_error_rate (fractions), threshold_at_fpr_... and
            equal_error_threshold (scores).
        cmc: [`CMC`] fractions, the cumulative match characteristic: share of queries with a match
            among the best 1, 2, ... gallery images, of the queries that have one at all.
        ranks: ranks of each query.
        top: [Q, `LISTED`] int64, best gallery images without junk, best first; padded with -1.
        top_scores: [Q, `LISTED`] float32, their scores; padded with NaN.
        pairs: scores of all pairs, for a calibration; None for variants other than the plain one,
            whose scores `ReID.score` does not return, and without pairs of two people.
    """

    variant: Variant
    metrics: dict[str, float]
    cmc: np.ndarray
    ranks: QueryRanks
    top: np.ndarray
    top_scores: np.ndarray
    pairs: Pairs | None = None

    def with_metrics(self, **more: float) -> "Result":
        """Return this result with further metrics."""
        return dataclasses.replace(self, metrics=self.metrics | more)

    def __str__(self) -> str:
        values = (f"{key} {100 * self.metrics[key]:.1f}" for key in METRICS)
        return f"{self.variant.name}: {', '.join(values)} percent"


class Ranking:
    """Reduction of blocks of scores to a `Result`; the scores are not kept.

    Args:
        query: Q images.
        gallery: G images.
        variant: the evaluated variant.
        junk: rule of `ranking.protocol`: which images of its own person a query must not match.
        average_precision: as for `rank_queries`.

    Raises:
        ValueError: an unknown rule.
    """

    def __init__(
        self,
        query: Split,
        gallery: Split,
        variant: Variant = PLAIN,
        junk: str = "camera",
        average_precision: str = "standard",
    ) -> None:
        groups = junk_groups(junk, query.camid, gallery.camid, query.name, gallery.name)
        self.query, self.gallery, self.variant = query, gallery, variant
        self._ids = (query.pid, groups[0]), (gallery.pid, groups[1])
        self._average_precision = average_precision
        self._roc = RocAccumulator(len(query) * len(gallery))
        self._order: list[np.ndarray] = []
        self._parts: list[tuple[QueryRanks, np.ndarray, np.ndarray]] = []

    @property
    def shape(self) -> tuple[int, int]:
        """Q and G."""
        return len(self.query), len(self.gallery)

    def add(self, part: np.ndarray, scores: np.ndarray) -> None:
        """Add the scores [q, G] of the queries `part` [q] int; each query once, in any order."""
        ids = *(of[part] for of in self._ids[0]), *self._ids[1]
        top = top_matches(scores, *ids, LISTED)
        best = np.take_along_axis(scores, np.maximum(top, 0), axis=1)
        ranks = rank_queries(scores, *ids, precision=self._average_precision)
        self._roc.add(scores, *ids)
        self._order.append(part)
        self._parts.append((ranks, top, np.where(top < 0, np.nan, best)))

    def result(self, pairs: bool = True) -> Result:
        """Return the result, after all queries.

        Args:
            pairs: include the rates over all pairs.

        Raises:
            ValueError: no query has a match.
        """
        back = np.argsort(np.concatenate(self._order))
        ranks, top, top_scores = zip(*self._parts, strict=True)
        ranks = QueryRanks.concatenate(ranks).take(back)
        metrics = summarize(ranks, RANKS)
        people = set(self._ids[0][0]) | set(self._ids[1][0])
        # The ROC needs pairs of two people.
        kept = None
        if pairs and len(people) > 1:
            metrics |= _rates(self._roc.result())
            kept = self._roc.all_pairs() if self.variant == PLAIN else None
        first = ranks.first_match[ranks.matches > 0]
        cmc = (first[:, None] <= np.arange(1, CMC + 1)).mean(0)
        tops = np.concatenate(top)[back], np.concatenate(top_scores)[back]
        return Result(self.variant, metrics, cmc, ranks, *tops, kept)


def _rates(roc: Roc) -> dict[str, float]:
    """Return the rates over all pairs, and their thresholds where finite."""
    metrics = {f"tpr_at_fpr_{fpr:g}": rate for fpr, rate in roc.true_positive_rate.items()}
    metrics |= {
        f"threshold_at_fpr_{fpr:g}": score
        for fpr, score in roc.threshold.items()
        if np.isfinite(score)
    }
    metrics["equal_error_rate"] = roc.equal_error_rate
    metrics["equal_error_threshold"] = roc.equal_error_threshold
    return metrics


def results_of(
    events: Sequence[Mapping[str, Any]], *, initial: str = "untrained"
) -> list[dict[str, Any]]:
    """Return the first and the newest evaluation of each test set in the events of a run.

    Args:
        events: events of a `Writer`; kinds other than "eval" are ignored.
        initial: name of the model of step 0.

    Returns:
        Rows {"set", "variant", "model", "step"} with the metrics, per test set in the order of
        first evaluation. The model of a later step than 0 is called "trained", unless the event
        names it. Two folders of images under one name are two test sets.
    """
    by_set: dict[tuple[str, str | None], dict[tuple[str, str], dict[str, Any]]] = {}
    for event in events:
        if event["kind"] == "eval":
            row = {"set": event["set"], "variant": event.get("variant", "plain")}
            row["model"] = event.get("model") or ("trained" if event["step"] else initial)
            row["step"] = event["step"]
            row |= {key: event[key] for key in event if key not in (*row, "kind", "time")}
            rows = by_set.setdefault((event["set"], event.get("fingerprint")), {})
            rows[row["model"], row["variant"]] = row
    chosen = []
    # Only the newest step: a variant that was not evaluated again belongs to other weights.
    for rows in by_set.values():
        newest = {
            model: max(r["step"] for (m, _), r in rows.items() if m == model) for model, _ in rows
        }
        chosen += [row for (model, _), row in rows.items() if row["step"] == newest[model]]
    return chosen


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Format rows of `results_of` and their means as a table, in percent.

    Of a set with several splits it holds the means and standard deviations alone.
    """
    means = means_of(results)
    averaged = {(mean["set"], mean["place"], mean["step"]) for mean in means if mean["set"]}
    fingerprints: dict[str, set[str | None]] = {}
    places: dict[str, set[str]] = {}
    for row in results:
        fingerprints.setdefault(row["set"], set()).add(row.get("fingerprint"))
        places.setdefault(row["set"], set()).add(row.get("place", ""))
    rows = []
    for row in results:
        name = row["set"]
        if (family(name), row.get("place", ""), row.get("step", 0)) in averaged:
            continue
        # Other images under the same name.
        if len(fingerprints[name]) > 1:
            place = row.get("place", "") if len(places[name]) > 1 else ""
            name += f" [{place or row.get('fingerprint') or 'unknown'}]"
        if row["variant"] != "plain":
            name += f" {row['variant']}"
        rows.append((name, row["model"], *(f"{100 * row[key]:.1f}" for key in METRICS)))
    for mean in means:
        if mean["set"]:
            name = f"{mean['set']}, {mean['splits']} splits"
            cells = (f"{100 * mean[k]:.1f} ± {100 * mean['std'][k]:.1f}" for k in METRICS)
        else:
            name = f"mean of {mean['sets']} test sets"
            cells = (f"{100 * mean[key]:.1f}" for key in METRICS)
        if mean["variant"] != "plain":
            name += f" {mean['variant']}"
        rows.append((name, mean["model"], *cells))
    return table(("test set", "model", *METRICS), rows)


def shortlist_sentence(name: str, results: Mapping[str, Result]) -> str | None:
    """Summarise gain and loss by a shortlist on test set `name`; None without a shortlist."""
    metrics = next((r.metrics for r in results.values() if r.variant.shortlist is not None), None)
    if metrics is None:
        return None
    exact = next(r.metrics for r in results.values() if r.variant.exact)
    return (
        f"{name}: shortlists took {metrics['scoring_seconds']:.1f} s instead of "
        f"{metrics['exact_seconds']:.1f} s and contain {metrics['top10_recall']:.2%} of the exact "
        f"top {LISTED}; mAP {metrics['mAP']:.2%} instead of {exact['mAP']:.2%}."
    )


def write_ranking(
    path: pathlib.Path,
    tests: Mapping[str, Mapping[str, Split]],
    results: Mapping[str, Result],
    *,
    queries: int,
) -> None:
    """Draw the best matches of a few queries of each test set (PNG), the worst ranked query first.

    The `queries` rows of a set are spread evenly over its queries in order of average precision.
    """
    sections = []
    for name, result in results.items():
        query, gallery = tests[name]["query"], tests[name]["gallery"]
        valid = np.flatnonzero(result.ranks.matches)
        order = valid[np.argsort(result.ranks.average_precision[valid], kind="stable")]
        chosen = order[np.unique(np.linspace(0, len(order) - 1, queries).round().astype(int))]
        rows = [row_of(q, query, gallery, result) for q in chosen]
        title = f"{name}: rank-1 {result.metrics['rank1']:.1%}, mAP {result.metrics['mAP']:.1%}"
        sections.append((title, rows))
    save(ranking_picture(sections), path)


def write_queries(
    path: pathlib.Path, tests: Mapping[str, Mapping[str, Split]], results: Mapping[str, Result]
) -> None:
    """Write the result of every query as a line of JSON.

    A line holds "set", "query" (name), "pid", "camid" (from 0), "matches" (in the gallery), "AP"
    and "first_match" (rank from 1; both null without a match), and "top": the best gallery images,
    each with "name", "score" and "right".
    """
    lines = []
    for name, result in results.items():
        query, gallery = tests[name]["query"], tests[name]["gallery"]
        for q in range(len(query)):
            matches = int(result.ranks.matches[q])
            line = {
                "set": name,
                "query": query.name[q],
                "pid": int(query.pid[q]),
                "camid": int(query.camid[q]),
                "matches": matches,
                "AP": float(result.ranks.average_precision[q]) if matches else None,
                "first_match": int(result.ranks.first_match[q]) if matches else None,
                "top": [
                    {
                        "name": gallery.name[g],
                        "score": round(float(score), 6),
                        "right": bool(gallery.pid[g] == query.pid[q]),
                    }
                    for g, score in zip(result.top[q], result.top_scores[q], strict=True)
                    if g >= 0
                ],
            }
            lines.append(json.dumps(line) + "\n")
    replace_file(path, "".join(lines).encode())


def row_of(q: int, query: Split, gallery: Split, result: Result) -> Row:
    """Return query `q` with its best gallery images, for a picture."""
    tiles = [
        Tile(
            image=gallery.image[g],
            caption=f"c{gallery.camid[g] + 1}  {score:+.2f}",
            right=bool(gallery.pid[g] == query.pid[q]),
        )
        for g, score in zip(result.top[q], result.top_scores[q], strict=True)
        if g >= 0
    ]
    ap, first = result.ranks.average_precision[q], result.ranks.first_match[q]
    matches = result.ranks.matches[q]
    title = f"{query.name[q]}   AP {ap:.1%}, first of {matches} matches at rank {first}"
    return Row(title, Tile(query.image[q], f"query c{query.camid[q] + 1}", None), tiles)
