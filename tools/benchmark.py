"""Measures this package against the obvious alternative, on the same cores and in the same run.

    python tools/benchmark.py scoring
    python tools/benchmark.py step --json speed.jsonl
    python tools/benchmark.py embeddings
    python tools/benchmark.py encode --arch resnet50 osnet_x1_0 --batch 4
    python tools/benchmark.py ranking --repeats 3
    python tools/benchmark.py table speed.jsonl

Absolute times say little about another machine. What counts is the ratio of the medians of
contenders that take turns. Keep the machine otherwise idle.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import benchmark_embeddings
import benchmark_matchers
import benchmark_matching
import benchmark_networks
import benchmark_ranking
import benchmark_tables
import numpy as np
from tqdm import tqdm

# JAX and PyTorch are imported in functions, here and in the modules above: they count the cores
# when they are, see `use_cores`.

PACKAGES = ("jaxreid", "jax", "jaxlib", "flax", "numpy", "torch")
PAUSE = 0.02  # seconds before each run: threads of the one before may still be spinning
BUSY = 0.1  # distance between quartiles, relative to the median, of which to warn
WARM_UP = 2  # runs that do not count


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line; `run` in it is the function of the benchmark."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--repeats", type=_positive, default=20, help="timed runs of each contender (default: 20)"
    )
    common.add_argument(
        "--threads", type=_positive, help="cores to use, the same for all (default: all)"
    )
    common.add_argument(
        "--json",
        type=pathlib.Path,
        metavar="FILE",
        help="append the results, and what they were measured on, to a file of JSON lines",
    )
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    matching = argparse.ArgumentParser(add_help=False)
    matching.add_argument(
        "--maps", type=_sizes, metavar="HxWxD", default=(24, 8, 128), help="(default: 24x8x128)"
    )
    matching.add_argument(
        "--contenders",
        nargs="+",
        choices=benchmark_matching.CONTENDERS,
        default=list(benchmark_matching.CONTENDERS),
        help="ours; the original formulation and our tiles in PyTorch; the plain form in JAX "
        "(default: all)",
    )
    matching.add_argument(
        "--types",
        nargs="+",
        choices=benchmark_matching.TYPES,
        default=list(benchmark_matching.TYPES),
        help="of the maps (default: both)",
    )
    for name, images, what in (
        ("scoring", (64, 128), "scores all pairs of query and gallery maps, in evaluation mode"),
        (
            "step",
            (64, 64),
            "a loss on all scores, in training mode, with gradients of the matcher "
            "and of both maps (a batch with itself) or of the queries alone (a class memory)",
        ),
    ):
        parser_of = benchmarks.add_parser(
            name,
            parents=[common, matching],
            help=f"QAConv's matching: {what.split(',')[0]}",
            description=f"Times {what}, against the original formulation written plainly in "
            "PyTorch, the same tiles in PyTorch, and the plain formulation in JAX; with a large "
            "matrix product as the limit, and the memory each needs."
            + (" Then other matchers, against QAConv." if name == "scoring" else ""),
        )
        parser_of.add_argument(
            "--images",
            type=_positive,
            nargs=2,
            metavar=("QUERIES", "GALLERY"),
            default=images,
            help="how many (default: {} {})".format(*images),
        )
        if name == "scoring":
            parser_of.add_argument(
                "--matchers",
                nargs="*",
                choices=benchmark_matchers.NAMES,
                default=list(benchmark_matchers.NAMES),
                help="other matchers of this package, against its QAConv; none if no name follows "
                "(default: all)",
            )
        parser_of.set_defaults(run=compare_matching)
    embeddings = benchmarks.add_parser(
        "embeddings",
        parents=[common],
        help="GMN's scores of pairs of embeddings, against PyTorch",
        description="Times the scores of all pairs of query and gallery embeddings, in evaluation "
        "mode, by both readings of GMN's metric network, against the same in PyTorch, all pairs at "
        "once, and the product of the first layer taken apart; with a large matrix product as the "
        "limit, and the memory each needs.",
    )
    embeddings.add_argument(
        "--images",
        type=_positive,
        nargs=2,
        metavar=("QUERIES", "GALLERY"),
        default=(64, 512),
        help="how many (default: 64 512)",
    )
    embeddings.add_argument(
        "--channels", type=_positive, default=2048, help="of an embedding (default: 2048)"
    )
    embeddings.set_defaults(run=compare_embeddings)
    for name, passes in (
        ("backbones", benchmark_networks.PASSES),
        ("encode", benchmark_networks.PASSES[:1]),
    ):
        backbones = benchmarks.add_parser(
            name,
            parents=[common],
            help=f"{' and '.join(f'{p} passes' for p in passes)} of backbones, against PyTorch",
            description="Times forward passes (evaluation mode) and, if not `encode`, forward and "
            "backward passes (training mode, gradients of all weights) of backbones, with the same "
            "weights in this package and in eager PyTorch. A ResNet gives QAConv's maps, OSNet its "
            "embeddings.",
        )
        _add_networks(backbones)
        backbones.set_defaults(run=compare_backbones, passes=passes)
    ranking = benchmarks.add_parser(
        "ranking",
        parents=[common],
        help="CMC and mAP, re-ranking and TLift, against plain loops",
        description="Times the ranking of scores against the algorithms as they are usually "
        "written, and measures how much memory each needs beyond its input.",
    )
    ranking.add_argument(
        "--what",
        nargs="+",
        choices=list(benchmark_ranking.SIZES),
        default=list(benchmark_ranking.SIZES),
        help="what to measure (default: everything)",
    )
    ranking.add_argument(
        "--images",
        type=_positive,
        nargs=2,
        metavar=("QUERIES", "GALLERY"),
        help="how many (default: 3368 19732, those of Market-1501; 1000 10000 for rerank, whose "
        "plain form holds them all)",
    )
    ranking.set_defaults(run=compare_rankings)
    shown = benchmarks.add_parser(
        "table", help="the newest results of each benchmark in a file, as Markdown"
    )
    shown.add_argument("file", type=pathlib.Path, help="of JSON lines, from --json")
    shown.set_defaults(run=show_tables, threads=None, json=None)
    given = parser.parse_args(arguments)
    if given.json and not given.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {given.json.absolute().parent}.")
    return given


def _add_networks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch",
        nargs="+",
        default=benchmark_networks.NAMES,
        metavar="NAME",
        help=f"names of backbones, or all (default: {' '.join(benchmark_networks.NAMES)})",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="of the images (default: 384x128 for ResNets, 256x128 for OSNets)",
    )
    parser.add_argument(
        "--batch", type=_positive, help="images (default: 8 for ResNets, 16 for OSNets)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: needed is a whole number of at least 1.")
    return int(text)


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: needed is HxWxD, for example 24x8x128.")
    return tuple(map(int, parts))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and min(int(height), int(width)) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: needed is HEIGHTxWIDTH, for example 256x128.")
    return int(height), int(width)


def use_cores(count: int | None) -> None:
    """Confines the process to the first cores it has, and JAX to the CPU; before JAX is imported.

    Args:
        count: of the cores; None for all.

    Raises:
        ValueError: there are fewer, or the system cannot do it.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    if count is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"--threads={count}: this system cannot confine a process; leave it out.")
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise ValueError(f"--threads={count}: the process has {len(cores)} cores; ask for fewer.")
    os.sched_setaffinity(0, cores[:count])


def take_turns(
    contenders: Mapping[str, Callable[[], Any]], repeats: int, progress: tqdm
) -> dict[str, dict[str, float]]:
    """Times functions in turn, so that a slow minute of the machine is everyone's.

    Args:
        contenders: by name, functions that return when their work is done.
        repeats: runs of each after the warm-up.
        progress: moves on by one for each run.

    Returns:
        By name, in milliseconds: "median", "lower" and "upper" quartile.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(WARM_UP + repeats):
        for name, run in contenders.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
            progress.update()
    summary = {}
    for name, values in times.items():
        lower, median, upper = np.percentile(values[WARM_UP:], (25, 50, 75)).tolist()
        summary[name] = {"median": median, "lower": lower, "upper": upper}
    return summary


def machine() -> dict[str, Any]:
    """Where and with what the measurements are made."""
    model = platform.processor() or platform.machine()
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        lines = (line.partition(":") for line in information.read_text().splitlines())
        model = next(
            (value.strip() for key, _, value in lines if key.strip() == "model name"), model
        )
    affinity = getattr(os, "sched_getaffinity", None)
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions,
    }


def compare_matching(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Scores, or losses with gradients, of many pairs of maps: a record for each kind and type.

    Raises:
        ValueError: PyTorch is missing, where it is a contender.
    """
    given_names = benchmark_matching.CONTENDERS
    names = [name for short, name in given_names.items() if short in given.contenders]
    if {"original", "tiled"} & set(given.contenders):
        _need_torch(given.threads)
    tasks = ("scores",) if given.benchmark == "scoring" else benchmark_matching.TASKS
    work = [
        (
            benchmark_matching.compare,
            benchmark_matching.Problem(*given.images, *given.maps, dtype=dtype, task=task),
            names,
        )
        for task in tasks
        for dtype in given.types
    ]
    if given.benchmark == "scoring" and given.matchers:
        images = map(min, given.images, benchmark_matchers.IMAGES)
        problem = benchmark_matching.Problem(*images, *given.maps, task="matchers")
        others = [benchmark_matchers.NAMES[name] for name in given.matchers]
        matchers = [benchmark_matchers.BASELINE, *others]
        work += [
            (benchmark_matchers.compare, dataclasses.replace(problem, dtype=dtype), matchers)
            for dtype in given.types
        ]
    return _one_by_one(work, given)


def _one_by_one(
    work: list[tuple[Callable[..., dict[str, Any]], benchmark_matching.Problem, Sequence[str]]],
    given: argparse.Namespace,
) -> list[dict[str, Any]]:
    """The records of comparisons: what compares, the problem, and names of contenders."""
    runs = sum(1 + len(compared) for _, _, compared in work) * (WARM_UP + given.repeats)
    records = []
    with tqdm(total=runs, unit="run") as progress:
        for compare, problem, compared in work:
            progress.set_description(f"{problem.task} {problem.dtype}")
            records.append(
                compare(problem, compared, given.repeats, given.threads, take_turns, progress)
            )
    return records


def compare_embeddings(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Scores of many pairs of embeddings: a record for each reading of the metric network.

    Raises:
        ValueError: PyTorch is missing.
    """
    _need_torch(given.threads)
    alone = benchmark_matching.Problem(*given.images, height=1, width=1, channels=given.channels)
    work = [
        (benchmark_embeddings.compare, dataclasses.replace(alone, task=task), names)
        for task, names in benchmark_embeddings.TASKS.items()
    ]
    return _one_by_one(work, given)


def _need_torch(threads: int | None) -> None:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ValueError(
            "the baseline, PyTorch, is not installed: pip install 'jaxreid[torch]'"
        ) from error
    if threads:
        torch.set_num_threads(threads)


def compare_rankings(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Metrics, re-ranking and TLift here and as they are usually written."""
    return benchmark_ranking.compare(given.what, given.images, given.repeats, take_turns)


def compare_backbones(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Forward and backward passes of backbones here and in PyTorch.

    Args:
        given: the command line.

    Returns:
        A record for each network and pass.

    Raises:
        ValueError: PyTorch is missing, or a network is unknown.
    """
    _need_torch(given.threads)
    import torch_networks

    from jaxreid.names import check_name

    if given.arch == ["all"]:
        given.arch = torch_networks.NAMES
    for arch in given.arch:
        check_name(arch, torch_networks.NAMES, "backbone")
    results = []
    contenders = 1 + len(benchmark_networks.LAYOUTS)
    runs = len(given.arch) * len(given.passes) * contenders * (WARM_UP + given.repeats)
    with tqdm(total=runs, unit="run") as progress:
        for arch in given.arch:
            progress.set_description(arch)
            resnet = arch.startswith("resnet")
            height, width = given.size or ((384, 128) if resnet else (256, 128))
            batch = given.batch or (8 if resnet else 16)
            model = torch_networks.make(arch, **(benchmark_networks.MAP if resnet else {}))
            torch_networks.randomize(model)
            x = np.random.default_rng(0).standard_normal((batch, 3, height, width), np.float32)
            for record in benchmark_networks.compare(
                arch, model, x, given.passes, given.repeats, take_turns, progress
            ):
                results.append({"network": arch, "images": f"{batch}x{height}x{width}", **record})
    return results


def show_tables(given: argparse.Namespace) -> None:
    """Prints the newest results of each benchmark in a file, as Markdown.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if not given.file.is_file():
        raise ValueError(f"there is no file {given.file}.")
    print(benchmark_tables.markdown(given.file))


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool; returns its exit status."""
    given = parse(arguments)
    try:
        use_cores(given.threads)
        results = given.run(given)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if results is None:
        return 0
    from jaxreid.runs.log import table

    print(table(*benchmark_tables.rows(given.benchmark, results)))
    if max(benchmark_tables.spread(record["ms"]) for record in results) > BUSY:
        print("The spread between quartiles is wide: the machine was busy. Measure again.")
    if given.json:
        from jaxreid.runs.files import replace_file

        settings = {k: v for k, v in vars(given).items() if k not in ("run", "json")}
        record = {"settings": settings, "machine": machine(), "results": results}
        before = given.json.read_text() if given.json.exists() else ""
        replace_file(given.json, (before + json.dumps(record) + "\n").encode())
        print(f"appended to {given.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
