"""Optimizers and schedules, equal to PyTorch's."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreid.names import check_name

SCHEDULES = ("step", "cosine", "adaptive")


class Schedule(NamedTuple):
    """The learning rate over a training, and where the training ends.

    Both are functions of what has been done, and so the same after a restart.

    Attributes:
        steps_per_epoch: updates.
        share: (step, epoch_loss) -> [] float, the learning rate of this update as a share of its
            base value. `epoch_loss` [epochs] float holds the mean loss of every finished epoch.
        last_epoch: (done, epoch_loss) -> epochs that the training will have, as far as can be said
            after `done` of them.
    """

    steps_per_epoch: int
    share: Callable[[jax.Array, jax.Array], jax.Array]
    last_epoch: Callable[[int, jax.Array], int]


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
    name: str = "step",
    *,
    epochs: int,
    steps_per_epoch: int,
    step_epochs: int = 0,
    factor: float = 0.1,
    warmup_steps: int = 0,
    threshold: float = 0.7,
) -> Schedule:
    """A schedule by name.

    Args:
        name: "step" (times `factor` every `step_epochs` epochs, PyTorch's StepLR), "cosine" (to
            zero at the end), or "adaptive" (times `factor` once, after the first epoch e whose mean
            loss is below `threshold` times that of the second; the training then ends after
            e + floor(e / 2) epochs).
        epochs: of the whole training, or at most.
        steps_per_epoch: updates in each.
        step_epochs: epochs between two drops; 0 never drops.
        factor: of one drop.
        warmup_steps: linear rise at the start.
        threshold: of "adaptive".

    Raises:
        ValueError: an unknown name.

    Source: QAConv 2.1 for "adaptive".
    Differs: the original decays twice when it is resumed after the drop; here the drop follows from
        the losses, which are part of the checkpoint.
    """
    check_name(name, SCHEDULES, "schedule")
    steps = epochs * steps_per_epoch
    if name == "cosine":
        body = optax.cosine_decay_schedule(1.0, max(steps - warmup_steps, 1))
    elif name == "step" and step_epochs:
        # Drops are counted from the start of the training, also after a warm-up.
        drops = range(step_epochs * steps_per_epoch, steps, step_epochs * steps_per_epoch)
        passed = sum(drop <= warmup_steps for drop in drops)
        later = {drop - warmup_steps: factor for drop in drops[passed:]}
        body = optax.piecewise_constant_schedule(factor**passed, later)
    else:
        body = optax.constant_schedule(1.0)
    if warmup_steps:
        rise = optax.linear_schedule(1 / warmup_steps, 1.0, warmup_steps)
        body = optax.join_schedules([rise, body], [warmup_steps])

    def drop_epoch(done: jax.Array | int, epoch_loss: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Whether the loss has fallen enough, and after which epoch, counted from 1."""
        number = 1 + jnp.arange(epochs)
        bound = threshold * epoch_loss[min(1, epochs - 1)]
        low = (number > 2) & (number <= done) & (epoch_loss < bound)
        return low.any(), 1 + low.argmax()

    def share(step: jax.Array, epoch_loss: jax.Array) -> jax.Array:
        if name != "adaptive":
            return jnp.asarray(body(step))
        dropped, _ = drop_epoch(step // steps_per_epoch, epoch_loss)
        return jnp.where(dropped, factor, 1.0) * body(step)

    def last_epoch(done: int, epoch_loss: jax.Array) -> int:
        if name != "adaptive":
            return epochs
        dropped, epoch = drop_epoch(done, epoch_loss)
        return min(epochs, int(epoch + epoch // 2)) if dropped else epochs

    return Schedule(steps_per_epoch, share, last_epoch)


def clip_norms(largest: float) -> optax.GradientTransformation:
    """Clips the norm of the gradient twice: of the matcher, and of everything else.

    Args:
        largest: norm, of each of the two.

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


def make_optimizer(
    name: str = "sgd",
    *,
    lr: float,
    backbone_lr: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """An optimizer with one learning rate for the backbone and one for what is new.

    A schedule multiplies its updates (`Schedule.share`).

    Args:
        name: "sgd" (PyTorch's: decay is added to the gradient before the momentum) or "adamw".
        lr: learning rate of everything but the backbone.
        backbone_lr: of the backbone.
        momentum: of SGD.
        nesterov: of SGD.
        weight_decay: on all parameters.
        clip_norm: largest norm of the gradient (`clip_norms`); 0 does not clip.

    Raises:
        ValueError: an unknown name.
    """
    check_name(name, ("sgd", "adamw"), "optimizer")

    def group(rate: float) -> optax.GradientTransformation:
        if name == "adamw":
            return optax.adamw(rate, weight_decay=weight_decay)
        return optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.sgd(rate, momentum=momentum, nesterov=nesterov),
        )

    tx = optax.partition({"new": group(lr), "backbone": group(backbone_lr)}, parameter_groups)
    return optax.chain(clip_norms(clip_norm), tx) if clip_norm else tx
