"""Tables of `benchmark.py` results: for the terminal and, from a results file, docs/speed.md."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import benchmark_ranking

Record = Mapping[str, Any]
Rows = tuple[Sequence[str], list[Sequence[str]]]


def spread(times: Mapping[str, Mapping[str, float]]) -> float:
    """Return the largest interquartile range relative to the median, of times by `take_turns`."""
    return max((t["upper"] - t["lower"]) / t["median"] for t in times.values())


def rows(benchmark: str, results: Sequence[Record]) -> Rows:
    """Return header and rows for the results of a benchmark."""
    others = {
        "ranking": _ranking,
        "input": _input,
        **dict.fromkeys(("scoring", "step", "embeddings"), _matching),
    }
    return others.get(benchmark, _networks)(results)


# Columns in the documentation; the terminal shows all.
SHOWN = {
    "scoring": ("what", "contender", "pairs/s", "times as fast", "of product rate", "memory"),
    "step": ("what", "contender", "ms", "times as fast", "memory"),
    "embeddings": ("what", "contender", "pairs/s", "times as fast", "of product rate", "memory"),
    "backbones": ("network", "images", "pass", "jaxreid ms", "times as fast as PyTorch"),
    "encode": ("network", "images", "pass", "jaxreid ms", "times as fast as PyTorch"),
    "ranking": ("what", "images", "jaxreid s", "times as fast", "jaxreid MiB", "plain MiB"),
    "input": ("images", "augmented on", "images/s", "device waits", "CPU ms per image", "kB sent"),
}


def markdown(path: pathlib.Path) -> str:
    """Format the newest results of each benchmark in a JSON lines file as Markdown.

    Raises:
        ValueError: the file does not contain results.
    """
    try:
        records = [json.loads(line) for line in path.read_text().splitlines() if line]
        newest = {record["settings"]["benchmark"]: record for record in records}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} contains no results of --json: {error!r}") from error
    if not newest:
        raise ValueError(f"{path} is empty; measure with --json={path} first.")
    parts = []
    for name, record in sorted(newest.items()):
        head, body = rows(name, record["results"])
        shown = [head.index(column) for column in SHOWN[name]]
        table = [[row[i] for i in shown] for row in (head, ["---"] * len(head), *body)]
        host = record["machine"]
        title = f"`benchmark.py {name}`, {host['cores']} cores, {host['cpu']}, {host['date'][:10]}:"
        parts.append("\n".join([title, "", *("| " + " | ".join(row) + " |" for row in table)]))
    return "\n\n".join(parts)


def _matching(results: Sequence[Record]) -> Rows:
    header = ("what", "maps", "contender", "ms", "pairs/s", "times as fast", "of product rate")
    tasks = {
        "scores": "scores",
        "pairs": "loss, both maps",
        "memory": "loss, class memory",
        "matchers": "matchers",
        "perceptron": "GMN, perceptron",
        "linear": "GMN, linear",
    }
    body = []
    for r in results:
        p = r["problem"]
        size = f"{p['queries']} x {p['gallery']} of {p['height']}x{p['width']}x{p['channels']}"
        for name in r["pairs_per_second"]:
            fast = r["times_as_fast"].get(name)
            evaluated = p["task"] not in ("pairs", "memory")
            share = f"{r['of_product'][name]:.0%}" if evaluated else "-"
            bytes_, difference = r["peak_bytes"][name], r["difference"][name]
            body.append(
                (
                    f"{tasks[p['task']]}, {p['dtype']}",
                    size,
                    name,
                    f"{r['ms'][name]['median']:.0f}",
                    f"{r['pairs_per_second'][name]:,.0f}",
                    "-" if fast is None else f"{fast:.2f}",
                    share,
                    "-" if bytes_ is None else f"{bytes_ / 1e6:,.0f} MB",
                    "-" if difference is None else f"{difference:.0e}",
                    f"{spread(r['ms']):.0%}",
                )
            )
    return (*header, "memory", "difference", "spread"), body


def _networks(results: Sequence[Record]) -> Rows:
    header = ("network", "images", "pass", *(f"{name} ms" for name in results[0]["ms"]))
    body = [
        (r["network"], r["images"], r["pass"], *(f"{t['median']:.1f}" for t in r["ms"].values()))
        + (f"{r['times_as_fast']:.2f}", f"{spread(r['ms']):.0%}", f"{r['difference']:.0e}")
        for r in results
    ]
    return (*header, "times as fast as PyTorch", "spread", "difference"), body


def _input(results: Sequence[Record]) -> Rows:
    body = [
        (
            r["images"],
            name,
            f"{rate:,.0f}",
            f"{r['waits'][name]:.0%}",
            f"{r['cpu_ms'][name]:.2f}",
            f"{r['bytes'][name] / 1e3:.0f}",
            f"{spread(r['ms']):.0%}",
        )
        for r in results
        for name, rate in r["images_per_second"].items()
    ]
    return (*SHOWN["input"], "spread"), body


def _ranking(results: Sequence[Record]) -> Rows:
    return benchmark_ranking.HEADER, [benchmark_ranking.row(record) for record in results]
