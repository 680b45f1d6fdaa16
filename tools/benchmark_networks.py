"""Contenders of `benchmark.py backbones`: passes of a network in this package and in PyTorch."""

import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

# The network of the embedded recipes.
EMBEDDED = "embedded"
NAMES = (
    EMBEDDED,
    "resnet18",
    "resnet50",
    "resnet50_ibn_b",
    "osnet_x0_25",
    "osnet_x1_0",
    "osnet_ain_x1_0",
)
STEP = "training step"
PASSES = ("forward", "forward and backward", STEP)
LAYOUTS = {"PyTorch": "contiguous_format", "PyTorch channels_last": "channels_last"}
# ResNet as in QAConv 2.1.
MAP = {"cut": "layer3", "neck": 128, "neck_norm": "none"}
# That of the embedded recipes, in PyTorch and as a model of this package.
SMALL = "resnet18_ibn_b"
SMALL_MAP = {"cut": "layer2", "neck": 64, "neck_norm": "batch", "width": 16}
SMALL_CARD = {
    "backbone": {"name": SMALL, "cut": "layer2", "width": 16},
    "neck": {"name": "map", "channels": 64, "norm": "batch"},
    "matcher": {"name": "qaconv"},
    "height": 128,
    "width": 64,
}
OURS = "jaxreid"
# Identities of Market-1501, and the share of the loss that goes to all of them.
CLASSES, SMOOTHING = 751, 0.1
# A learning rate at which nothing diverges in some dozen steps.
RATE, DECAY = 1e-4, 5e-4


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of `torch_networks`, whose weights both sides use.

    Attributes:
        arch: its architecture.
        model: the network, with random weights.
        size: batch, height and width of its images.
        card: keywords of `make_model`, if it is in none of the published forms.
    """

    arch: str
    model: Any
    size: tuple[int, int, int]
    card: Mapping[str, Any] | None = None


def make(name: str) -> Network:
    """Make a network: `EMBEDDED`, or one of `torch_networks`."""
    import torch_networks

    if name == EMBEDDED:
        arch, options, size, card = SMALL, SMALL_MAP, (32, 128, 64), SMALL_CARD
    elif name.startswith("resnet"):
        arch, options, size, card = name, MAP, (8, 384, 128), None
    else:
        arch, options, size, card = name, {}, (16, 256, 128), None
    return Network(arch, torch_networks.randomize(torch_networks.make(arch, **options)), size, card)


def compare(
    network: Network,
    x: np.ndarray,
    passes: Sequence[str],
    repeats: int,
    take_turns: Callable[..., dict[str, dict[str, float]]],
    progress: tqdm,
) -> list[dict[str, Any]]:
    """Time the passes of one network.

    The loss of the backward pass is the mean of the outputs, weighted by fixed random numbers. The
    mean of squares would not do, because it is constant for maps of unit length. A training step
    classifies the outputs, averaged over the map, with smoothed labels, and updates weights,
    optimizer and running statistics.

    Args:
        network: what both sides compute.
        x: [B, 3, H, W] float32 images.
        passes: any of `PASSES`.
        repeats: timed runs of each contender.
        take_turns: times functions alternately, as in `benchmark.py`.
        progress: advanced by one per run.

    Returns:
        One record per pass: "pass"; "ms", times by contender; "times_as_fast", speed relative to
        the faster PyTorch layout; "difference", relative difference of the outputs (forward), of
        the norm of all gradients (backward) or of the loss (training step), a check that both sides
        compute the same; "compile_s", seconds of our first run.
    """
    records = []
    for name in passes:
        contenders = make_contenders(network, x, name)
        start = time.perf_counter()
        ours = contenders[OURS]()
        seconds = time.perf_counter() - start
        theirs = contenders["PyTorch"]()
        if name == "forward":
            ours = np.moveaxis(np.asarray(ours), -1, 1)
        elif name != STEP:
            ours, theirs = _norm(ours), _norm(theirs)
        ms = take_turns(contenders, repeats, progress)
        best = min(ms[layout]["median"] for layout in LAYOUTS)
        records.append(
            {
                "pass": name,
                "ms": ms,
                "times_as_fast": best / ms[OURS]["median"],
                "difference": _difference(np.asarray(ours), np.asarray(theirs)),
                "compile_s": seconds,
            }
        )
    return records


def make_contenders(network: Network, x: np.ndarray, name: str) -> dict[str, Callable[[], Any]]:
    """Make one of `PASSES` in this package and in PyTorch's layouts."""
    import torch

    with torch.inference_mode():
        shape = network.model.eval()(torch.from_numpy(x)).shape
    if name == STEP:
        classifier = np.random.default_rng(2).normal(0, 0.01, (shape[1], CLASSES))
        labels = np.random.default_rng(3).integers(0, CLASSES, len(x))
        inputs = x, classifier.astype(np.float32), labels
        ours, theirs = jax_step(network, *inputs), functools.partial(torch_step, network, *inputs)
    else:
        weight = np.random.default_rng(1).standard_normal(shape, np.float32)
        inputs = x, weight, name != "forward"
        ours, theirs = jax_pass(network, *inputs), functools.partial(torch_pass, network, *inputs)
    return {OURS: ours} | {
        layout: theirs(memory_format) for layout, memory_format in LAYOUTS.items()
    }


def _difference(mine: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(mine - theirs).max() / np.abs(theirs).max())


def _norm(arrays: list[Any]) -> np.ndarray:
    return np.sqrt(sum(np.square(np.asarray(one), dtype=np.float64).sum() for one in arrays))


def jax_pass(network: Network, x: np.ndarray, weight: np.ndarray, train: bool) -> Callable[[], Any]:
    """Make the counterpart of `torch_pass` in this package, with the weights of `model`.

    Raises:
        ValueError: the weights do not fit our network.
    """
    import jax

    modules, params, stats = _ours(network)
    x, weight = (np.moveaxis(values, 1, -1) for values in (x, weight))
    params, stats, x, weight = jax.device_put((params, stats, x, weight))

    def loss(params: dict, stats: dict, x: jax.Array) -> tuple[jax.Array, dict]:
        y, updated = _forward(modules, params, stats, x, True)
        return (y * weight).mean(), updated

    evaluate = _compiled(lambda params, stats, x: _forward(modules, params, stats, x, False)[0])
    step = _compiled(jax.grad(loss, has_aux=True))

    def run() -> Any:
        if not train:
            return evaluate(params, stats, x).block_until_ready()
        gradient, _ = jax.block_until_ready(step(params, stats, x))
        return jax.tree.leaves(gradient)

    return run


def torch_pass(
    network: Network, x: np.ndarray, weight: np.ndarray, train: bool, memory_format: str
) -> Callable[[], Any]:
    """Make a pass in PyTorch.

    Args:
        network: its model is copied.
        x: [B, 3, H, W] float32 images.
        weight: weights of the outputs in the loss, in the shape of the output.
        train: forward and backward in training mode; otherwise forward in evaluation mode.
        memory_format: "contiguous_format" or "channels_last".

    Returns:
        A function without arguments that returns the list of gradients, or the output.
    """
    import torch

    layout = getattr(torch, memory_format)
    model = copy.deepcopy(network.model).to(memory_format=layout).train(train)
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


def _ours(network: Network) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return backbone and neck of this package, and their parameters and statistics.

    Raises:
        ValueError: the weights do not fit this package.
    """
    from jaxreid.models.backbones import make_backbone
    from jaxreid.models.necks import make_neck
    from jaxreid.weights.pytorch import convert

    weights = {name: value.numpy().copy() for name, value in network.model.state_dict().items()}
    converted = convert(weights, network.arch, skip=("criterion",), card=network.card)
    if not converted.report.complete:
        raise ValueError(
            f"{network.arch}: the weights do not fit this package: {converted.report}."
        )
    modules = {
        "backbone": make_backbone(**converted.card["backbone"]),
        "neck": make_neck(**converted.card["neck"]),
    }
    params, stats = (
        {part: converted.variables[kind].get(part, {}) for part in modules}
        for kind in ("params", "batch_stats")
    )
    return modules, params, stats


def _forward(
    modules: dict[str, Any], params: dict, stats: dict, x: Any, train: bool
) -> tuple[Any, dict]:
    updated = {}
    for part, module in modules.items():
        variables = {"params": params[part], "batch_stats": stats[part]}
        x, changed = module.apply(variables, x, train=train, mutable=["batch_stats"])
        updated[part] = changed.get("batch_stats", {})
    return x, updated


def _compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    import jax

    from jaxreid.mesh import make_mesh
    from jaxreid.programs import network_options

    return jax.jit(function, compiler_options=network_options(make_mesh()), **options)


def jax_step(
    network: Network, x: np.ndarray, classifier: np.ndarray, labels: np.ndarray
) -> Callable[[], float]:
    """Make a training step in this package.

    Args:
        network: its optimizer is that of QAConv or OSNet.
        x: [B, 3, H, W] float32 images.
        classifier: [channels, `CLASSES`] float32, the first weights of the classifier.
        labels: [B] integers below `CLASSES`.

    Returns:
        A function without arguments that updates the state and returns the loss before.
    """
    import jax
    import optax

    from jaxreid.training.objectives.softmax import smoothed_cross_entropy
    from jaxreid.training.optim import make_optimizer

    modules, params, stats = _ours(network)
    # As QAConv and OSNet are trained; PyTorch's counterparts are in `torch_step`.
    name = "sgd" if network.arch.startswith("resnet") else "amsgrad"
    tx = make_optimizer(name, lr=RATE, backbone_lr=RATE, weight_decay=DECAY)

    def loss(params: dict, stats: dict, x: jax.Array) -> tuple[jax.Array, dict]:
        y, updated = _forward(modules, params, stats, x, True)
        pooled = y.mean((1, 2)) if y.ndim == 4 else y
        logits = pooled @ params["classifier"]["kernel"]
        return smoothed_cross_entropy(logits, labels, SMOOTHING).mean(), updated

    def step(state: tuple, x: jax.Array) -> tuple[tuple, jax.Array]:
        params, stats, opt_state = state
        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params, stats, x)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), value

    params["classifier"] = {"kernel": classifier}
    state, x = jax.device_put(((params, stats, tx.init(params)), np.moveaxis(x, 1, -1)))
    run_step = _compiled(step, donate_argnums=0)

    def run() -> float:
        nonlocal state
        state, value = run_step(state, x)
        return float(value)

    return run


def torch_step(
    network: Network, x: np.ndarray, classifier: np.ndarray, labels: np.ndarray, memory_format: str
) -> Callable[[], float]:
    """Make the counterpart of `jax_step` in PyTorch."""
    import torch

    layout = getattr(torch, memory_format)
    model = copy.deepcopy(network.model).to(memory_format=layout).train()
    head = torch.nn.Linear(*classifier.shape, bias=False)
    head.weight.data = torch.from_numpy(classifier.T.copy())
    parameters = [*model.parameters(), *head.parameters()]
    options = {"lr": RATE, "weight_decay": DECAY}
    if network.arch.startswith("resnet"):
        optimizer = torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **options)
    else:
        optimizer = torch.optim.Adam(parameters, amsgrad=True, **options)
    images, targets = torch.from_numpy(x).to(memory_format=layout), torch.from_numpy(labels)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

    def run() -> float:
        optimizer.zero_grad()
        y = model(images)
        loss = criterion(head(y.mean((2, 3)) if y.ndim == 4 else y), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run
