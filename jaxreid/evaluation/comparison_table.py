"""Tables of a comparison of runs, from its result: Markdown, LaTeX, CSV, JSON, and cells."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxreid.evaluation.comparison import METRICS
from jaxreid.pictures import tables

# Marks a number whose difference from the first row is shown.
MARK = "*"
# Columns of the cost of a run.
COMPUTE = ("parameters", "images seen", "minutes", "CPU minutes")


def written(suffix: str, result: Mapping[str, Any]) -> str:
    """Return the result of a comparison in the form of a file.

    Args:
        suffix: ".md", ".tex" (with the sentences as comments), ".csv" or ".json".
        result: {"groups", "results", "differences"} of `jaxreid compare --json`.
    """
    if suffix == ".json":
        return tables.as_json(result)
    if suffix == ".csv":
        compute = {group["name"]: group["compute"] for group in result["groups"]}
        return tables.comma_separated([row | compute[row["runs"]] for row in result["results"]])
    header, rows = wide(result)
    sentences = [difference["sentence"] for difference in result["differences"]]
    if suffix == ".tex":
        comments = "".join(f"% {line}\n" for line in [note(result), *sentences])
        return tables.latex(header, rows) + comments
    listed = "".join(f"- {sentence}\n" for sentence in sentences)
    return f"{tables.markdown(header, rows)}\n{note(result)}\n\n{listed}".rstrip() + "\n"


def note(result: Mapping[str, Any]) -> str:
    """Explain the mark in the table, and what its last columns measure."""
    name, tried = result["groups"][0]["name"], len(METRICS) * len(result["differences"])
    shown = (
        f"{MARK}: the difference from {name} is shown (95% interval; of twenty comparisons without "
        f"any difference, one is expected to show one, and these are {tried}). "
    )
    took = "Images and minutes: of a run, with compilation and evaluations, medians over seeds."
    return (shown if tried else "") + took


def wide(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of a table with a row for each group and columns for each set."""
    sets = list(dict.fromkeys(row["set"] for row in result["results"]))
    by_place = {(row["runs"], row["set"]): row for row in result["results"]}
    shown = {
        (difference["runs"][1], difference["set"], metric)
        for difference in result["differences"]
        for metric in METRICS
        if not difference[metric]["interval"][0] <= 0 <= difference[metric]["interval"][1]
    }
    header = ["runs", "seeds"]
    header += [f"{name} {words}" for name in sets for words in METRICS.values()]
    rows = []
    for group in result["groups"]:
        runs = group["name"]
        cells = [runs, str(len(group["runs"]))]
        for name in sets:
            for metric in METRICS:
                mark = MARK if (runs, name, metric) in shown else ""
                cells.append(percent(by_place[runs, name], metric) + mark)
        rows.append(cells + compute_cells(group["compute"]))
    return header + list(COMPUTE), rows


def compute_cells(compute: Mapping[str, Any]) -> list[str]:
    """Return the cells below `COMPUTE` of one group; "-" for unknown values."""
    whole = [compute[key] for key in ("parameters", "images")]
    times = [compute[key] for key in ("seconds", "cpu_seconds")]
    cells = ["-" if count is None else f"{count:,}" for count in whole]
    return cells + ["-" if seconds is None else f"{seconds / 60:.1f}" for seconds in times]


def percent(row: Mapping[str, Any], metric: str) -> str:
    """Return mean and standard deviation of a metric in percent."""
    deviation = row[f"{metric}_std"]
    return f"{100 * row[metric]:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def long(results: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of a table with a row for each set and group."""
    header = ["test set", "runs", "seeds", *METRICS.values()]
    rows = [
        [row["set"], row["runs"], str(row["seeds"]), *(percent(row, metric) for metric in METRICS)]
        for row in results
    ]
    return header, rows
