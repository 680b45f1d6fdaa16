"""Benchmark this package against the obvious alternatives, on the same cores in the same run.

    python tools/benchmark.py scoring
    python tools/benchmark.py step --json speed.jsonl
    python tools/benchmark.py embeddings
    python tools/benchmark.py encode --arch resnet50 osnet_x1_0 --batch 4
    python tools/benchmark.py ranking --repeats 3
    python tools/benchmark.py input --repeats 5
    python tools/benchmark.py table speed.jsonl

Absolute times do not transfer to other machines. Compare the ratios of the medians: contenders run
alternately. Keep the machine otherwise idle.
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
import benchmark_input
import benchmark_matchers
import benchmark_matching
import benchmark_networks
import benchmark_ranking
import benchmark_tables
import numpy as np
from tqdm import tqdm

from jaxreid.huge_pages import use_huge_pages

# JAX and PyTorch count the cores when they are imported. They are therefore imported inside
# functions, here and in the modules above, after `use_cores`.

PACKAGES = ("jaxreid", "jax", "jaxlib", "flax", "numpy", "torch")
# Seconds before each run, because threads of the previous one may still be spinning.
PAUSE = 0.02
# Warn above this interquartile range, relative to the median.
BUSY = 0.1
# Discarded runs.
WARM_UP = 2


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; its attribute `run` is the function of the benchmark."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--repeats", type=_positive, default=20, help="timed runs of each contender (default: 20)"
    )
    common.add_argument(
        "--threads", type=_positive, help="cores used by all contenders (default: all)"
    )
    common.add_argument(
        "--json",
        type=pathlib.Path,
        metavar="FILE",
        help="append results, settings and machine description to a JSON lines file",
    )
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    matching = argparse.ArgumentParser(add_help=False)
    matching.add_argument(
        "--maps",
        type=_sizes,
        metavar="HxWxD",
        default=(24, 8, 128),
        help="size of the feature maps (default: 24x8x128)",
    )
    matching.add_argument(
        "--contenders",
        nargs="+",
        choices=benchmark_matching.CONTENDERS,
        default=list(benchmark_matching.CONTENDERS),
        help="our implementation; the original formulation and our tiling in PyTorch; the plain "
        "formulation in JAX (default: all)",
    )
    matching.add_argument(
        "--types",
        nargs="+",
        choices=benchmark_matching.TYPES,
        default=list(benchmark_matching.TYPES),
        help="types of the maps (default: both)",
    )
    for name, images, work in (
        ("scoring", (64, 128), "scores of all query-gallery pairs of maps, in evaluation mode"),
        (
            "step",
            (64, 64),
            "a loss on all scores, in training mode, with gradients for the matcher "
            "and both maps (a batch with itself) or only the queries (a class memory)",
        ),
    ):
        parser_of = benchmarks.add_parser(
            name,
            parents=[common, matching],
            help=f"QAConv's matching: {work.split(',')[0]}",
            description=f"Time {work}. Contenders: this package, the original formulation in plain "
            "PyTorch, our tiling in PyTorch, and the plain formulation in JAX. Reports memory use "
            "and the rate relative to a large matrix product."
            + (" Then time other matchers against QAConv." if name == "scoring" else ""),
        )
        parser_of.add_argument(
            "--images",
            type=_positive,
            nargs=2,
            metavar=("QUERIES", "GALLERY"),
            default=images,
            help="number of images (default: {} {})".format(*images),
        )
        if name == "scoring":
            parser_of.add_argument(
                "--matchers",
                nargs="*",
                choices=benchmark_matchers.NAMES,
                default=list(benchmark_matchers.NAMES),
                help="other matchers of this package to compare with its QAConv; pass no name for "
                "none (default: all)",
            )
        parser_of.set_defaults(run=compare_matching)
    embeddings = benchmarks.add_parser(
        "embeddings",
        parents=[common],
        help="GMN's scores of embedding pairs, against PyTorch",
        description="Time the scores of all query-gallery pairs of embeddings, in evaluation mode, "
        "for both readings of GMN's metric network. Contenders: this package, plain PyTorch, JAX "
        "with all pairs at once, and JAX with the first layer's product expanded. Reports memory "
        "use and the rate relative to a large matrix product.",
    )
    embeddings.add_argument(
        "--images",
        type=_positive,
        nargs=2,
        metavar=("QUERIES", "GALLERY"),
        default=(64, 512),
        help="number of images (default: 64 512)",
    )
    embeddings.add_argument(
        "--channels",
        type=_positive,
        default=2048,
        help="dimensions of an embedding (default: 2048)",
    )
    embeddings.set_defaults(run=compare_embeddings)
    for name, passes in (
        ("backbones", benchmark_networks.PASSES),
        ("encode", benchmark_networks.PASSES[:1]),
    ):
        backbones = benchmarks.add_parser(
            name,
            parents=[common],
            help=f"{', '.join(passes)} of backbones, against PyTorch",
            description="Time forward passes (evaluation mode) and, except for `encode`, forward "
            "and backward passes (training mode, gradients of all weights) and training steps "
            "(classification, optimizer, running statistics) of backbones with the same weights in "
            "this package and in eager PyTorch. A ResNet outputs QAConv's maps, OSNet its "
            "embeddings.",
        )
        _add_networks(backbones)
        backbones.set_defaults(run=compare_backbones, passes=passes)
    ranking = benchmarks.add_parser(
        "ranking",
        parents=[common],
        help="CMC and mAP, re-ranking and TLift, against plain loops",
        description="Time the ranking of scores against straightforward implementations, and "
        "measure the memory each needs beyond its input.",
    )
    ranking.add_argument(
        "--what",
        nargs="+",
        choices=list(benchmark_ranking.SIZES),
        default=list(benchmark_ranking.SIZES),
        help="algorithms to measure (default: all)",
    )
    ranking.add_argument(
        "--images",
        type=_positive,
        nargs=2,
        metavar=("QUERIES", "GALLERY"),
        help="number of images (default: 3368 19732, as in Market-1501; 1000 10000 for rerank, "
        "whose plain implementation holds the full distance matrix)",
    )
    ranking.set_defaults(run=compare_rankings)
    inputs = benchmarks.add_parser(
        "input",
        parents=[common],
        help="training batches for a simulated device, augmented on the host or on the device",
        description="Time the training batches of JPEG files of 128x64 pixels with QAConv-GS's "
        "augmentation on the host, with the random parameters alone, of which a device augments, "
        "and without augmentation; and the share of the time in which a device of a given speed "
        "waits for them.",
    )
    inputs.add_argument(
        "--size",
        type=_size,
        nargs="+",
        metavar="HxW",
        default=[(384, 128), (256, 128)],
        help="sizes that the images are resized to (default: 384x128 256x128)",
    )
    inputs.add_argument("--batch", type=_positive, default=64, help="batch size (default: 64)")
    inputs.add_argument(
        "--steps", type=_positive, default=20, help="timed steps of a run (default: 20)"
    )
    inputs.add_argument(
        "--rate",
        type=_positive,
        default=3000,
        help="images per second of the simulated device (default: 3000)",
    )
    inputs.set_defaults(run=compare_inputs)
    shown = benchmarks.add_parser(
        "table", help="print the newest results of each benchmark in a file as Markdown"
    )
    shown.add_argument("file", type=pathlib.Path, help="JSON lines file written by --json")
    shown.set_defaults(run=show_tables, threads=None, json=None)
    args = parser.parse_args(arguments)
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: no folder {args.json.absolute().parent}.")
    return args


def _add_networks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch",
        nargs="+",
        default=benchmark_networks.NAMES,
        metavar="NAME",
        help=f"backbones, or all (default: {' '.join(benchmark_networks.NAMES)})",
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="size of the images (default: 384x128 for ResNets, 256x128 for OSNets, 128x64 for the "
        "embedded network)",
    )
    parser.add_argument(
        "--batch", type=_positive, help="batch size (default: 8, 16 and 32, in this order)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}.")
    return int(text)


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"expected HxWxD, for example 24x8x128, got {text!r}.")
    return tuple(map(int, parts))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and min(int(height), int(width)) > 0):
        raise argparse.ArgumentTypeError(
            f"expected HEIGHTxWIDTH, for example 256x128, got {text!r}."
        )
    return int(height), int(width)


def use_cores(count: int | None) -> None:
    """Pin the process to its first cores and JAX to the CPU. Call it before importing JAX.

    Args:
        count: number of cores; None for all.

    Raises:
        ValueError: there are fewer cores, or the system does not support pinning.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    if count is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(
            f"--threads={count}: this system cannot pin a process to cores; omit --threads."
        )
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise ValueError(f"--threads={count}: expected at most {len(cores)}, the available cores.")
    os.sched_setaffinity(0, cores[:count])


def take_turns(
    contenders: Mapping[str, Callable[[], Any]], repeats: int, progress: tqdm
) -> dict[str, dict[str, float]]:
    """Time functions alternately, so that a slowdown of the machine affects all of them.

    Args:
        contenders: functions by name; they must block until their work is done.
        repeats: timed runs of each after the warm-up.
        progress: advanced by one per run.

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
    """Describe the machine and the package versions of the measurements."""
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
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
        "packages": versions,
    }


def compare_matching(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Benchmark scores, or losses with gradients, of pairs of maps: one record per task and type.

    Raises:
        ValueError: PyTorch is a contender and is not installed.
    """
    all_names = benchmark_matching.CONTENDERS
    names = [name for short, name in all_names.items() if short in given.contenders]
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
    """Run comparisons (compare function, problem, contenders) and return their records."""
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
    """Benchmark scores of many pairs of embeddings: one record per reading of the metric network.

    Raises:
        ValueError: PyTorch is not installed.
    """
    _need_torch(given.threads)
    problem = benchmark_matching.Problem(*given.images, height=1, width=1, channels=given.channels)
    work = [
        (benchmark_embeddings.compare, dataclasses.replace(problem, task=task), names)
        for task, names in benchmark_embeddings.TASKS.items()
    ]
    return _one_by_one(work, given)


def _need_torch(threads: int | None) -> None:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ValueError(
            "the baseline needs PyTorch, which is not installed: pip install 'jaxreid[torch]'"
        ) from error
    if threads:
        torch.set_num_threads(threads)


def compare_rankings(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Benchmark metrics, re-ranking and TLift against straightforward implementations."""
    return benchmark_ranking.compare(given.what, given.images, given.repeats, take_turns)


def compare_backbones(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Benchmark passes of backbones against PyTorch: one record per network and pass.

    Raises:
        ValueError: PyTorch is not installed, or a network is unknown.
    """
    _need_torch(given.threads)
    import torch
    import torch_networks

    from jaxreid.names import check_name

    # AMSGrad's moments become denormal, with which PyTorch is ten times as slow on a CPU.
    torch.set_flush_denormal(True)
    known = (benchmark_networks.EMBEDDED, *torch_networks.NAMES)
    if given.arch == ["all"]:
        given.arch = known
    for name in given.arch:
        check_name(name, known, "backbone")
    results = []
    contenders = 1 + len(benchmark_networks.LAYOUTS)
    runs = len(given.arch) * len(given.passes) * contenders * (WARM_UP + given.repeats)
    with tqdm(total=runs, unit="run") as progress:
        for name in given.arch:
            progress.set_description(name)
            network = benchmark_networks.make(name)
            batch, height, width = network.size
            height, width = given.size or (height, width)
            batch = given.batch or batch
            x = np.random.default_rng(0).standard_normal((batch, 3, height, width), np.float32)
            for record in benchmark_networks.compare(
                network, x, given.passes, given.repeats, take_turns, progress
            ):
                results.append({"network": name, "images": f"{batch}x{height}x{width}", **record})
    return results


def compare_inputs(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Benchmark training batches: one record per size.

    Raises:
        ValueError: TensorFlow is not installed.
    """
    from jaxreid.runs.settings import check_tensorflow

    try:
        check_tensorflow()
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    return benchmark_input.compare(given.size, given.batch, given.steps, given.rate, given.repeats)


def show_tables(given: argparse.Namespace) -> None:
    """Print the newest results of each benchmark in a file as Markdown.

    Raises:
        ValueError: the file does not exist or does not contain results.
    """
    if not given.file.is_file():
        raise ValueError(f"no file {given.file}.")
    print(benchmark_tables.markdown(given.file))


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    args = parse(arguments)
    try:
        use_cores(args.threads)
        results = args.run(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if results is None:
        return 0
    from jaxreid.runs.log import table

    print(table(*benchmark_tables.rows(args.benchmark, results)))
    if max(benchmark_tables.spread(record["ms"]) for record in results) > BUSY:
        print("The interquartile range is large: the machine was busy. Measure again.")
    if args.json:
        from jaxreid.runs.files import replace_file

        settings = {k: v for k, v in vars(args).items() if k not in ("run", "json")}
        record = {"settings": settings, "machine": machine(), "results": results}
        before = args.json.read_text() if args.json.exists() else ""
        replace_file(args.json, (before + json.dumps(record) + "\n").encode())
        print(f"appended to {args.json}")
    return 0


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(main())
