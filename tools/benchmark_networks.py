"""Contenders of `benchmark.py backbones`: passes of a network in this package and in PyTorch."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

NAMES = (
    "resnet18",
    "resnet50",
    "resnet50_ibn_b",
    "osnet_x0_25",
    "osnet_x1_0",
    "osnet_ain_x1_0",
)
PASSES = ("forward", "forward and backward")
LAYOUTS = {"PyTorch": "contiguous_format", "PyTorch channels_last": "channels_last"}
# ResNet as in QAConv 2.1.
MAP = {"cut": "layer3", "neck": 128, "neck_norm": "none"}
OURS = "jaxreid"


def compare(
    arch: str,
    model: Any,
    x: np.ndarray,
    passes: Sequence[str],
    repeats: int,
    take_turns: Callable[..., dict[str, dict[str, float]]],
    progress: tqdm,
) -> list[dict[str, Any]]:
    """Time the passes of one network.

    The loss of the backward pass is the mean of the outputs, weighted by fixed random numbers. The
    mean of squares would not do, because it is constant for maps of unit length.

    Args:
        arch: name of the network.
        model: network of `torch_networks` whose weights both sides use.
        x: [B, 3, H, W] float32 images.
        passes: any of `PASSES`.
        repeats: timed runs of each contender.
        take_turns: times functions alternately, as in `benchmark.py`.
        progress: advanced by one per run.

    Returns:
        One record per pass: "pass"; "ms", times by contender; "times_as_fast", speed relative to
        the faster PyTorch layout; "difference", relative difference of the outputs (forward) or of
        the norm of all gradients (backward), a check that both sides compute the same;
        "compile_s", seconds of our first run.
    """
    import torch

    with torch.inference_mode():
        shape = model.eval()(torch.from_numpy(x)).shape
    weight = np.random.default_rng(1).standard_normal(shape, np.float32)
    records = []
    for name in passes:
        train = name != "forward"
        contenders = {OURS: jax_pass(arch, model, x, weight, train)}
        for layout, memory_format in LAYOUTS.items():
            contenders[layout] = torch_pass(model, x, weight, memory_format, train)
        start = time.perf_counter()
        ours = contenders[OURS]()
        seconds = time.perf_counter() - start
        theirs = contenders["PyTorch"]()
        if train:
            difference = _difference(_norm(ours), _norm(theirs))
        else:
            difference = _difference(np.moveaxis(np.asarray(ours), -1, 1), np.asarray(theirs))
        ms = take_turns(contenders, repeats, progress)
        best = min(ms[layout]["median"] for layout in LAYOUTS)
        records.append(
            {
                "pass": name,
                "ms": ms,
                "times_as_fast": best / ms[OURS]["median"],
                "difference": difference,
                "compile_s": seconds,
            }
        )
    return records


def _difference(mine: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(mine - theirs).max() / np.abs(theirs).max())


def _norm(arrays: list[Any]) -> np.ndarray:
    return np.sqrt(sum(np.square(np.asarray(one), dtype=np.float64).sum() for one in arrays))


def jax_pass(
    arch: str, model: Any, x: np.ndarray, weight: np.ndarray, train: bool
) -> Callable[[], Any]:
    """Make the counterpart of `torch_pass` in this package, with the weights of `model`.

    Raises:
        ValueError: the weights do not fit our network.
    """
    import jax

    from jaxreid.mesh import make_mesh
    from jaxreid.models.backbones import make_backbone
    from jaxreid.models.necks import make_neck
    from jaxreid.programs import network_options
    from jaxreid.weights.pytorch import convert

    weights = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    converted = convert(weights, arch, skip=("criterion",))
    if not converted.report.complete:
        raise ValueError(f"{arch}: the weights do not fit this package: {converted.report}.")
    modules = {
        "backbone": make_backbone(**converted.card["backbone"]),
        "neck": make_neck(**converted.card["neck"]),
    }
    params, stats = (
        {part: converted.variables[kind].get(part, {}) for part in modules}
        for kind in ("params", "batch_stats")
    )
    x, weight = (np.moveaxis(values, 1, -1) for values in (x, weight))
    params, stats, x, weight = jax.device_put((params, stats, x, weight))

    def forward(params: dict, stats: dict, x: jax.Array) -> tuple[jax.Array, dict]:
        updated = {}
        for part, module in modules.items():
            variables = {"params": params[part], "batch_stats": stats[part]}
            x, updated[part] = module.apply(variables, x, train=train, mutable=["batch_stats"])
        return x, updated

    def loss(params: dict, stats: dict, x: jax.Array) -> tuple[jax.Array, dict]:
        y, updated = forward(params, stats, x)
        return (y * weight).mean(), updated

    options = network_options(make_mesh())
    evaluate = jax.jit(lambda *arguments: forward(*arguments)[0], compiler_options=options)
    step = jax.jit(jax.grad(loss, has_aux=True), compiler_options=options)

    def run() -> Any:
        if not train:
            return evaluate(params, stats, x).block_until_ready()
        gradient, _ = jax.block_until_ready(step(params, stats, x))
        return jax.tree.leaves(gradient)

    return run


def torch_pass(
    model: Any, x: np.ndarray, weight: np.ndarray, memory_format: str, train: bool
) -> Callable[[], Any]:
    """Make a pass in PyTorch.

    Args:
        model: network of `torch_networks`; it is copied.
        x: [B, 3, H, W] float32 images.
        weight: weights of the outputs in the loss, in the shape of the output.
        memory_format: "contiguous_format" or "channels_last".
        train: forward and backward in training mode; otherwise forward in evaluation mode.

    Returns:
        A function without arguments that returns the list of gradients, or the output.
    """
    import torch

    layout = getattr(torch, memory_format)
    model = copy.deepcopy(model).to(memory_format=layout).train(train)
    x, weight = torch.from_numpy(x).to(memory_format=layout), torch.from_numpy(weight)
    if weight.ndim == 4:
        weight = weight.to(memory_format=layout)

    def run() -> Any:
        if not train:
            with torch.inference_mode():
                return model(x)
        model.zero_grad()
        (model(x) * weight).mean().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    return run
