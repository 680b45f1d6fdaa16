"""Means of results: over the random splits of a small data set, and over several test sets."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

METRICS = ("rank1", "rank5", "rank10", "mAP", "mINP")
# Numbers of splits alone: split=all, or a rule of a user's own images, is another test.
_SPLIT = re.compile(r"(?<=[?&])split=[0-9]+[a-d]?(&|\[|$)")

Row = Mapping[str, Any]


def family(name: str) -> str:
    """Return the name of a test set without the number of its split."""
    return _SPLIT.sub(lambda match: match[1].strip("&"), name).rstrip("?&").replace("?[", "[")


def means_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the means of rows of `results_of`, as rows.

    Rows of one model and variant are averaged, at its newest step. The same images under two names
    count once, and the same name in two places is two test sets.

    Returns:
        For each data set with several splits, as papers report it: "splits" (their number), the
        means of the metrics, and "std" (their standard deviations). Then, where there are several
        data sets: the means over these with "set" None and "sets" (their number); splits count
        as one data set. The latter for variants that all of them have.
    """
    means = []
    for model in dict.fromkeys(row["model"] for row in rows):
        step = max(row.get("step", 0) for row in rows if row["model"] == model)
        held = [row for row in rows if (row["model"], row.get("step", 0)) == (model, step)]
        everywhere = {_data_set(row) for row in held}
        for variant in dict.fromkeys(row["variant"] for row in held):
            sets: dict[tuple, dict[tuple, Row]] = {}
            for row in held:
                if row["variant"] == variant:
                    sets.setdefault(_data_set(row), {}).setdefault(_images(row), row)
            head, averaged = {"variant": variant, "model": model, "step": step}, {}
            for data_set, splits in sets.items():
                values = list(splits.values())
                if len(values) > 1:
                    std = {m: float(np.std([row[m] for row in values], ddof=1)) for m in METRICS}
                    name, place = data_set
                    mean = {"set": name, "place": place, **head, "splits": len(values)}
                    means.append(mean | _mean(values) | {"std": std})
                    averaged[data_set] = means[-1]
                else:
                    averaged[_images(values[0])] = values[0]
            if set(sets) == everywhere and len(averaged) > 1:
                means.append(
                    {"set": None, **head, "sets": len(averaged)} | _mean(averaged.values())
                )
    return means


def _data_set(row: Row) -> tuple:
    """Identify a data set: all splits of one place have the same."""
    return family(row["set"]), row.get("place", "")


def _images(row: Row) -> tuple:
    """Identify images and the rule by which they are ranked."""
    return row.get("fingerprint") or row["set"], row.get("junk")


def _mean(rows) -> dict[str, float]:
    return {metric: float(np.mean([row[metric] for row in rows])) for metric in METRICS}
