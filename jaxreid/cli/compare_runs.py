"""Runs given to the verb compare: groups by seed, their means, and intervals of differences."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxreid.cli import values

FORMATS = (".html", ".tex", ".csv", ".md", ".json")
# Queries listed of two groups, those that differ most.
LISTED = 8


def holds_runs(path: pathlib.Path) -> bool:
    """Return whether a path is the work directory of a run, or a folder of them."""
    if not path.is_dir():
        return False
    return any((one / "config.json").is_file() for one in (path, *path.iterdir()))


def compare_groups(args: argparse.Namespace, paths: Sequence[pathlib.Path]) -> dict[str, Any]:
    """Print means over seeds, and their differences from the first group; write a table."""
    from jaxreid.evaluation import comparison, comparison_table
    from jaxreid.runs.files import replace_file
    from jaxreid.runs.log import table

    if args.out is not None:
        if args.out.suffix.lower() not in FORMATS:
            raise ValueError(f"{args.out} must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
        values.check_out(args.out, args.out.suffix.lower())
    groups = comparison.group_runs([comparison.read_run(p) for p in comparison.find_runs(paths)])
    differences = comparison.differences_of(groups)
    result: dict[str, Any] = {
        "groups": [
            {"name": g.name, "runs": [str(run.path) for run in g.runs], "compute": g.compute()}
            for g in groups
        ],
        "results": comparison.summary_of(groups),
        "differences": [_as_dict(difference) for difference in differences],
    }
    print(table(*comparison_table.long(result["results"])))
    costs = [[g["name"], *comparison_table.compute_cells(g["compute"])] for g in result["groups"]]
    print("\n" + table(("runs", *comparison_table.COMPUTE), costs))
    if left := _left_out(groups):
        print(f"\nnot in all runs, and left out: {', '.join(left)}")
    if unfinished := [run for group in groups for run in group.runs if not run.finished]:
        names = ", ".join(str(run.path) for run in unfinished)
        print(f"\nWARNING: the end of their training is not recorded: {names}")
    print("".join(f"\n{difference.sentence()}" for difference in differences))
    if len(differences) > 1:
        print(
            f"({len(differences)} comparisons: of twenty without any difference, one is expected "
            "to show one.)"
        )
    if len(groups) == 2:
        for difference in differences:
            print("\n" + _queries_text(difference))
    if args.out is not None:
        if args.out.suffix.lower() == ".html":
            text = _page(groups, result, differences)
        else:
            text = comparison_table.written(args.out.suffix.lower(), result)
        replace_file(args.out, text.encode())
        print(f"wrote {args.out}")
        result["out"] = str(args.out)
    return result


def _page(groups: Sequence[Any], result: dict[str, Any], differences: Sequence[Any]) -> str:
    """Return the page of a comparison, with images where the test sets can be read."""
    from jaxreid.data.sets import check_trusted_sets
    from jaxreid.evaluation.comparison_page import page_of
    from jaxreid.evaluation.comparison_table import note, wide
    from jaxreid.evaluation.run import fingerprint
    from jaxreid.pictures.tables import html_table
    from jaxreid.reid.evaluating import load_tests

    images, missing = {}, ""
    run = groups[0].runs[0]
    for name in dict.fromkeys(difference.test for difference in differences):
        folders = dict.fromkeys(("dir", "prepared_dir", "identities"))
        try:
            check_trusted_sets([name], run.path)
            ((_, splits),) = load_tests(run.config, run.path, name, **folders).items()
            if fingerprint(**splits) != run.tests[name].row.get("fingerprint"):
                raise ValueError(f"{name} is not what the runs were tested on.")
        except (ValueError, OSError, ModuleNotFoundError) as error:
            missing = str(error)
        else:
            images[name] = splits
    return page_of(
        groups, html_table(*wide(result)), note(result), differences, images, missing=missing
    )


def _left_out(groups: Sequence[Any]) -> list[str]:
    """Return the test sets that only some of the runs have."""
    tests = [set(run.tests) for group in groups for run in group.runs]
    return sorted(set.union(*tests) - set.intersection(*tests))


def _queries_text(difference: Any) -> str:
    """Format the queries of a test set that each group wins, and those that differ most."""
    from jaxreid.runs.log import table

    gain = difference.precisions[0] - difference.precisions[1]
    first, second = difference.names
    rows = [
        (difference.queries[q], *(f"{100 * p:.1f}" for p in difference.precisions[:, q]))
        for q in difference.most(LISTED)
    ]
    title = f"{difference.test}: {first} has the higher average precision in {(gain > 0).sum()} "
    title += f"of {len(gain)} queries, {second} in {(gain < 0).sum()}"
    return title + (f"\n{table(('query', first, second), rows)}" if rows else "")


def _as_dict(difference: Any) -> dict[str, Any]:
    metrics = {
        metric: {"difference": mean, "interval": list(difference.intervals[metric])}
        for metric, mean in difference.means.items()
    }
    return {
        "set": difference.test,
        "runs": list(difference.names),
        "seeds": list(difference.seeds),
        "people": difference.people,
        **metrics,
        "sentence": difference.sentence(),
        "queries": [
            {"query": name, "AP": [float(p) for p in difference.precisions[:, q]]}
            for q, name in enumerate(difference.queries)
        ],
    }
