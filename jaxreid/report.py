"""How results are told: rows, a table, sentences, and a picture of ranked lists."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.evaluate import Result
from jaxreid.ranking import top_matches
from jaxreid.visualize import Row, Tile, ranking_picture, save
from jaxreid.writer import table

COLUMNS = ("rank1", "rank5", "rank10", "mAP", "mINP")


def results_of(
    events: Sequence[Mapping[str, Any]], *, initial: str = "untrained"
) -> list[dict[str, Any]]:
    """The first and the newest evaluation of each test set, from the events of a run.

    Args:
        events: of a `Writer`; those of another kind than "eval" are ignored.
        initial: what to call the model of step 0.

    Returns:
        Per test set, in the order in which they were first evaluated: {"set", "model", "step"} and
        the metrics; the model of a later step than 0 is called "trained".
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for event in events:
        if event["kind"] == "eval":
            values = {
                key: event[key] for key in event if key not in ("kind", "time", "set", "step")
            }
            model = "trained" if event["step"] else initial
            row = {"set": event["set"], "model": model, "step": event["step"], **values}
            found.setdefault(event["set"], {})[model] = row
    return [row for models in found.values() for row in models.values()]


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `results_of` as a table, in percent."""
    rows = [
        (row["set"], row["model"], *(f"{100 * row[key]:.1f}" for key in COLUMNS)) for row in results
    ]
    return table(("test set", "model", *COLUMNS), rows)


def skipped_queries(name: str, metrics: Mapping[str, Any]) -> str:
    """A sentence about queries without a match, or an empty text."""
    skipped = metrics["queries_without_match"]
    if not skipped:
        return ""
    total = skipped + metrics["queries"]
    return (
        f"{name}: {skipped} of {total} queries have no match on another camera in the gallery; "
        "they are left out of the averages."
    )


def write_ranking(
    path: pathlib.Path,
    sets: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Result],
    *,
    queries: int,
    k: int = 10,
) -> None:
    """Draws the top k of a few queries of each test set, from the worst to the best ranked.

    Args:
        path: of the PNG.
        sets: by name, the splits "query" and "gallery".
        results: by name, of the same sets.
        queries: rows for each set, spread evenly over the queries in order of average precision.
        k: gallery images in a row.
    """
    sections = []
    for name, result in results.items():
        query, gallery = sets[name]["query"], sets[name]["gallery"]
        valid = np.flatnonzero(result.ranks.matches)
        order = valid[np.argsort(result.ranks.average_precision[valid], kind="stable")]
        chosen = order[np.unique(np.linspace(0, len(order) - 1, queries).round().astype(int))]
        top = top_matches(
            result.scores[chosen],
            query.pid[chosen],
            query.camid[chosen],
            gallery.pid,
            gallery.camid,
            k,
        )
        rows = [
            _row(q, indices, query, gallery, result) for q, indices in zip(chosen, top, strict=True)
        ]
        title = f"{name}: rank-1 {result.metrics['rank1']:.1%}, mAP {result.metrics['mAP']:.1%}"
        sections.append((title, rows))
    save(ranking_picture(sections), path)


def _row(q: int, indices: np.ndarray, query: Any, gallery: Any, result: Result) -> Row:
    tiles = [
        Tile(
            image=gallery.image[g],
            caption=f"c{gallery.camid[g] + 1}  {result.scores[q, g]:+.2f}",
            right=bool(gallery.pid[g] == query.pid[q]),
        )
        for g in indices
        if g >= 0
    ]
    ap, first = result.ranks.average_precision[q], result.ranks.first_match[q]
    matches = result.ranks.matches[q]
    title = f"{query.name[q]}   AP {ap:.1%}, first of {matches} matches at rank {first}"
    return Row(title, Tile(query.image[q], f"query c{query.camid[q] + 1}", None), tiles)
