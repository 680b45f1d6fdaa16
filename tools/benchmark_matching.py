"""Contenders of `benchmark.py scoring` and `step`: several implementations of QAConv's matching.

The original formulation follows the definition: correlations of all pairs and positions, two
maxima, batch norm, a linear layer, batch norm.
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
from tqdm import tqdm

ORIGINAL = "PyTorch, original"
TILED = "PyTorch, tiled"
PLAIN = "JAX, plain"
OURS = "jaxreid"
CONTENDERS = {"ours": OURS, "original": ORIGINAL, "tiled": TILED, "plain": PLAIN}
TYPES = ("float32", "bfloat16")
# Pairs per tile of the tiled PyTorch implementation: 8 x 8.
SAVED = 64
# Queries and gallery maps per block of the other baselines; the fastest choice.
BLOCK = (64, 128)
TASKS = ("pairs", "memory")


@dataclasses.dataclass(frozen=True)
class Problem:
    """Random maps to match.

    Attributes:
        queries: Q.
        gallery: G.
        height: h of a map.
        width: w of a map.
        channels: d of a map.
        dtype: "float32" or "bfloat16", type of the maps; this package's scores are float32.
        task: "scores", or a loss with gradients for the matcher and both maps ("pairs", as for a
            batch with itself) or only the queries ("memory", as for a class memory). Other
            benchmarks use tasks of their own.
    """

    queries: int
    gallery: int
    height: int
    width: int
    channels: int
    dtype: str = "float32"
    task: str = "scores"

    @property
    def flops(self) -> float:
        """Operations of the correlations of all pairs."""
        return 2.0 * self.queries * self.gallery * (self.height * self.width) ** 2 * self.channels

    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw maps [Q, h, w, d] and [G, h, w, d] float32 with unit norm along d."""
        generator = np.random.default_rng(0)
        maps = []
        for count in (self.queries, self.gallery):
            shape = count, self.height, self.width, self.channels
            x = generator.standard_normal(shape, np.float32)
            maps.append(x / np.linalg.norm(x, axis=-1, keepdims=True))
        return tuple(maps)

    def same(self) -> np.ndarray:
        """Draw pair labels [Q, G] float32: 1 for the same identity, else 0."""
        generator = np.random.default_rng(1)
        return (generator.random((self.queries, self.gallery)) < 1 / 8).astype(np.float32)


def jax_contender(problem: Problem, plain: bool) -> Callable[[], Any]:
    """Make the contender in JAX: this package, or (`plain`) with all correlations in memory."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxreid.models.matchers import qaconv
    from jaxreid.ops.correlation import match_pair

    matcher = qaconv.QAConv()
    query, gallery = (jnp.asarray(x, problem.dtype) for x in problem.maps())
    variables = matcher.init(jax.random.key(0), query[:1], gallery[:1])
    stats, params = variables["batch_stats"], variables["params"] | {"bias": jnp.zeros(())}

    def every_pair(query: Any, gallery: Any, **_: Any) -> Any:
        pair = jax.vmap(jax.vmap(match_pair, (None, 0)), (0, None))
        return [m.astype(jnp.float32) for m in pair(query, gallery)]

    def every_score(query: Any, gallery: Any, of_query: Any, of_gallery: Any) -> Any:
        matches = every_pair(query, gallery)
        return matches[0] @ of_query + matches[1] @ of_gallery

    def score(params: Any, query: Any, gallery: Any) -> Any:
        return matcher.apply({"params": params, "batch_stats": stats}, query, gallery)

    def loss(params: Any, query: Any, gallery: Any) -> Any:
        variables = {"params": params, "batch_stats": stats}
        logit, _ = matcher.apply(variables, query, gallery, train=True, mutable=["batch_stats"])
        return optax.losses.sigmoid_binary_cross_entropy(logit, problem.same()).mean()

    if problem.task == "scores":
        function = score
    else:
        function = jax.value_and_grad(loss, (0, 1, 2) if problem.task == "pairs" else (0, 1))
    blocks = [(0, 0, problem.queries, problem.gallery)]
    if plain and problem.task == "scores":
        blocks = _blocks(problem)
    compiled = {}
    ours = qaconv.best_matches, qaconv.match_scores
    matches, scores = (every_pair, every_score) if plain else ours
    patched = mock.patch.multiple(qaconv, best_matches=matches, match_scores=scores)
    with jax.default_matmul_precision("highest"), patched:
        for q, g, rows, columns in blocks:
            if (rows, columns) not in compiled:
                inputs = params, query[q : q + rows], gallery[g : g + columns]
                compiled[rows, columns] = jax.jit(function).lower(*inputs).compile()

    def run() -> Any:
        out = [
            compiled[rows, columns](params, query[q : q + rows], gallery[g : g + columns])
            for q, g, rows, columns in blocks
        ]
        return jax.block_until_ready(out)

    return run


def torch_contender(problem: Problem, tiled: bool) -> Callable[[], Any]:
    """Make the contender in eager PyTorch: the original formulation, or (`tiled`) our tiling."""
    import torch

    n, d = problem.height * problem.width, problem.channels
    dtype = getattr(torch, problem.dtype)
    query, gallery = (torch.from_numpy(x.reshape(-1, n, d)).to(dtype) for x in problem.maps())
    norm_in, norm_out = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    linear = torch.nn.Linear(n, 1)
    torch.nn.init.constant_(linear.weight, 1 / n)
    torch.nn.init.zeros_(linear.bias)
    modules = [module.to(dtype) for module in (norm_in, linear, norm_out)]

    def matches(query: Any, gallery: Any) -> tuple[Any, Any]:
        correlation = torch.einsum("qrd,gsd->qgrs", query, gallery)
        return correlation.max(dim=2)[0], correlation.max(dim=3)[0]

    def in_tiles(query: Any, gallery: Any) -> tuple[Any, Any]:
        side = int(SAVED**0.5)
        over_gallery, over_query = [], []
        for q in range(0, len(query), side):
            columns = query[q : q + side].reshape(-1, d).T
            rows = []
            for g in range(0, len(gallery), side):
                part = gallery[g : g + side]
                tile = (part.reshape(-1, d) @ columns).view(len(part), n, -1, n)
                rows.append((tile.amax(3).transpose(1, 2), tile.amax(1)))
            over_gallery.append(torch.cat([row[0] for row in rows]))
            over_query.append(torch.cat([row[1] for row in rows]))
        return torch.cat(over_gallery, 1).swapaxes(0, 1), torch.cat(over_query, 1).swapaxes(0, 1)

    def score(query: Any, gallery: Any) -> Any:
        both = torch.stack((in_tiles if tiled else matches)(query, gallery), dim=2)
        response = norm_in(both.reshape(-1, 1)).view(-1, 2, n)
        return norm_out(linear(response).sum(1)).view(len(query), len(gallery))

    if problem.task == "scores":
        for module in modules:
            module.eval()
        blocks = _blocks(problem)

        def run() -> Any:
            with torch.inference_mode():
                return [score(query[q : q + r], gallery[g : g + c]) for q, g, r, c in blocks]

        return run

    query.requires_grad_()
    gallery.requires_grad_(problem.task == "pairs")
    same = torch.from_numpy(problem.same()).to(dtype)

    def step() -> Any:
        for x in (query, gallery, *(p for module in modules for p in module.parameters())):
            x.grad = None
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
        loss = cross_entropy(score(query, gallery), same)
        loss.backward()
        return loss.detach(), query.grad

    return step


def _blocks(problem: Problem) -> list[tuple[int, int, int, int]]:
    """List the blocks of the baselines: first query, first gallery map and the number of each."""
    rows, columns = BLOCK
    return [
        (q, g, min(rows, problem.queries - q), min(columns, problem.gallery - g))
        for q in range(0, problem.queries, rows)
        for g in range(0, problem.gallery, columns)
    ]


def contender(name: str, problem: Problem) -> Callable[[], Any]:
    """Make a blocking function that returns a list of blocks of scores, or (loss, gradients)."""
    if name in (ORIGINAL, TILED):
        return torch_contender(problem, tiled=name == TILED)
    return jax_contender(problem, plain=name == PLAIN)


def product(dtype: str) -> tuple[Callable[[], Any], float]:
    """Make a large matrix product in JAX, the upper limit of the rate, and count its operations."""
    import jax
    import jax.numpy as jnp

    size = 4096
    a, b = (
        jnp.asarray(np.random.default_rng(seed).standard_normal((size, size), np.float32), dtype)
        for seed in (0, 1)
    )
    multiply = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
    return lambda: multiply(a, b).block_until_ready(), 2.0 * size**3


def memory(
    name: str,
    problem: Problem,
    threads: int | None,
    make: Callable[[str, Problem], Callable[[], Any]],
) -> int | None:
    """Measure the growth in bytes of the peak resident memory by one run; None if unsupported."""
    # A new process has no freed memory to reuse.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_memory, name, problem, threads, make).result()


def _memory(
    name: str,
    problem: Problem,
    threads: int | None,
    make: Callable[[str, Problem], Callable[[], Any]],
) -> int | None:
    if threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    small = dataclasses.replace(problem, queries=2, gallery=2)
    # Warm-up: libraries allocate their own memory.
    make(name, small)()
    run = make(name, problem)
    reset, status = pathlib.Path("/proc/self/clear_refs"), pathlib.Path("/proc/self/status")
    if not reset.exists():
        return None
    reset.write_text("5")
    before = _kilobytes(status, "VmRSS")
    result = run()
    peak = _kilobytes(status, "VmHWM")
    del result
    return 1024 * (peak - before)


def _kilobytes(status: pathlib.Path, key: str) -> int:
    line = next(t for t in status.read_text().splitlines() if t.startswith(key + ":"))
    return int(line.split()[1])


def compare(
    problem: Problem,
    names: Sequence[str],
    repeats: int,
    threads: int | None,
    take_turns: Callable[..., dict[str, dict[str, float]]],
    progress: tqdm,
) -> dict[str, Any]:
    """Time contenders and a large matrix product alternately; compare the contenders' results.

    Returns:
        The record of `measured`, relative to the original formulation, and "difference" from the
        results of the first contender, relative to their standard deviation.
    """
    runs: dict[str, Callable[[], Any]] = {name: contender(name, problem) for name in names}
    results = {name: _plain(problem, run()) for name, run in runs.items()}
    first = results[names[0]]
    return measured(
        problem, runs, repeats, threads, take_turns, progress,
        make=contender, flops=dict.fromkeys(names, problem.flops), baseline=ORIGINAL,
    ) | {
        "difference": {
            name: float(np.abs(result - first).max() / first.std())
            for name, result in results.items()
        },
    }  # fmt: skip


def measured(
    problem: Problem,
    runs: Mapping[str, Callable[[], Any]],
    repeats: int,
    threads: int | None,
    take_turns: Callable[..., dict[str, dict[str, float]]],
    progress: tqdm,
    *,
    make: Callable[[str, Problem], Callable[[], Any]],
    flops: Mapping[str, float],
    baseline: str,
) -> dict[str, Any]:
    """Measure time and memory of contenders; `runs` are functions that perform the task once.

    `take_turns` is that of `benchmark.py`, `make` remakes a contender in the process that measures
    its memory, `flops` are operations by contender, and `baseline` is the reference of
    "times_as_fast", which is empty if the baseline is not among the contenders.

    Returns:
        "problem"; "ms" by contender and for "product", as from `take_turns`; "product_gflops", the
        rate of the product; and by contender "pairs_per_second", "of_product" (rate relative to the
        product's), "peak_bytes" and "times_as_fast" (relative to the baseline).
    """
    multiply, of_product = product(problem.dtype)
    ms = take_turns({**runs, "product": multiply}, repeats, progress)
    pairs = problem.queries * problem.gallery
    peak = {}
    for name in runs:
        time.sleep(0.1)
        peak[name] = memory(name, problem, threads, make)
    rate = of_product / ms["product"]["median"]
    return {
        "problem": dataclasses.asdict(problem),
        "ms": ms,
        "pairs_per_second": {name: 1e3 * pairs / ms[name]["median"] for name in runs},
        "product_gflops": rate / 1e6,
        "of_product": {name: flops[name] / ms[name]["median"] / rate for name in runs},
        "peak_bytes": peak,
        "times_as_fast": {
            name: ms[baseline]["median"] / ms[name]["median"] for name in runs if baseline in runs
        },
    }


def _plain(problem: Problem, result: Any) -> np.ndarray:
    """Convert a result to float64: the scores [Q, G], or the gradient of the queries."""

    def array(x: Any) -> np.ndarray:
        x = x.float() if hasattr(x, "float") else x
        return np.asarray(x, np.float32).astype(np.float64)

    if problem.task != "scores":
        gradient = result[1] if not isinstance(result, list) else result[0][1][1]
        return array(gradient).reshape(problem.queries, -1)
    if len(result) == 1:
        return array(result[0])
    whole = np.empty((problem.queries, problem.gallery))
    for (q, g, rows, columns), block in zip(_blocks(problem), result, strict=True):
        whole[q : q + rows, g : g + columns] = array(block)
    return whole
