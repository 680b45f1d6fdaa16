"""Check this package on the device at hand: numbers first, then the speed of scoring.

    python tools/device_check.py OUT
    JAX_PLATFORMS=cpu python tools/device_check.py OUT --small

Needs JAX, NumPy and, for the baseline, PyTorch; no data. Parts are independent: one that fails is
reported and the others go on. Results are lines of OUT/device_check.jsonl, and a table at the end.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

# JAX and PyTorch share the memory of the device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxreid.ops.correlation import best_matches, match_pair, match_scores  # noqa: E402

WARM_UP, REPEATS = 2, 7
Row = dict[str, Any]


def maps(count: int, positions: int, channels: int, seed: int) -> np.ndarray:
    """Draw maps [count, positions, channels] float32 with unit norm along the channels."""
    x = np.random.default_rng(seed).standard_normal((count, positions, channels), np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def seconds(function: Callable[[], Any]) -> float:
    """Return the median seconds of a call that waits for its result."""
    times = []
    for _ in range(WARM_UP + REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def correctness(small: bool) -> Iterator[Row]:
    """Compare matches and gradients with the definition in float64, on random shapes."""
    generator = np.random.default_rng(0)
    for case in range(3 if small else 20):
        q, g, r, s = (int(n) for n in generator.integers(1, [20, 40, 64, 64]))
        d = int(generator.choice([8, 64, 128]))
        query, gallery = maps(q, r, d, 2 * case), maps(g, s, d, 2 * case + 1)
        correlation = np.einsum("ird,jsd->ijrs", *(x.astype(float) for x in (query, gallery)))
        expected = correlation.max(3), correlation.max(2)
        for precision in ("highest", "default"):
            with jax.default_matmul_precision(precision):
                got = jax.jit(best_matches)(query, gallery)
            error = max(np.abs(a - b).max() for a, b in zip(got, expected, strict=True))
            yield {"what": f"matches, float32 {precision}", "error": float(error)}
        weight = generator.standard_normal((q, g, r)).astype(np.float32)
        gradient = np.zeros(query.shape)
        best = correlation.argmax(3)
        for i, j in np.ndindex(q, g):
            gradient[i] += weight[i, j, :, None] * gallery[j][best[i, j]]

        def weighted(query: Any, gallery: Any, weight: Any) -> Any:
            return (best_matches(query, gallery)[0] * weight).sum()

        with jax.default_matmul_precision("highest"):
            got = jax.jit(jax.grad(weighted))(query, gallery, weight)
        error = np.abs(got - gradient).max() / np.abs(gradient).max()
        yield {"what": "gradient, float32 highest", "error": float(error)}


def kernel(small: bool) -> Iterator[Row]:
    """Compare the Pallas kernel with XLA's tiles, on shapes that it takes."""
    for case, (q, g) in enumerate([(16, 64)] if small else [(8, 8), (16, 64), (64, 256), (5, 77)]):
        query, gallery = (
            jnp.asarray(maps(count, 192, 128, 2 * case + side), jnp.bfloat16)
            for side, count in enumerate((q, g))
        )
        got, expected = (
            jax.jit(lambda q, g, engine=engine: best_matches(q, g, engine=engine))(query, gallery)
            for engine in ("pallas", "xla")
        )
        pairs = zip(got, expected, strict=True)
        error = max(np.abs(np.asarray(a, float) - np.asarray(b, float)).max() for a, b in pairs)
        yield {"what": f"Pallas {q} x {g}, bfloat16", "error": float(error)}


def product(small: bool) -> Iterator[Row]:
    """Measure the rate of matrix products, the limit of scoring."""
    n = 512 if small else 8192
    for dtype in ("bfloat16", "float32"):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((n, n), np.float32), dtype)
        run = jax.jit(lambda x: x @ x)
        took = seconds(lambda run=run, x=x: run(x).block_until_ready())
        yield {"what": f"product {n}, {dtype}", "tflops": 2 * n**3 / took / 1e12}


def scoring(small: bool) -> Iterator[Row]:
    """Measure pairs per second of maps of 24x8x128, by engine and tile."""
    q, g, n, d = (8, 32, 192, 128) if small else (128, 4096, 192, 128)
    query, gallery = maps(q, n, d, 0), maps(g, n, d, 1)
    weight = np.full(n, 1 / n, np.float32)
    tiles = [2**20, 2**22] if small else [2**power for power in range(20, 27)]
    tflop = 2 * n * n * d / 1e12

    def row(name: str, dtype: str, took: float) -> Row:
        rate = q * g / took
        return {"what": f"{name}, {dtype}", "pairs_per_second": rate, "tflops": rate * tflop}

    def every_pair(query: Any, gallery: Any) -> Any:
        pair = jax.vmap(jax.vmap(match_pair, (None, 0)), (0, None))
        of_query, of_gallery = pair(query, gallery)
        return of_query.astype(jnp.float32) @ weight + of_gallery.astype(jnp.float32) @ weight

    for dtype in ("float32", "bfloat16"):
        a, b = jnp.asarray(query, dtype), jnp.asarray(gallery, dtype)
        contenders = {
            f"XLA, tile 2^{tile.bit_length() - 1}": lambda q, g, tile=tile: match_scores(
                q, g, weight, weight, tile=tile, engine="xla"
            )
            for tile in tiles
        }
        if dtype == "bfloat16":
            contenders["Pallas"] = lambda q, g: match_scores(q, g, weight, weight, engine="pallas")
        contenders["all pairs at once"] = every_pair
        for name, score in contenders.items():
            if small and name == "Pallas":
                continue
            try:
                run = jax.jit(score)
                took = seconds(lambda run=run, a=a, b=b: run(a, b).block_until_ready())
                yield row(name, dtype, took)
            except Exception as error:
                yield {"what": f"{name}, {dtype}", "failed": str(error).splitlines()[0][:200]}
    if importlib.util.find_spec("torch"):
        yield from torch_scoring(query, gallery, weight, row)


def torch_scoring(query: np.ndarray, gallery: np.ndarray, weight: Any, row: Any) -> Iterator[Row]:
    """Measure the original formulation in PyTorch, 64 queries by 128 images at a time."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in ("float32", "float16", "bfloat16"):
        dtype = getattr(torch, name)
        a, b = (torch.from_numpy(x).to(device, dtype) for x in (query, gallery))
        w = torch.from_numpy(weight).to(device, dtype)

        @torch.no_grad()
        def run(a: Any = a, b: Any = b, w: Any = w) -> None:
            for block in a.split(64):
                for other in b.split(128):
                    correlation = torch.einsum("ird,jsd->ijrs", block, other)
                    _ = correlation.amax(3) @ w + correlation.amax(2) @ w
            if device == "cuda":
                torch.cuda.synchronize()

        yield row("PyTorch, original", name, seconds(run))


PARTS = {part.__name__: part for part in (correctness, kernel, product, scoring)}


def host() -> Row:
    """Describe device and versions."""
    versions = {}
    for package in ("jax", "jaxlib", "torch"):
        if importlib.util.find_spec(package):
            versions[package] = importlib.metadata.version(package)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"device": jax.devices()[0].device_kind, "date": date, "packages": versions}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; return 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=pathlib.Path, help="folder of the results")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    rows, failed = [{"part": "host"} | host()], False
    with (args.out / "device_check.jsonl").open("w") as file:
        print(json.dumps(rows[0]), file=file, flush=True)
        for name in args.parts:
            start = time.perf_counter()
            try:
                for row in PARTS[name](args.small):
                    rows.append({"part": name} | row)
                    print(json.dumps(rows[-1]), file=file, flush=True)
            except Exception:
                failed = True
                traceback.print_exc()
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(json.dumps(rows[0]))
    for row in rows[1:]:
        values = [f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float)]
        print(f"{row['part']:12} {row['what']:36} {'  '.join(values)}{row.get('failed', '')}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
