"""Results: metrics of a test set, rows, a table, and files.

A row of `results.json` says what it is a result of: model, test set with a fingerprint of its
images, variant and protocol.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.data.split import Split
from jaxreid.evaluation.ranking import (
    QueryRanks,
    junk_groups,
    rank_queries,
    summarize,
    top_matches,
)
from jaxreid.evaluation.ranking.roc import Roc, RocAccumulator
from jaxreid.evaluation.variants import PLAIN, Variant
from jaxreid.pictures.canvas import save
from jaxreid.pictures.ranking import Row, Tile, ranking_picture
from jaxreid.runs.files import replace_file
from jaxreid.runs.log import table

LISTED = 10  # gallery images that are kept of each query's ranking
RANKS = (1, 5, 10, 20)
CMC = 50  # ranks of the curve in the files
COLUMNS = ("rank1", "rank5", "rank10", "mAP", "mINP")


@dataclasses.dataclass(frozen=True)
class Result:
    """The evaluation of one test set in one way.

    Attributes:
        variant: the way.
        metrics: rank1, rank5, rank10, rank20, mAP, mINP (fractions) and the numbers of queries; and
            of all pairs tpr_at_fpr_... and equal_error_rate (fractions), threshold_at_fpr_... and
            equal_error_threshold (scores).
        cmc: [`CMC`] fractions, the cumulative match characteristic: of the queries, those that
            have a match among the best 1, 2, ... of the gallery.
        ranks: of each query.
        top: [Q, `LISTED`] int64, the best of the gallery without junk, best first; -1 where there
            are no more.
        top_scores: [Q, `LISTED`] float32, their scores; NaN where there are no more.
    """

    variant: Variant
    metrics: dict[str, float]
    cmc: np.ndarray
    ranks: QueryRanks
    top: np.ndarray
    top_scores: np.ndarray

    def with_metrics(self, **more: float) -> "Result":
        """The same with further metrics."""
        return dataclasses.replace(self, metrics=self.metrics | more)

    def __str__(self) -> str:
        values = (f"{key} {100 * self.metrics[key]:.1f}" for key in COLUMNS)
        return f"{self.variant.name}: {', '.join(values)} percent"


class Ranking:
    """Reduces blocks of scores to a `Result`; holds none of them.

    Args:
        query: Q images.
        gallery: G images.
        variant: the way of evaluating.
        junk: rule of `ranking.protocol`: which images of its own person a query must not find.
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
        """The scores [q, G] of the queries `part` [q] int; each query once, in any order."""
        ids = *(of[part] for of in self._ids[0]), *self._ids[1]
        top = top_matches(scores, *ids, LISTED)
        best = np.take_along_axis(scores, np.maximum(top, 0), axis=1)
        ranks = rank_queries(scores, *ids, precision=self._average_precision)
        self._roc.add(scores, *ids)
        self._order.append(part)
        self._parts.append((ranks, top, np.where(top < 0, np.nan, best)))

    def result(self, pairs: bool = True) -> Result:
        """After all queries, also with the rates of all `pairs`; ValueError if none has a match."""
        back = np.argsort(np.concatenate(self._order))
        ranks, top, top_scores = zip(*self._parts, strict=True)
        ranks = QueryRanks.concatenate(ranks).take(back)
        metrics = summarize(ranks, RANKS)
        people = set(self._ids[0][0]) | set(self._ids[1][0])
        if pairs and len(people) > 1:  # else there are no two people to tell apart
            metrics |= _rates(self._roc.result())
        found = ranks.first_match[ranks.matches > 0]
        cmc = (found[:, None] <= np.arange(1, CMC + 1)).mean(0)
        tops = np.concatenate(top)[back], np.concatenate(top_scores)[back]
        return Result(self.variant, metrics, cmc, ranks, *tops)


def _rates(roc: Roc) -> dict[str, float]:
    """Rates of all pairs, and the scores at which they hold where there are such."""
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
    """The first and the newest evaluation of each test set, from the events of a run.

    Args:
        events: of a `Writer`; those of another kind than "eval" are ignored.
        initial: what to call the model of step 0.

    Returns:
        Per test set, in the order in which they were first evaluated: {"set", "variant", "model",
        "step"} and the metrics; the model of a later step than 0 is called "trained". Two folders
        of images under one name are two test sets.
    """
    found: dict[tuple[str, str | None], dict[tuple[str, str], dict[str, Any]]] = {}
    for event in events:
        if event["kind"] == "eval":
            row = {"set": event["set"], "variant": event.get("variant", "plain")}
            row["model"] = "trained" if event["step"] else initial
            row["step"] = event["step"]
            row |= {key: event[key] for key in event if key not in (*row, "kind", "time")}
            rows = found.setdefault((event["set"], event.get("fingerprint")), {})
            rows[row["model"], row["variant"]] = row
    chosen = []
    for rows in found.values():  # a variant that was not evaluated again is of other weights
        newest = {
            model: max(r["step"] for (m, _), r in rows.items() if m == model) for model, _ in rows
        }
        chosen += [row for (model, _), row in rows.items() if row["step"] == newest[model]]
    return chosen


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `results_of` as a table, in percent."""
    fingerprints: dict[str, set[str | None]] = {}
    for row in results:
        fingerprints.setdefault(row["set"], set()).add(row.get("fingerprint"))
    rows = []
    for row in results:
        name = row["set"]
        if len(fingerprints[name]) > 1:  # other images under the same name
            name += f" [{row.get('fingerprint') or 'unknown'}]"
        if row["variant"] != "plain":
            name += f" {row['variant']}"
        rows.append((name, row["model"], *(f"{100 * row[key]:.1f}" for key in COLUMNS)))
    return table(("test set", "model", *COLUMNS), rows)


def shortlist_sentence(name: str, results: Mapping[str, Result]) -> str | None:
    """Gain and loss of scoring from coarse to fine; None if no shortlist was evaluated.

    Args:
        name: of the set.
        results: of `evaluate`.
    """
    found = next((r.metrics for r in results.values() if r.variant.shortlist is not None), None)
    if found is None:
        return None
    exact = next(r.metrics for r in results.values() if r.variant.exact)
    return (
        f"{name}: shortlists took {found['scoring_seconds']:.1f} s instead of "
        f"{found['exact_seconds']:.1f} s and hold {found['top10_recall']:.2%} of the exactly best "
        f"{LISTED}; mAP {found['mAP']:.2%} instead of {exact['mAP']:.2%}."
    )


def write_ranking(
    path: pathlib.Path,
    tests: Mapping[str, Mapping[str, Split]],
    results: Mapping[str, Result],
    *,
    queries: int,
) -> None:
    """Draws the best matches of a few queries of each test set, from the worst to the best ranked.

    Args:
        path: of the PNG.
        tests: by name, the splits "query" and "gallery".
        results: by name, of the same sets.
        queries: rows for each set, spread evenly over the queries in order of average precision.
    """
    sections = []
    for name, result in results.items():
        query, gallery = tests[name]["query"], tests[name]["gallery"]
        valid = np.flatnonzero(result.ranks.matches)
        order = valid[np.argsort(result.ranks.average_precision[valid], kind="stable")]
        chosen = order[np.unique(np.linspace(0, len(order) - 1, queries).round().astype(int))]
        rows = [_row(q, query, gallery, result) for q in chosen]
        title = f"{name}: rank-1 {result.metrics['rank1']:.1%}, mAP {result.metrics['mAP']:.1%}"
        sections.append((title, rows))
    save(ranking_picture(sections), path)


def write_queries(
    path: pathlib.Path, tests: Mapping[str, Mapping[str, Split]], results: Mapping[str, Result]
) -> None:
    """Writes what became of every query, a line of JSON for each.

    Args:
        path: of the file.
        tests: by name, the splits "query" and "gallery".
        results: by name, of the same sets.

    A line holds "set", "query" (name), "pid", "camid" (from 0), "matches" (in the gallery), "AP"
    and "first_match" (rank from 1; both null without a match), and "top": the best of the gallery,
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


def _row(q: int, query: Split, gallery: Split, result: Result) -> Row:
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
