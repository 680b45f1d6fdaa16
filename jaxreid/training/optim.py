"""Optimizers that equal PyTorch's."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreid.names import check_name
from jaxreid.training import first_phase

OPTIMIZERS = ("sgd", "adam", "amsgrad", "adamw")


def parameter_groups(params: Any) -> Any:
    """Label every parameter of a `Model` as "backbone", which may be pretrained, or "new".

    Source: Liao and Shao, ECCV 2020, Section 4.2: the two groups have different learning rates.
    """
    return {
        part: jax.tree.map(lambda _, part=part: "backbone" if part == "backbone" else "new", tree)
        for part, tree in params.items()
    }


def clip_norms(largest: float) -> optax.GradientTransformation:
    """Clip the gradient norms of the matcher and of all other parts, each to `largest`.

    Source: QAConv 2.1; PyTorch's `clip_grad_norm_`, with its 1e-6.
    """

    def clip(tree: Any) -> Any:
        factor = jnp.minimum(1, largest / (optax.tree.norm(tree) + 1e-6))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), tree)

    def update(updates: Any, params: Any = None) -> Any:
        del params
        rest = {part: tree for part, tree in updates.items() if part != "matcher"}
        matcher = {part: tree for part, tree in updates.items() if part == "matcher"}
        return clip(rest) | clip(matcher)

    return optax.stateless(update)


class AdamState(NamedTuple):
    """State of Adam.

    Attributes:
        count: [] int32, updates so far.
        mean: mean of the gradients; a tree like the parameters.
        square: mean of the squared gradients; a tree like the parameters.
        largest: maximum of `square` so far, element by element; {} for plain Adam.
    """

    count: jax.Array
    mean: Any
    square: Any
    largest: Any


def scale_by_adam(
    betas: Sequence[float] = (0.9, 0.999), *, eps: float = 1e-8, amsgrad: bool = False
) -> optax.GradientTransformation:
    """Build Adam or AMSGrad, without learning rate and weight decay.

    Args:
        betas: decay rates of the mean of the gradients and of their squares, in [0, 1).
        eps: added to the root.
        amsgrad: divide by the root of the largest mean square so far instead of the current one.

    Source: PyTorch's `torch.optim.Adam`; Reddi, Kale and Kumar, ICLR 2018.
    Differs: `optax.amsgrad` corrects the bias of the mean squares before it takes the maximum, so
        that the first gradients keep their weight forever; PyTorch and this function correct it
        afterwards.
    """
    # In float64, as in PyTorch: in float32, 1 - 0.999 already has a relative error of 1e-5.
    logs = [math.log(beta) if beta else -math.inf for beta in betas]

    def init(params: Any) -> AdamState:
        mean, square, largest = (optax.tree.zeros_like(params) for _ in range(3))
        return AdamState(jnp.zeros((), jnp.int32), mean, square, largest if amsgrad else {})

    def update(grads: Any, state: AdamState, params: Any = None) -> tuple[Any, AdamState]:
        del params
        count = optax.safe_increment(state.count)
        mean = optax.tree.update_moment(grads, state.mean, betas[0], order=1)
        square = optax.tree.update_moment(grads, state.square, betas[1], order=2)
        largest = jax.tree.map(jnp.maximum, state.largest, square) if amsgrad else {}
        bias = [-jnp.expm1(count * log) for log in logs]  # 1 - beta^count

        def step(mean: jax.Array, square: jax.Array) -> jax.Array:
            root = jnp.sqrt(square / bias[1].astype(square.dtype))
            return mean / bias[0].astype(mean.dtype) / (root + eps)

        updates = jax.tree.map(step, mean, largest if amsgrad else square)
        return updates, AdamState(count, mean, square, largest)

    return optax.GradientTransformation(init, update)


def make_optimizer(
    name: str = "sgd",
    *,
    lr: float,
    backbone_lr: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 5e-4,
    clip_norm: float = 0.0,
    freeze_steps: int = 0,
) -> optax.GradientTransformation:
    """Build an optimizer with a separate learning rate for the backbone.

    A schedule multiplies its updates (`Schedule.share`).

    Args:
        name: "sgd", "adam" or "amsgrad" (as in PyTorch, weight decay is added to the gradient
            before the moments), or "adamw" (decoupled weight decay).
        lr: learning rate of all parts but the backbone.
        backbone_lr: learning rate of the backbone.
        momentum: for "sgd".
        nesterov: for "sgd".
        betas: for the Adam variants: decay rates of the mean of the gradients and of their squares,
            in [0, 1).
        eps: for the Adam variants, added to the root.
        weight_decay: applied to all parameters.
        clip_norm: maximum gradient norm (`clip_norms`), without frozen parameters; 0 disables
            clipping.
        freeze_steps: updates of the first phase, in which only the classifier learns
            (`FirstPhase.steps`).

    Raises:
        ValueError: an unknown name or a number out of its range; raised by `init` if a
            first phase has no classifier.

    Source: torchreid for "amsgrad" and `freeze_steps` (its `fixbase_epoch`).
    """
    check_name(name, OPTIMIZERS, "optimizer")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas is {betas}; expected two numbers in [0, 1), such as 0.9, 0.999.")
    if freeze_steps < 0:
        raise ValueError(f"freeze_steps is {freeze_steps}; expected 0 (no first phase) or more.")

    def rule(rate: float) -> optax.GradientTransformation:
        if name == "adamw":
            return optax.adamw(rate, *betas, eps, weight_decay=weight_decay)
        if name == "sgd":
            body = optax.sgd(rate, momentum=momentum, nesterov=nesterov)
        else:
            scale = scale_by_adam(betas, eps=eps, amsgrad=name == "amsgrad")
            body = optax.chain(scale, optax.scale_by_learning_rate(rate))
        return optax.chain(optax.add_decayed_weights(weight_decay), body)

    def by_group(make: Callable[[float], optax.GradientTransformation]) -> Any:
        new, backbone = make(lr), make(backbone_lr)
        if not freeze_steps:
            return optax.partition({"new": new, "backbone": backbone}, parameter_groups)
        after = {"waiting": new, "backbone": backbone}
        held = {group: first_phase.hold(tx, freeze_steps) for group, tx in after.items()}
        groups = lambda params: first_phase.groups(parameter_groups(params))  # noqa: E731
        return optax.partition({"new": new} | held, groups)

    tx = by_group(rule)
    # In PyTorch, frozen parameters have no gradient and do not contribute to the norm.
    present = [by_group(lambda _: optax.identity())] if freeze_steps else []
    return optax.chain(*present, clip_norms(clip_norm), tx) if clip_norm else tx
