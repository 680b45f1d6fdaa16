"""Comparison of runs: groups that differ by seed, their means, and intervals of differences.

It reads what runs have written: config.json, results.json and queries.jsonl.
"""

import dataclasses
import json
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.evaluation.bootstrap import interval, resampled_means
from jaxreid.runs.changes import trained_with
from jaxreid.runs.record import trainings_of

METRICS = {"rank1": "rank-1", "mAP": "mAP"}
# Fields that must be equal for numbers to be comparable, in the rows of results.json.
PROTOCOL = {
    "fingerprint": "images",
    "junk": "rules of what a query must not match (junk)",
    "average_precision": "definitions of average precision",
    "variant": "ways of evaluating",
    "rerank_options": "options of re-ranking",
    "tlift_options": "options of TLift",
}
# Differing settings that name a group, at most.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class SetResult:
    """Result of one run on one test set.

    Attributes:
        row: the row of results.json.
        queries: lines of queries.jsonl with a match in the gallery, by name.
    """

    row: dict[str, Any]
    queries: dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class RunResults:
    """Results of one run on disk.

    Attributes:
        path: work directory.
        config: resolved configuration.
        finished: whether the end of its training is recorded; True without a training.
        settings: what its training depends on but for the seed, by path (`trained_with`).
        tests: results by test set.
        seconds, cpu_seconds: that its training took, with compilation and evaluations, and the
            processors of process 0 spent on it; None if a part of it was not recorded.
    """

    path: pathlib.Path
    config: dict[str, Any]
    finished: bool
    settings: dict[str, Any]
    tests: dict[str, SetResult]
    seconds: float | None = None
    cpu_seconds: float | None = None

    @property
    def seed(self) -> int:
        """Run seed."""
        return self.config["seed"]

    @property
    def images(self) -> int:
        """Images seen in training: each counts as often as it was seen."""
        return next(iter(self.tests.values())).row["step"] * self.config["batch_size"]

    @property
    def parameters(self) -> int | None:
        """Parameters of the model that is tested; None for results of older versions."""
        return next(iter(self.tests.values())).row.get("parameters")


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ by seed alone.

    Attributes:
        name: difference from other groups, such as "lr=0.001".
        runs: at least one.
    """

    name: str
    runs: tuple[RunResults, ...]

    def values(self, test: str, metric: str) -> np.ndarray:
        """Return average precision ("mAP") or hits at rank 1 ("rank1") of each query, [S, Q]."""
        lines = [list(run.tests[test].queries.values()) for run in self.runs]
        if metric == "mAP":
            return np.array([[line["AP"] for line in one] for one in lines])
        return np.array([[float(line["first_match"] == 1) for line in one] for one in lines])

    def compute(self) -> dict[str, Any]:
        """Return the cost of a run by name: medians over the seeds, None where one is unknown."""
        whole, real = ("parameters", "images"), ("seconds", "cpu_seconds")
        held = {key: [getattr(run, key) for run in self.runs] for key in (*whole, *real)}
        median = dict.fromkeys(whole, statistics.median_low) | dict.fromkeys(
            real, statistics.median
        )
        return {k: None if None in v else median[k](v) for k, v in held.items()}


@dataclasses.dataclass(frozen=True)
class Difference:
    """Difference of two groups on a test set, the first less the second, as fractions.

    Attributes:
        test: test set.
        names: of both groups.
        seeds: number of seeds of both.
        people: number of people among the queries.
        means: difference by metric ("rank1", "mAP").
        intervals: its 95% interval by metric.
        queries: names of the queries, [Q].
        precisions: [2, Q] average precision of each query in both groups, means over seeds.
    """

    test: str
    names: tuple[str, str]
    seeds: tuple[int, int]
    people: int
    means: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    queries: tuple[str, ...]
    precisions: np.ndarray

    def sentence(self) -> str:
        """Describe in words whether one group is better in mAP."""
        mean, (low, high) = 100 * self.means["mAP"], self.intervals["mAP"]
        low, high = 100 * low, 100 * high
        first, second = self.names
        if self.seeds == (1, 1):
            seeds = "one seed each (what other seeds would give is not in it)"
        else:
            seeds = " and ".join(dict.fromkeys(map(str, self.seeds))) + " seeds"
        over = f"over {seeds} and {len(self.queries)} queries of {self.people} people"
        if low <= 0 <= high:
            return (
                f"No difference between {first} and {second} is shown on {self.test}: "
                f"{mean:+.1f} mAP, 95% interval {low:+.1f} to {high:+.1f}, {over}."
            )
        if mean < 0:
            (first, second), (low, high) = (second, first), (-high, -low)
        return (
            f"{first} is better than {second} on {self.test} by {abs(mean):.1f} mAP, 95% interval "
            f"{low:.1f} to {high:.1f}, {over}."
        )

    def most(self, count: int) -> list[int]:
        """Return the queries that differ most, those where the first group wins at the front."""
        gain = self.precisions[0] - self.precisions[1]
        order = np.argsort(-gain, kind="stable")
        half = min(count, len(order)) // 2
        chosen = [*order[: count - half], *order[len(order) - half :]]
        return [int(q) for q in dict.fromkeys(chosen) if gain[q] != 0]


def is_run(path: pathlib.Path) -> bool:
    """Return whether a folder is the work directory of a run."""
    return (path / "config.json").is_file()


def find_runs(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Return the runs of work directories and of folders of them, each once.

    Raises:
        ValueError: a folder holds no run.
    """
    runs: dict[pathlib.Path, pathlib.Path] = {}
    for path in paths:
        inside = [path] if is_run(path) else []
        if not inside and path.is_dir():
            inside = sorted(child for child in path.iterdir() if is_run(child))
        if not inside:
            raise ValueError(
                f"{path} is not a run and holds none; expected work directories, or a folder of "
                "them (jaxreid sweep --workdir=DIR)."
            )
        for run in inside:
            runs.setdefault(run.resolve(), run)
    return list(runs.values())


def read_run(path: pathlib.Path) -> RunResults:
    """Read the results of a run.

    Raises:
        ValueError, OSError: a file is missing or damaged; the message names it.
    """
    try:
        record = json.loads((path / "config.json").read_text())
        config, trainings = record["config"], trainings_of(record)
        rows = json.loads((path / "results.json").read_text())["results"]
        lines = [json.loads(one) for one in (path / "queries.jsonl").read_text().splitlines()]
        by_set: dict[str, dict[str, dict[str, Any]]] = {}
        for line in lines:
            if line["matches"]:
                by_set.setdefault(line["set"], {})[line["query"]] = line
        tests = {name: SetResult(_row_of(rows, name, held), held) for name, held in by_set.items()}
        if trainings and not all(test.row["step"] for test in tests.values()):
            raise ValueError("they are of the model before its training, which is not finished")
        finished = not trainings or "finished" in trainings[-1]
        spent = [_total(trainings, key) for key in ("seconds", "cpu_seconds")]
        return RunResults(path, config, finished, trained_with(config), tests, *spent)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} has no {pathlib.Path(error.filename).name}: it is not finished. Repeat its "
            f"command, or evaluate what there is: jaxreid evaluate {path}"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the results of {path} cannot be used: {error}. Write them again: jaxreid evaluate "
            f"{path}"
        ) from error


def group_runs(runs: Sequence[RunResults]) -> list[Group]:
    """Group runs that differ by seed alone, in the order given.

    Raises:
        ValueError: runs were tested on different images or by different protocols, or two of them
            are the same.
    """
    for test in common_tests(runs):
        for run in runs[1:]:
            _check_comparable(test, runs[0], run)
    groups: dict[str, list[RunResults]] = {}
    for run in runs:
        group = groups.setdefault(json.dumps(run.settings, sort_keys=True), [])
        for other in group:
            if other.seed == run.seed:
                raise ValueError(
                    f"{other.path} and {run.path} have the same settings and seed {run.seed}; "
                    "expected other seeds. Leave one of them out."
                )
        group.append(run)
    names = _names(list(groups.values()))
    return [Group(name, tuple(held)) for name, held in zip(names, groups.values(), strict=True)]


def common_tests(runs: Sequence[RunResults]) -> list[str]:
    """Return the test sets of all runs; raise ValueError if they have none in common."""
    tests = [name for name in runs[0].tests if all(name in run.tests for run in runs)]
    if not tests:
        held = "; ".join(f"{run.path}: {', '.join(run.tests) or 'none'}" for run in runs[:4])
        raise ValueError(
            f"the runs have no test set in common ({held}). Evaluate them on the same sets: "
            "jaxreid evaluate RUN --test NAME ..."
        )
    return tests


def summary_of(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over the seeds of every group and test set.

    Rows {"set", "runs", "seeds", "queries", "rank1", "rank1_std", "mAP", "mAP_std"}, fractions;
    the deviation of a single seed is None.
    """
    rows = []
    for test in common_tests([run for group in groups for run in group.runs]):
        for group in groups:
            row: dict[str, Any] = {"set": test, "runs": group.name, "seeds": len(group.runs)}
            row["queries"] = len(group.runs[0].tests[test].queries)
            for metric in METRICS:
                means = group.values(test, metric).mean(1)
                row[metric] = float(means.mean())
                row[f"{metric}_std"] = float(means.std(ddof=1)) if len(means) > 1 else None
            rows.append(row)
    return rows


def differences_of(groups: Sequence[Group]) -> list[Difference]:
    """Compare the first group with each of the others on every test set."""
    differences = []
    for test in common_tests([run for group in groups for run in group.runs]):
        lines = groups[0].runs[0].tests[test].queries
        people = np.array([line["pid"] for line in lines.values()])
        values = {m: [group.values(test, m) for group in groups] for m in METRICS}
        drawn = {m: resampled_means(held, people) for m, held in values.items()}
        precisions = [held.mean(0) for held in values["mAP"]]
        means = {m: [float(one.mean()) for one in held] for m, held in values.items()}
        for i, group in enumerate(groups[1:], 1):
            differences.append(
                Difference(
                    test=test,
                    names=(groups[0].name, group.name),
                    seeds=(len(groups[0].runs), len(group.runs)),
                    people=len(set(people.tolist())),
                    means={m: held[0] - held[i] for m, held in means.items()},
                    intervals={m: interval(d[:, 0] - d[:, i]) for m, d in drawn.items()},
                    queries=tuple(lines),
                    precisions=np.stack([precisions[0], precisions[i]]),
                )
            )
    return differences


def _total(trainings: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Return a sum over the starts of a run; None if one has not recorded it."""
    spent = [start.get(key) for start in trainings]
    return sum(spent) if spent and None not in spent else None


def _row_of(
    rows: Sequence[Mapping[str, Any]], name: str, queries: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the row of results.json that the lines of a test set belong to."""
    mean = np.mean([line["AP"] for line in queries.values()])
    fitting = [row for row in rows if row["set"] == name and abs(row["mAP"] - mean) < 1e-9]
    if not fitting:
        raise ValueError(f"queries.jsonl and results.json are of two evaluations of {name}")
    return dict(max(fitting, key=lambda row: row["step"]))


def _check_comparable(test: str, a: RunResults, b: RunResults) -> None:
    one, other = (run.tests[test] for run in (a, b))
    for key, words in PROTOCOL.items():
        if one.row.get(key) != other.row.get(key):
            raise ValueError(
                f"{a.path} and {b.path} were tested on {test} with different {words}: "
                f"{one.row.get(key)} and {other.row.get(key)}. Their numbers do not compare; "
                f"evaluate both in the same way: jaxreid evaluate RUN --test {test}"
            )
    if list(one.queries) != list(other.queries):
        raise ValueError(f"{a.path} and {b.path} have results of different queries of {test}.")


def _names(groups: Sequence[Sequence[RunResults]]) -> list[str]:
    """Name groups by the settings in which they differ, or by their folders if these are many."""
    settings = [group[0].settings for group in groups]
    paths = dict.fromkeys(path for one in settings for path in one)
    differing = [p for p in paths if len({json.dumps(one.get(p)) for one in settings}) > 1]
    folders = [_without_seed(group[0].path) for group in groups]
    names = folders
    if 0 < len(differing) <= _NAMED:
        names = [
            ",".join(f"{path.rpartition('.')[2]}={one.get(path)}" for path in differing)
            for one in settings
        ]
    if len(set(names)) < len(names):
        names = [str(group[0].path) for group in groups]
    return names


def _without_seed(path: pathlib.Path) -> str:
    path = path.resolve()
    return re.sub(r"[,_.-]*seed=?\d+$", "", path.name) or path.parent.name
