"""Contenders of `benchmark.py backbones`: passes of a network in this package and in PyTorch."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

# The network of the embedded recipes, at their size and batch.
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
SMALL_MAP = {"cut": "layer2", "neck": 64, "neck_norm": "batch", "width": 16}
OURS = "jaxreid"
# Identities of Market-1501, and the share of the loss that goes to all of them.
CLASSES, SMOOTHING = 751, 0.1
# Optimizers of QAConv and OSNet, at a rate at which nothing diverges in some dozen steps.
OPTIMIZERS = {"resnet": "sgd", "osnet": "amsgrad"}
RATE, DECAY = 1e-4, 5e-4


def make(name: str) -> tuple[str, Any, tuple[int, int, int]]:
    """Make a network of `torch_networks` with random weights.

    Returns:
        Its architecture, the network, and batch, height and width of the images.
    """
    import torch_networks

    if name == EMBEDDED:
        arch, options, size = "resnet18_ibn_b", SMALL_MAP, (32, 128, 64)
    elif name.startswith("resnet"):
        arch, options, size = name, MAP, (8, 384, 128)
    else:
        arch, options, size = name, {}, (16, 256, 128)
    return arch, torch_networks.randomize(torch_networks.make(arch, **options)), size


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
    mean of squares would not do, because it is constant for maps of unit length. A training step
    classifies the outputs, averaged over the map, with smoothed labels, and updates weights,
    optimizer and running statistics.

    Args:
        arch: architecture of the network.
        model: network of `torch_networks` whose weights both sides use.
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
    import torch

    with torch.inference_mode():
        shape = model.eval()(torch.from_numpy(x)).shape
    weight = np.random.default_rng(1).standard_normal(shape, np.float32)
    records = []
    for name in passes:
        train = name != "forward"
        if name == STEP:
            classifier = _classifier(shape[1])
            contenders = {OURS: jax_step(arch, model, x, classifier)}
            for layout, memory_format in LAYOUTS.items():
                contenders[layout] = torch_step(arch, model, x, classifier, memory_format)
        else:
            contenders = {OURS: jax_pass(arch, model, x, weight, train)}
            for layout, memory_format in LAYOUTS.items():
                contenders[layout] = torch_pass(model, x, weight, memory_format, train)
        start = time.perf_counter()
        ours = contenders[OURS]()
        seconds = time.perf_counter() - start
        theirs = contenders["PyTorch"]()
        if name == STEP:
            difference = abs(ours - theirs) / theirs
        elif train:
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

    modules, params, stats = _ours(arch, model)
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


def _ours(arch: str, model: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return backbone and neck of this package, and their parameters and statistics."""
    from jaxreid.models.backbones import make_backbone
    from jaxreid.models.necks import make_neck

    weights = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    card, variables = _converted(arch, weights)
    modules = {
        "backbone": make_backbone(**card["backbone"]),
        "neck": make_neck(**card["neck"]),
    }
    params, stats = (
        {part: variables[kind].get(part, {}) for part in modules}
        for kind in ("params", "batch_stats")
    )
    return modules, params, stats


def _converted(arch: str, weights: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """Return card and variables of official weights, also of `SMALL_MAP`, which nobody published.

    Raises:
        ValueError: the weights do not fit this package.
    """
    from flax import traverse_util

    from jaxreid.models.model import abstract_variables, make_model
    from jaxreid.weights.layouts import layout_of
    from jaxreid.weights.official import from_official
    from jaxreid.weights.pytorch import convert

    width = len(weights.get("base.conv1.weight", ()))
    if width != SMALL_MAP["width"]:
        converted = convert(weights, arch, skip=("criterion",))
        if not converted.report.complete:
            raise ValueError(f"{arch}: the weights do not fit this package: {converted.report}.")
        return converted.card, converted.variables
    layout = layout_of(weights, arch)
    card = layout.card(weights, arch) | {
        "backbone": {"name": arch, "width": width, "cut": SMALL_MAP["cut"]},
        "neck": {"name": "map", "channels": SMALL_MAP["neck"], "norm": SMALL_MAP["neck_norm"]},
    }
    abstract = traverse_util.flatten_dict(abstract_variables(make_model(**card)))
    variables = {
        (kind, *path): from_official(path, weights[layout.name(path, arch, ())], leaf.shape)
        for (kind, *path), leaf in abstract.items()
        if path[0] != "matcher"
    }
    return card, traverse_util.unflatten_dict(variables)


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


def _classifier(channels: int) -> np.ndarray:
    """Return the kernel [channels, `CLASSES`] that both sides start from."""
    return np.random.default_rng(2).normal(0, 0.01, (channels, CLASSES)).astype(np.float32)


def _labels(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, CLASSES, count)


def jax_step(arch: str, model: Any, x: np.ndarray, classifier: np.ndarray) -> Callable[[], float]:
    """Make a training step in this package; it returns the loss and keeps the new state."""
    import jax
    import optax

    from jaxreid.training.objectives.softmax import smoothed_cross_entropy
    from jaxreid.training.optim import make_optimizer

    modules, params, stats = _ours(arch, model)
    name = OPTIMIZERS[arch.partition("_")[0].rstrip("0123456789")]
    tx = make_optimizer(name, lr=RATE, backbone_lr=RATE, weight_decay=DECAY)
    labels = _labels(len(x))

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
    arch: str, model: Any, x: np.ndarray, classifier: np.ndarray, memory_format: str
) -> Callable[[], float]:
    """Make the counterpart of `jax_step` in PyTorch."""
    import torch

    layout = getattr(torch, memory_format)
    model = copy.deepcopy(model).to(memory_format=layout).train()
    head = torch.nn.Linear(*classifier.shape, bias=False)
    head.weight.data = torch.from_numpy(classifier.T.copy())
    parameters = [*model.parameters(), *head.parameters()]
    options = {"lr": RATE, "weight_decay": DECAY}
    if arch.startswith("resnet"):
        optimizer = torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **options)
    else:
        optimizer = torch.optim.Adam(parameters, amsgrad=True, **options)
    images, labels = torch.from_numpy(x).to(memory_format=layout), torch.from_numpy(_labels(len(x)))
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

    def run() -> float:
        optimizer.zero_grad()
        y = model(images)
        loss = criterion(head(y.mean((2, 3)) if y.ndim == 4 else y), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run
