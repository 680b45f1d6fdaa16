"""Contenders of `benchmark.py scoring`: this package's other matchers against its QAConv."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import benchmark_matching
from benchmark_matching import Problem
from tqdm import tqdm

BASELINE = "QAConv"
# Parts of QAConv-MS: pixels, three scales, attention.
PARTS = 5
# Channels of each QAConv-MS part, as a multiple of those of QAConv's map.
WIDER = 4
HIDDEN = 2048
# Upper limit on queries and gallery images: QAConv-MS takes twenty times as long as QAConv.
IMAGES = (16, 64)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A matcher and the size of its features.

    Attributes:
        options: keywords of `make_matcher`.
        channels: channels of the features, as a multiple of QAConv's.
        flops: (n, d) -> operations per pair, for maps of n positions and QAConv's d channels.
    """

    options: dict[str, Any]
    channels: int
    flops: Callable[[int, int], float]


def _flops(n: int, d: int) -> float:
    """Count the operations of the correlation of a pair; patch correlations are sums of these."""
    return 2.0 * n * n * d


# Names on the command line.
NAMES = {
    "patch3": "QAConv, 3x3 patches",
    "patch5": "QAConv, 5x5 patches",
    "qaconv_ms_linear": "QAConv-MS, linear heads",
    "qaconv_ms": "QAConv-MS",
}
CONTENDERS = {
    BASELINE: Contender({"name": "qaconv"}, 1, _flops),
    "QAConv, 3x3 patches": Contender({"name": "qaconv", "patch": 3}, 1, _flops),
    "QAConv, 5x5 patches": Contender({"name": "qaconv", "patch": 5}, 1, _flops),
    "QAConv-MS, linear heads": Contender(
        {"name": "qaconv_ms", "head": "linear"},
        PARTS * WIDER,
        lambda n, d: PARTS * _flops(n, WIDER * d),
    ),
    "QAConv-MS": Contender(
        {"name": "qaconv_ms", "hidden": HIDDEN},
        PARTS * WIDER,
        lambda n, d: PARTS * (_flops(n, WIDER * d) + 2 * 2.0 * HIDDEN * (n + 1)),
    ),
}


def contender(name: str, problem: Problem) -> Callable[[], Any]:
    """Make a function that scores all pairs once and returns when done."""
    import jax
    import jax.numpy as jnp

    from jaxreid.models.matchers import make_matcher

    entry = CONTENDERS[name]
    maps = dataclasses.replace(problem, channels=problem.channels * entry.channels).maps()
    query, gallery = (jnp.asarray(x, problem.dtype) for x in maps)
    options = dict(entry.options)
    if options["name"] == "qaconv_ms":
        options["parts"] = {str(i): WIDER * problem.channels for i in range(PARTS)}
    matcher = make_matcher(**options)
    variables = jax.jit(matcher.init)(jax.random.key(0), query[:1], gallery[:1])
    with jax.default_matmul_precision("highest"):
        score = jax.jit(matcher.apply).lower(variables, query, gallery).compile()
    return lambda: jax.block_until_ready(score(variables, query, gallery))


def compare(
    problem: Problem,
    names: Sequence[str],
    repeats: int,
    threads: int | None,
    take_turns: Callable[..., dict[str, dict[str, float]]],
    progress: tqdm,
) -> dict[str, Any]:
    """Time matchers alternately, each on features of its own format.

    Returns:
        The record of `benchmark_matching.measured`, relative to QAConv. "difference" is None
        because the matchers compute different scores.
    """
    n = problem.height * problem.width
    pairs = problem.queries * problem.gallery
    return benchmark_matching.measured(
        problem,
        {name: contender(name, problem) for name in names},
        repeats,
        threads,
        take_turns,
        progress,
        make=contender,
        flops={name: pairs * CONTENDERS[name].flops(n, problem.channels) for name in names},
        baseline=BASELINE,
    ) | {"difference": dict.fromkeys(names)}
