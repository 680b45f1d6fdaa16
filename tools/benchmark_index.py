"""Benchmark an index with generated images of a real model's features.

    jaxreid embed qaconv.safetensors photographs/ --out=features.npz
    python tools/benchmark_index.py qaconv.safetensors features.npz --images 100000 1000000
    python tools/benchmark_index.py --plot benchmarks/index.jsonl docs/scale.png

Images are mixtures of those in the file. A generated person has four strips of the body (of a map:
a quarter of its rows each) from four images drawn at random; each of four pictures of the person is
three parts this and one part another image, cell by cell, scaled to unit length again. Embeddings
are mixed as a whole, of two images. Queries are further pictures of people in the index.

Measured: seconds and rate of adding, with everything that it does by itself, and generation in the
processor's seconds; bytes in the end and at most, with the versions that are kept for readers;
latency of single queries and peak memory in a process of its own; the rate of several such
processes at once; recall@10 against the exact ranking of all images.

Memory is the largest resident set of the asking process, model and libraries included, in MB:
`peak_mb_without_index` while it loads and compiles the model and makes the queries, `peak_mb` from
there on, while it opens the index and asks; null where the system does not say (not Linux).
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

PICTURES = 4
CHUNK = 16_384


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    args = parse(arguments)
    if args.plot:
        plot(*args.plot)
    elif args.place:
        print(json.dumps(asked(args)))
    else:
        for count in args.images:
            record = measured(args, count)
            print(json.dumps(record, indent=2), flush=True)
            if args.json:
                with args.json.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="run or weights file")
    parser.add_argument("features", nargs="?", help="file of jaxreid embed")
    parser.add_argument("--images", type=int, nargs="+", default=[100_000])
    parser.add_argument("--queries", type=int, default=100, help="for latency (default: 100)")
    parser.add_argument("--exact", type=int, default=10, help="for recall (default: 10)")
    parser.add_argument("--readers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--dir", help="folder for the index, removed afterwards")
    parser.add_argument("--json", type=pathlib.Path, help="file to append a line to")
    parser.add_argument("--plot", nargs=2, type=pathlib.Path, metavar=("JSONL", "PNG"))
    parser.add_argument("--place", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def features_in(path: str) -> np.ndarray:
    """Return the features in a file of jaxreid embed."""
    with np.load(path) as held:
        return held["features"]


def generated(features: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `count` generated features, `CHUNK` at a time.

    People depend on their place alone, and pictures also on `seed`.
    """
    for first in range(0, count, CHUNK):
        size = min(CHUNK, count - first)
        people = np.random.default_rng([7, first]).integers(0, len(features), (size, 4))
        people = people[np.arange(size) // PICTURES]
        others = np.random.default_rng([seed, first]).integers(0, len(features), size)
        if features.ndim == 2:
            mixed = 0.6 * features[people[:, 0]] + 0.4 * features[people[:, 1]]
        else:
            mixed = np.empty((size, *features.shape[1:]), np.float32)
            edges = np.linspace(0, features.shape[1], 5).round().astype(int)
            for part, (a, b) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
                mixed[:, a:b] = features[people[:, part], a:b]
        mixed *= 0.75
        mixed += 0.25 * features[others]
        mixed /= np.maximum(np.sqrt(np.einsum("...d,...d->...", mixed, mixed)), 1e-12)[..., None]
        yield mixed


def measured(args: argparse.Namespace, count: int) -> dict[str, Any]:
    """Make an index of `count` images and measure it."""
    import jaxreid

    reid, features = jaxreid.load(args.model), features_in(args.features)
    place = pathlib.Path(args.dir or tempfile.mkdtemp()) / f"index-{count}"
    index = jaxreid.Index.create(place, reid)
    seconds, cpu, done, largest = 0.0, time.process_time(), 0, 0
    try:
        for chunk in generated(features, count, 0):
            ids = [f"{i}" for i in range(done, done + len(chunk))]
            start = time.perf_counter()
            index.add(chunk, {"id": ids, "camera": [f"c{i % 6}" for i in range(len(ids))]})
            seconds += time.perf_counter() - start
            done += len(chunk)
            largest = max(largest, index.info()["bytes"])
            print(f"{done:,} of {count:,}, {done / seconds:,.0f} a second", file=sys.stderr)
        start = time.perf_counter()
        index.optimize()
        seconds += time.perf_counter() - start
        cpu, load = time.process_time() - cpu, os.getloadavg()[0]
        readers = {}
        for number in args.readers:
            answers = _readers(args, place, number)
            rates = [answer["queries"] / answer["seconds"] for answer in answers]
            readers[str(number)] = sum(rates)
            if number == 1:
                alone = answers[0]
        return {
            "images": count,
            "features": list(reid.feature_shape),
            "matcher": reid.card["matcher"]["name"],
            "date": time.strftime("%Y-%m-%d"),
            "cores": os.cpu_count(),
            "load": load,
            "add_seconds": seconds,
            "add_per_second": count / seconds,
            "add_cpu_seconds": cpu,
            "largest_bytes": largest,
            "ms": alone["ms"],
            "cpu_ms": alone["cpu_ms"],
            "ms_of_a_camera": alone["ms_of_a_camera"],
            "peak_mb": alone["peak_mb"],
            "peak_mb_without_index": alone["peak_mb_before"],
            "queries_per_second_by_readers": readers,
            "recall": recall(index, features, args.exact),
            "exact_queries": args.exact,
            "info": {key: value for key, value in index.info().items() if key != "place"},
        }
    finally:
        shutil.rmtree(place)


def _readers(args: argparse.Namespace, place: pathlib.Path, number: int) -> list[dict[str, Any]]:
    """Ask an index in several processes at once."""
    command = [sys.executable, __file__, args.model, args.features, "--place", str(place)]
    command += ["--queries", str(args.queries)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(number)]
    return [json.loads(process.communicate()[0]) for process in processes]


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """Ask an index in this process; return times and peak memory."""
    import jaxreid

    reid = jaxreid.load(args.model)
    query = next(generated(features_in(args.features), args.queries, 1))
    # The first call compiles what a model has, whatever the size of an index.
    reid.score(query[:1], query)
    before = _peak_mb()
    index = jaxreid.Index.open(args.place, reid)
    index.search(query[0])
    times = []
    start, cpu = time.perf_counter(), time.process_time()
    for one in query:
        began = time.perf_counter()
        index.search(one)
        times.append(time.perf_counter() - began)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    filtered = []
    for one in query[:20]:
        began = time.perf_counter()
        index.search(one, camera="c1")
        filtered.append(time.perf_counter() - began)
    return {
        "queries": len(times),
        "seconds": seconds,
        "ms": _spread(times),
        "cpu_ms": cpu / len(times) * 1e3,
        "ms_of_a_camera": _spread(filtered),
        "peak_mb": _peak_mb(),
        "peak_mb_before": before,
    }


def recall(index: Any, features: np.ndarray, queries: int) -> float:
    """Return the share of the exactly best ten that are found."""
    found = []
    for one in next(generated(features, queries, 2)):
        best = {hit.id for hit in index.search(one, shortlist=0)}
        found.append(len(best & {hit.id for hit in index.search(one)}) / len(best))
    return float(np.mean(found))


def plot(source: pathlib.Path, out: pathlib.Path) -> None:
    """Draw latency, memory and bytes by the number of images, from a file of results.

    What no record knows has no panel.
    """
    from jaxreid.pictures.canvas import Canvas, save

    records = [json.loads(line) for line in source.read_text().splitlines()]
    kinds = {}
    for record in records:
        kinds.setdefault("x".join(map(str, record["features"])), []).append(record)
    panels = {
        "ms for a query: median, and 99 of 100": ("p50", "p99"),
        "MB of memory at most, all in all": ("peak_mb",),
        "GB on disk": ("gb",),
    }
    panels = {
        title: keys
        for title, keys in panels.items()
        if any(_value(record, key) is not None for record in records for key in keys)
    }
    colours = ((31, 119, 180), (214, 96, 20), (44, 150, 70))
    size, margin = (300, 240), 60
    canvas = Canvas((len(panels) * (size[0] + margin) + 30, size[1] + 110), fineness=2)
    for p, (title, keys) in enumerate(panels.items()):
        left, top = margin + p * (size[0] + margin), 40
        values = {
            (kind, key): [(r["images"], y) for r in rows if (y := _value(r, key)) is not None]
            for kind, rows in kinds.items()
            for key in keys
        }
        xs = [x for points in values.values() for x, _ in points]
        ys = [y for points in values.values() for _, y in points]
        low, high = np.floor(np.log10(min(ys))), np.ceil(np.log10(max(ys)) + 1e-9)
        span = np.log10(min(xs)) - 0.1, np.log10(max(xs)) + 0.1

        def at(x: float, y: float, left=left, top=top, span=span, low=low, high=high) -> Any:
            across = (np.log10(x) - span[0]) / (span[1] - span[0])
            up = (np.log10(y) - low) / (high - low)
            return left + across * size[0], top + (1 - up) * size[1]

        canvas.text((left, 12), title, 13)
        for power in range(int(low), int(high) + 1):
            y = at(min(xs), 10.0**power)[1]
            canvas.line([(left, y), (left + size[0], y)], (225, 225, 225), 1)
            canvas.text((left - 6, y), f"{10.0**power:g}", 11, anchor="rm")
        for x in sorted(set(xs)):
            canvas.text((at(x, 10**low)[0], top + size[1] + 12), f"{x:,}", 11, anchor="mm")
        for (kind, key), points in values.items():
            colour = colours[list(kinds).index(kind)]
            places = [at(*point) for point in sorted(points)]
            if len(places) > 1:
                canvas.line(places, colour, 2 if key != "p99" else 1)
            for place in places:
                canvas.dot(place, 4 if key != "p99" else 2.5, colour)
    for number, kind in enumerate(kinds):
        x = margin + number * 200
        canvas.dot((x, size[1] + 85), 4, colours[number])
        name = "embeddings" if "x" not in kind else "maps"
        canvas.text((x + 10, size[1] + 85), f"{name} {kind}", 12, anchor="lm")
    save(canvas.picture(), out)


def _value(record: dict[str, Any], key: str) -> float | None:
    if key == "gb":
        return record["info"]["bytes"] / 1e9
    return record["ms"][key] if key in record["ms"] else record.get(key)


def _spread(times: list[float]) -> dict[str, float]:
    return {f"p{q}": float(np.quantile(times, q / 100) * 1e3) for q in (50, 99)}


def _peak_mb() -> float | None:
    """Return the largest resident set of this process since the last call; None if unknown.

    Not `ru_maxrss`: a process starts with that of the one which started it, and this one is large.
    """
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        # From here on, the peak is measured anew (proc_pid_clear_refs(5)).
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(peak[1]) * 1024 / 1e6 if peak else None


if __name__ == "__main__":
    sys.exit(main())
