"""Learning rate schedules, and the length of a training."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxreid.names import check_name

SCHEDULES = ("step", "cosine", "adaptive")


class Schedule(NamedTuple):
    """Learning rate over a training, and its last epoch.

    Both depend only on step and losses, so that a resumed run follows the same schedule.

    Attributes:
        steps_per_epoch: updates per epoch.
        share: (step, epoch_loss) -> [] float, the learning rate of this update as a share of its
            base value. `epoch_loss` [epochs] float holds the mean loss of every finished epoch.
        last_epoch: (done, epoch_loss) -> number of epochs of the training, as known after `done`
            epochs.
    """

    steps_per_epoch: int
    share: Callable[[jax.Array, jax.Array], jax.Array]
    last_epoch: Callable[[int, jax.Array], int]


def make_schedule(
    name: str = "step",
    *,
    epochs: int,
    steps_per_epoch: int,
    step_epochs: int = 0,
    drop_epochs: Sequence[int] = (),
    factor: float = 0.1,
    warmup_steps: int = 0,
    warmup_epochs: int = 0,
    threshold: float = 0.7,
    per_epoch: bool = False,
) -> Schedule:
    """Build a schedule by name.

    Args:
        name: "step" (times `factor` every `step_epochs` epochs, or after each of `drop_epochs`:
            PyTorch's StepLR and MultiStepLR), "cosine" (to zero at the end), or "adaptive" (times
            `factor` once, after the first epoch e whose mean loss is below `threshold` times that
            of the second; the training then ends after e + floor(e / 2) epochs).
        epochs: number of epochs; maximum for "adaptive".
        steps_per_epoch: updates per epoch.
        step_epochs: epochs between two drops; 0 for no drops.
        drop_epochs: epochs after which the learning rate drops, increasing; replaces `step_epochs`.
        factor: factor of one drop.
        warmup_steps: steps of a linear warm-up.
        warmup_epochs: the same in epochs, instead of `warmup_steps`.
        threshold: for "adaptive".
        per_epoch: "cosine" changes only at the start of each epoch, like PyTorch's
            CosineAnnealingLR stepped once per epoch; the other schedules always do.

    Raises:
        ValueError: an unknown name, epochs that do not increase, two warm-ups, or too many steps.

    Source: QAConv 2.1 for "adaptive".
    Differs: the original decays twice if resumed after the drop; here the drop follows from the
        losses, which are part of the checkpoint.
    """
    check_name(name, SCHEDULES, "schedule")
    if any(b <= a for a, b in zip((0, *drop_epochs), drop_epochs, strict=False)):
        raise ValueError(f"drop_epochs is {drop_epochs}; expected increasing epochs, from 1 on.")
    if warmup_steps and warmup_epochs:
        raise ValueError(
            f"warmup_steps is {warmup_steps} and warmup_epochs {warmup_epochs}; set one to 0."
        )
    warmup_steps = warmup_steps or warmup_epochs * steps_per_epoch
    steps = epochs * steps_per_epoch
    if max(steps, warmup_steps, steps_per_epoch * max((0, *drop_epochs))) > 2**31 - 1:
        raise ValueError(
            f"epochs, warm-up or drop_epochs reach beyond 2^31 steps, at {steps_per_epoch} steps "
            "per epoch; expected fewer epochs, because steps are counted in 32 bits."
        )
    ends = drop_epochs or (range(step_epochs, epochs, step_epochs) if step_epochs else ())
    if name == "cosine":
        body = _cosine(steps, warmup_steps, every=steps_per_epoch if per_epoch else 1)
    elif name == "step" and ends:
        # Drops count from the start of the training, not from the end of the warm-up.
        drops = [end * steps_per_epoch for end in ends]
        passed = sum(drop <= warmup_steps for drop in drops)
        later = {drop - warmup_steps: factor for drop in drops[passed:]}
        body = optax.piecewise_constant_schedule(factor**passed, later)
    else:
        body = optax.constant_schedule(1.0)
    if warmup_steps:
        rise = optax.linear_schedule(1 / warmup_steps, 1.0, warmup_steps)
        body = optax.join_schedules([rise, body], [warmup_steps])

    def drop_epoch(done: jax.Array | int, epoch_loss: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return whether the loss has fallen enough, and after which epoch, counted from 1."""
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


def _cosine(steps: int, warmup_steps: int, every: int) -> optax.Schedule:
    """Build half a cosine from the end of the warm-up, its step 0, to the end of the training.

    It changes at multiples of `every` steps, counted from the start of the training.
    """
    smooth = optax.cosine_decay_schedule(1.0, max(steps - warmup_steps, 1))

    def body(step: jax.Array | int) -> jax.Array:
        change = (step + warmup_steps) // every * every
        return smooth(jnp.maximum(change - warmup_steps, 0))

    return body
