"""Page of a run: its files as plots and tables."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.evaluation.curves import CURVES
from jaxreid.evaluation.results import results_of
from jaxreid.pictures.plots import Line, plot
from jaxreid.pictures.report import document, plots, wide
from jaxreid.pictures.self_contained import data_uri, escaped
from jaxreid.pictures.tables import html_table
from jaxreid.runs.log import read_events
from jaxreid.runs.settings import leaves

METRICS = {"rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "mAP": "mAP", "mINP": "mINP"}
# Metrics of training steps that are drawn, where a run has them.
TRAINING = {"loss": "loss", "lr": "learning rate", "accuracy": "accuracy of training batches"}
# Queries listed of each test set, the worst first.
WORST = 12
# Largest width and height in pixels of ranking.png on the page.
PICTURE = 1100, 4000


def page_of(run: pathlib.Path) -> str:
    """Return the page of a run (HTML).

    Args:
        run: work directory; what it does not hold yet is left out.

    Raises:
        ValueError, OSError: it is not a run, or a file is damaged.
    """
    try:
        record = json.loads((run / "config.json").read_text())
        config, starts = record["config"], record["runs"]
        events = read_events(run / "metrics.jsonl")
        rows = results_of(events, initial="loaded" if config.get("init_from") else "untrained")
        about = _about(config, starts, events)
        sections = [
            ("Results", _results(rows)),
            ("Training", plots([*_training(events), *_over_steps(events)])),
            ("Ranks and pairs", _curves(rows, _json(run / CURVES))),
            ("Worst queries", _worst(run / "queries.jsonl")),
            ("Rankings", _picture(run / "ranking.png")),
            ("Settings", _settings(config)),
        ]
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{run} is not a run: {error.filename} is missing. Expected a work directory."
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"the files of {run} cannot be read ({error}).") from error
    return document(run.resolve().name, about, sections)


def _about(config: Mapping[str, Any], starts: Sequence[Any], events: Sequence[Any]) -> str:
    model = config["model"]
    train = config["data"]["train"]
    parts = [
        "/".join(model[part]["name"] for part in ("backbone", "neck", "matcher")),
        f"trained on {train if isinstance(train, str) else ', '.join(train)}",
        f"seed {config['seed']}",
        f"step {max((event['step'] for event in events), default=0):,}",
    ]
    if starts:
        parts.append(f"started {starts[0]['started']} on {len(starts[0]['devices'])} device(s)")
    return " · ".join(parts)


def _results(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        (
            row["set"] + ("" if row["variant"] == "plain" else f" {row['variant']}"),
            row["model"],
            f"{row['step']:,}",
            *(f"{100 * row[metric]:.1f}" for metric in METRICS),
        )
        for row in rows
    ]
    header = ("test set", "model", "step", *(f"{name}, %" for name in METRICS.values()))
    return wide(html_table(header, cells)) if cells else ""


def _training(events: Sequence[Mapping[str, Any]]) -> list[str]:
    train = [event for event in events if event["kind"] == "train"]
    steps = [event["step"] for event in train]
    figures = []
    for key, title in TRAINING.items():
        if held := [(s, e[key]) for s, e in zip(steps, train, strict=True) if key in e]:
            line = Line("", *zip(*held, strict=True))
            share = {"percent": True, "y_range": (0.0, 1.0)} if key == "accuracy" else {}
            figures.append(plot(title, [line], x_label="step", **share))
    return figures


def _over_steps(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Draw rank-1 and mAP of every evaluation, by test set."""
    held = [e for e in events if e["kind"] == "eval" and e.get("variant", "plain") == "plain"]
    if len({event["step"] for event in held}) < 2:
        return []
    figures = []
    for metric in ("rank1", "mAP"):
        lines = []
        for name in dict.fromkeys(event["set"] for event in held):
            points = {e["step"]: e[metric] for e in held if e["set"] == name}
            lines.append(Line(name, *zip(*sorted(points.items()), strict=True)))
        title = f"{METRICS[metric]} of the test sets"
        figures.append(plot(title, lines, x_label="step", percent=True, y_range=(0.0, 1.0)))
    return figures


def _curves(rows: Sequence[Mapping[str, Any]], curves: Mapping[str, Any] | None) -> str:
    newest = {row["set"]: row for row in rows if row["variant"] == "plain"}
    share = {"percent": True, "y_range": (0.0, 1.0)}
    cmc = [
        Line(name, np.arange(1, len(row["cmc"]) + 1), row["cmc"])
        for name, row in newest.items()
        if "cmc" in row
    ]
    figures = [plot("queries with a match among the first (CMC)", cmc, x_label="rank", **share)]
    for name in curves or ():
        if name not in newest:
            continue
        one = curves[name]
        middles = (np.array(one["edges"])[1:] + np.array(one["edges"])[:-1]) / 2
        bars = [Line(f"{kind} person", middles, one[kind]) for kind in ("same", "other")]
        figures.append(plot(f"{name}: share of pairs by score", bars, x_label="score", filled=True))
    roc = [
        Line(name, one["false_positive_rate"], one["true_positive_rate"])
        for name, one in (curves or {}).items()
    ]
    if roc:
        label = "share of pairs of two people that pass"
        title = "share of pairs of one person that pass (ROC)"
        figures.insert(1, plot(title, roc, x_label=label, log_x=True, **share))
        return plots(figures)
    note = (
        "This run holds no scores of pairs (curves.json): evaluate it again, and the receiver "
        "operating curve and the histograms of scores are drawn."
    )
    return plots(figures) + f'<p class="note">{note}</p>'


def _worst(path: pathlib.Path) -> str:
    """List the queries with the lowest average precision of each test set."""
    if not path.exists():
        return ""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    parts = []
    for name in dict.fromkeys(line["set"] for line in lines):
        held = [line for line in lines if line["set"] == name and line["matches"]]
        held.sort(key=lambda line: line["AP"])
        cells = [
            (
                line["query"],
                f"{100 * line['AP']:.1f}",
                f"{line['first_match']} of {line['matches']}",
                *_first(line["top"]),
            )
            for line in held[:WORST]
        ]
        header = ("query", "AP, %", "first match at rank", "ranked first", "score", "right")
        parts.append(f"<h3>{escaped(name)}</h3>" + wide(html_table(header, cells)))
    return "".join(parts)


def _first(top: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    if not top:
        return "", "", ""
    return top[0]["name"], f"{top[0]['score']:+.3f}", "yes" if top[0]["right"] else "no"


def _picture(path: pathlib.Path) -> str:
    if not path.exists():
        return ""
    alt = "queries from the worst to the best ranked, with the best of the gallery"
    return f'<img src="{data_uri(path.read_bytes(), PICTURE)}" alt="{alt}">'


def _settings(config: Mapping[str, Any]) -> str:
    rows = [(path, str(value)) for path, value in leaves(config)]
    table = wide(html_table(("setting", "value"), rows))
    return f"<details><summary>{len(rows)} settings</summary>{table}</details>"


def _json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None
