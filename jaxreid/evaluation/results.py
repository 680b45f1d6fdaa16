"""How results are told: rows, a table, sentences, and a picture of ranked lists."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.evaluation.ranking import choose_rule, count_matches, junk_groups
from jaxreid.evaluation.run import Result
from jaxreid.pictures.canvas import save
from jaxreid.pictures.ranking import Row, Tile, ranking_picture
from jaxreid.runs.files import replace_file
from jaxreid.runs.log import table

COLUMNS = ("rank1", "rank5", "rank10", "mAP", "mINP")


def results_of(
    events: Sequence[Mapping[str, Any]], *, initial: str = "untrained"
) -> list[dict[str, Any]]:
    """The first and the newest evaluation of each test set, from the events of a run.

    Args:
        events: of a `Writer`; those of another kind than "eval" are ignored.
        initial: what to call the model of step 0.

    Returns:
        Per test set, in the order in which they were first evaluated: {"set", "variant", "model",
        "step"} and the metrics; the model of a later step than 0 is called "trained".
    """
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for event in events:
        if event["kind"] == "eval":
            told = {"set": event["set"], "variant": event.get("variant", "plain")}
            told["model"] = "trained" if event["step"] else initial
            row = told | {"step": event["step"]}
            row |= {key: event[key] for key in event if key not in (*row, "kind", "time")}
            found.setdefault(event["set"], {})[told["model"], told["variant"]] = row
    newest = {}  # a variant that was not evaluated again tells of other weights than the rest
    for name, rows in found.items():
        for (model, _), row in rows.items():
            newest[name, model] = max(row["step"], newest.get((name, model), 0))
    return [
        row
        for name, rows in found.items()
        for (model, _), row in rows.items()
        if row["step"] == newest[name, model]
    ]


def results_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `results_of` as a table, in percent."""
    rows = []
    for row in results:
        variant = "" if row["variant"] == "plain" else f" {row['variant']}"
        values = (f"{100 * row[key]:.1f}" for key in COLUMNS)
        rows.append((row["set"] + variant, row["model"], *values))
    return table(("test set", "model", *COLUMNS), rows)


def shortlist_sentence(name: str, results: Mapping[str, Result]) -> str:
    """What scoring from coarse to fine gained and lost.

    Args:
        name: of the set.
        results: of `evaluate`.
    """
    exact, found = results["plain"].metrics, results["shortlist"].metrics
    return (
        f"{name}: shortlists took {found['scoring_seconds']:.1f} s instead of "
        f"{found['exact_seconds']:.1f} s and hold {found['top10_recall']:.2%} of the exactly best "
        f"{results['plain'].top.shape[1]}; mAP {found['mAP']:.2%} instead of {exact['mAP']:.2%}."
    )


def protocol_of(name: str, query: Any, gallery: Any, junk: str = "auto") -> tuple[str, list[str]]:
    """The junk rule of a test set, and what its user should know before it is evaluated.

    Args:
        name: of the set.
        query: with `pid` [Q], `camid` [Q] and `name` (Q texts).
        gallery: the same, of G images.
        junk: a rule, or "auto" for the one that fits.

    Returns:
        The rule, and sentences.

    Raises:
        ValueError: an unknown rule, an empty query or gallery, or no query has a match.
    """
    if not (len(query.name) and len(gallery.name)):
        raise ValueError(
            f"{name} has {len(query.name)} queries and a gallery of {len(gallery.name)} images; "
            "an evaluation needs at least one of each."
        )
    data = query.camid, gallery.camid, query.name, gallery.name
    rule, why = choose_rule(*data) if junk == "auto" else (junk, "")
    groups = junk_groups(rule, *data)
    matches, own = count_matches(query.pid, groups[0], gallery.pid, groups[1])
    told = [f"{name}: {why}"] if why else []
    count = int(((matches == 0) & (own > 0)).sum())
    place = "in their own camera" if rule == "camera" else "in themselves"
    if not matches.any():
        unknown = rule == "camera" and (query.camid < 0).any()
        advice = " Some cameras are unknown: --config.eval.junk=auto." if unknown else ""
        raise ValueError(
            f"{name}: none of the {len(matches)} queries has a match in the gallery; "
            f"{int((own > 0).sum())} have some {place}, which the junk rule {rule!r} leaves out. "
            f"There is nothing to evaluate.{advice}"
        )
    if count:
        told.append(f"{name}: {count} of {len(matches)} queries have matches only {place}.")
    if absent := int(((matches == 0) & (own == 0)).sum()):
        told.append(f"{name}: {absent} of {len(matches)} queries have no match in the gallery.")
    if len(told) > bool(why):
        told[-1] += " They are left out of the averages."
    return rule, told


def write_ranking(
    path: pathlib.Path,
    sets: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Result],
    *,
    queries: int,
) -> None:
    """Draws the best matches of a few queries of each test set, from the worst to the best ranked.

    Args:
        path: of the PNG.
        sets: by name, the splits "query" and "gallery".
        results: by name, of the same sets.
        queries: rows for each set, spread evenly over the queries in order of average precision.
    """
    sections = []
    for name, result in results.items():
        query, gallery = sets[name]["query"], sets[name]["gallery"]
        valid = np.flatnonzero(result.ranks.matches)
        order = valid[np.argsort(result.ranks.average_precision[valid], kind="stable")]
        chosen = order[np.unique(np.linspace(0, len(order) - 1, queries).round().astype(int))]
        rows = [_row(q, query, gallery, result) for q in chosen]
        title = f"{name}: rank-1 {result.metrics['rank1']:.1%}, mAP {result.metrics['mAP']:.1%}"
        sections.append((title, rows))
    save(ranking_picture(sections), path)


def write_queries(
    path: pathlib.Path, sets: Mapping[str, Mapping[str, Any]], results: Mapping[str, Result]
) -> None:
    """Writes what became of every query, a line of JSON for each.

    Args:
        path: of the file.
        sets: by name, the splits "query" and "gallery".
        results: by name, of the same sets.

    A line holds "set", "query" (name), "pid", "camid" (from 0), "matches" (in the gallery), "AP"
    and "first_match" (rank from 1; both null without a match), and "top": the best of the gallery,
    each with "name", "score" and "right".
    """
    lines = []
    for name, result in results.items():
        query, gallery = sets[name]["query"], sets[name]["gallery"]
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


def _row(q: int, query: Any, gallery: Any, result: Result) -> Row:
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
