"""Contenders of `benchmark.py embeddings`: several implementations of GMN's scores of embeddings.

The plain implementation follows the definition: it applies the network to the squared difference of
every pair, in blocks of as many pairs as the package processes at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import benchmark_matching
import numpy as np
from benchmark_matching import OURS, Problem
from tqdm import tqdm

PLAIN = "PyTorch, plain"
AT_ONCE = "JAX, all pairs at once"
EXPANDED = "JAX, expanded"
HIDDEN = 512
# "linear", with one weight per channel, has no matrix product to expand.
TASKS = {"perceptron": (OURS, PLAIN, AT_ONCE, EXPANDED), "linear": (OURS, PLAIN, AT_ONCE)}


def contender(name: str, problem: Problem) -> Callable[[], Any]:
    """Make a function that computes the scores [Q, G] of all pairs and blocks until done."""
    import jax
    import jax.numpy as jnp

    from jaxreid.models.matchers import make_matcher
    from jaxreid.models.matchers.metric_network import PAIRS_AT_ONCE

    d = problem.channels
    query, gallery = (x.reshape(-1, d) for x in problem.maps())
    matcher = make_matcher("metric_network", net=problem.task, hidden=HIDDEN)
    variables = _random(jax.jit(matcher.init)(jax.random.key(0), query[:1], gallery[:1]))
    at_once = max(1, PAIRS_AT_ONCE // len(gallery))
    if name == PLAIN:
        return _torch_contender(problem.task, variables, query, gallery, at_once)
    layers = _layers(problem.task, variables)
    root = np.float32(d**0.5)

    def plain(query: Any, gallery: Any) -> Any:
        return _plain(layers, root * query, root * gallery)

    def expanded(query: Any, gallery: Any) -> Any:
        kernel, shift, out, bias = layers
        query, gallery = root * query, root * gallery
        of_gallery = jnp.square(gallery) @ kernel + shift

        # With the kernel K: (p - q)^2 K = (p^2 + q^2) K - 2 q (diag(p) K).
        def score(one: Any) -> Any:
            hidden = of_gallery + jnp.square(one) @ kernel - 2 * gallery @ (one[:, None] * kernel)
            return jnp.maximum(hidden, 0) @ out

        return jax.lax.map(score, query, batch_size=at_once) + bias

    forms = {AT_ONCE: plain, EXPANDED: expanded}
    form = forms.get(name, lambda query, gallery: matcher.apply(variables, query, gallery))
    query, gallery = jnp.asarray(query), jnp.asarray(gallery)
    with jax.default_matmul_precision("highest"):
        score = jax.jit(form).lower(query, gallery).compile()
    return lambda: jax.block_until_ready(score(query, gallery))


def _random(variables: Any) -> Any:
    """Perturb initial variables, because many are zero and would hide mistakes."""
    import jax

    leaves, tree = jax.tree.flatten(variables)
    generator = np.random.default_rng(2)
    perturbed = [np.float32(x + 0.1 * generator.uniform(-1, 1, x.shape)) for x in leaves]
    return jax.tree.unflatten(tree, perturbed)


def _layers(task: str, variables: Any) -> tuple[Any, ...]:
    """Fold batch norm into the layers: kernel, shift, output weights, bias; or weight and shift."""
    params, stats = variables["params"], variables["batch_stats"]

    def affine(name: str) -> tuple[Any, Any]:
        gain = params[name]["scale"] / np.sqrt(stats[name]["var"] + 1e-5)
        return gain, params[name]["bias"] - stats[name]["mean"] * gain

    if task == "linear":
        weight = np.logaddexp(0, params["weight"])
        gain, shift = affine("norm_out")
        return -gain * weight / len(weight), shift
    (gain_in, shift_in), (gain, shift) = affine("norm_in"), affine("norm_hidden")
    kernel = np.asarray(params["kernel"])
    shift = (shift_in @ kernel) * gain + shift
    return (
        np.asarray(gain_in[:, None] * kernel * gain),
        np.asarray(shift),
        np.asarray(params["out_kernel"])[:, 0],
        np.asarray(params["out_bias"]),
    )


def _plain(layers: Sequence[Any], query: Any, gallery: Any) -> Any:
    """Compute scores [Q, G] from the squared difference of every pair, in JAX or PyTorch."""
    pairs = (query[:, None] - gallery[None]) ** 2
    if len(layers) == 2:
        weight, shift = layers
        return pairs @ weight + shift
    kernel, shift, out, bias = layers
    return (pairs @ kernel + shift).clip(min=0) @ out + bias


def _torch_contender(
    task: str, variables: Any, query: Any, gallery: Any, at_once: int
) -> Callable[[], Any]:
    import torch

    layers = [torch.as_tensor(np.array(x)) for x in _layers(task, variables)]
    query, gallery = (torch.from_numpy(x * x.shape[-1] ** 0.5) for x in (query, gallery))

    def run() -> Any:
        with torch.inference_mode():
            parts = [_plain(layers, part, gallery) for part in query.split(at_once)]
            return torch.cat(parts)

    return run


def compare(
    problem: Problem,
    names: Sequence[str],
    repeats: int,
    threads: int | None,
    take_turns: Callable[..., dict[str, dict[str, float]]],
    progress: tqdm,
) -> dict[str, Any]:
    """Time the implementations alternately.

    Returns:
        The record of `benchmark_matching.measured`, relative to the plain PyTorch implementation,
        and "difference" from its scores, relative to the largest score.
    """
    runs = {name: contender(name, problem) for name in names}
    scores = {name: np.asarray(run()) for name, run in runs.items()}
    plain = scores[PLAIN]
    difference = {name: np.abs(x - plain).max() / np.abs(plain).max() for name, x in scores.items()}
    pairs = problem.queries * problem.gallery
    flops = 2.0 * problem.channels * (HIDDEN if problem.task == "perceptron" else 1) * pairs
    return benchmark_matching.measured(
        problem,
        runs,
        repeats,
        threads,
        take_turns,
        progress,
        make=contender,
        flops=dict.fromkeys(names, flops),
        baseline=PLAIN,
    ) | {"difference": {name: float(x) for name, x in difference.items()}}
