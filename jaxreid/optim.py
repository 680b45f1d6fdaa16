"""Optimizers and schedules, equal to PyTorch's."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxreid.names import check_name

SCHEDULES = ("step", "cosine")


def parameter_groups(params: Any) -> Any:
    """Names every parameter's group.

    Args:
        params: the tree of a `Model`: {"backbone": ..., "neck": ..., "matcher": ...}.

    Returns:
        A tree of the same shape: "backbone" for what may come pretrained, "new" for the rest.

    Source: Liao and Shao, ECCV 2020, Section 4.2: the two learn at different rates.
    """
    return {
        part: jax.tree.map(lambda _, part=part: "backbone" if part == "backbone" else "new", tree)
        for part, tree in params.items()
    }


def make_schedule(
    name: str,
    *,
    steps: int,
    steps_per_epoch: int,
    step_epochs: int = 0,
    factor: float = 0.1,
    warmup_steps: int = 0,
) -> Callable[[jax.Array], jax.Array]:
    """The learning rate as a share of its base value, by step.

    Args:
        name: "step" (times `factor` every `step_epochs` epochs, PyTorch's StepLR) or "cosine"
            (to zero at the end).
        steps: of the whole training.
        steps_per_epoch: of one epoch.
        step_epochs: epochs between two drops; 0 never drops.
        factor: of one drop.
        warmup_steps: linear rise at the start.

    Raises:
        ValueError: an unknown name.
    """
    check_name(name, SCHEDULES, "optim.schedule")
    if name == "cosine":
        body = optax.cosine_decay_schedule(1.0, max(steps - warmup_steps, 1))
    elif step_epochs:
        # Drops are counted from the start of the training, also after a warm-up.
        drops = range(step_epochs * steps_per_epoch, steps, step_epochs * steps_per_epoch)
        passed = sum(drop <= warmup_steps for drop in drops)
        later = {drop - warmup_steps: factor for drop in drops[passed:]}
        body = optax.piecewise_constant_schedule(factor**passed, later)
    else:
        body = optax.constant_schedule(1.0)
    if not warmup_steps:
        return body
    rise = optax.linear_schedule(1 / warmup_steps, 1.0, warmup_steps)
    return optax.join_schedules([rise, body], [warmup_steps])


def make_optimizer(
    name: str = "sgd",
    *,
    lr: float,
    backbone_lr: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
    clip_norm: float = 0.0,
    schedule: str = "step",
    **schedule_options: Any,
) -> tuple[optax.GradientTransformation, Callable[[jax.Array], jax.Array]]:
    """An optimizer with one learning rate for the backbone and one for what is new.

    Args:
        name: "sgd" (PyTorch's: decay is added to the gradient before the momentum) or "adamw".
        lr: learning rate of everything but the backbone.
        backbone_lr: of the backbone.
        momentum: of SGD.
        nesterov: of SGD.
        weight_decay: on all parameters.
        clip_norm: largest norm of the gradient over all parameters; 0 does not clip.
        schedule: name of the schedule of both rates.
        **schedule_options: the other keywords of `make_schedule`.

    Returns:
        The optimizer, and the learning rate of what is new, by step.

    Raises:
        ValueError: an unknown name.
    """
    check_name(name, ("sgd", "adamw"), "optimizer")
    share = make_schedule(schedule, **schedule_options)

    def group(base: float) -> optax.GradientTransformation:
        rate = lambda count: base * share(count)  # noqa: E731
        if name == "adamw":
            return optax.adamw(rate, weight_decay=weight_decay)
        return optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.sgd(rate, momentum=momentum, nesterov=nesterov),
        )

    tx = optax.partition({"new": group(lr), "backbone": group(backbone_lr)}, parameter_groups)
    if clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx)
    return tx, lambda step: lr * share(step)
