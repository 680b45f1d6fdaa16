"""Means of results: over the random splits of a small data set, and over several test sets."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

METRICS = ("rank1", "rank5", "rank10", "mAP", "mINP")
_SPLIT = re.compile(r"(?<=[?&])split=\w+&?")

Row = Mapping[str, Any]


def family(name: str) -> str:
    """Return the name of a test set without the number of its split."""
    return _SPLIT.sub("", name).rstrip("?&")


def means_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the means of rows of `results_of`, as rows.

    Returns:
        For each data set with several splits, as papers report it: "splits" (their number), the
        means of the metrics, and "std" (their standard deviations). Then, where there are several
        data sets: the means over these with "set" None and "sets" (their number); splits count
        as one data set. Each for every variant and model that all of them have.
    """
    columns: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in rows:
        of = columns.setdefault((row["variant"], row["model"]), {})
        name = family(row["set"])
        # Other images under the same name are another test set.
        if name == row["set"] and row.get("fingerprint"):
            name = f"{name} {row['fingerprint']}"
        of.setdefault(name, {})[row["set"]] = row
    names = {name for of in columns.values() for name in of}
    means = []
    for (variant, model), of in columns.items():
        head = {"variant": variant, "model": model}
        sets: list[Row] = []
        for name, splits in of.items():
            values = list(splits.values())
            if len(values) > 1:
                std = {m: float(np.std([row[m] for row in values], ddof=1)) for m in METRICS}
                mean = {"set": name, **head, "splits": len(values), **_mean(values), "std": std}
                means.append(mean)
                values = [mean]
            sets += values
        if set(of) == names and len(names) > 1:
            means.append({"set": None, **head, "sets": len(sets), **_mean(sets)})
    return means


def _mean(rows: Sequence[Row]) -> dict[str, float]:
    return {metric: float(np.mean([row[metric] for row in rows])) for metric in METRICS}
