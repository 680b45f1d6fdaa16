"""Training step, as a pure function of one device.

`make_train_step` compiles it for a mesh. Arrays are the local part of each device; collectives use
the mesh axis `AXIS`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import AXIS, gather_rows, shardings
from jaxreid.models.model import Model, apply_training, recomputed
from jaxreid.programs import network_options
from jaxreid.training import averaging, first_phase
from jaxreid.training.objectives import Batch, Objective
from jaxreid.training.schedules import Schedule
from jaxreid.training.state import TrainState, state_specs

Metrics = dict[str, jax.Array]


def train_step(
    state: TrainState,
    batch: dict[str, Any],
    *,
    model: Model,
    objective: Objective,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    augment: Callable[[jax.Array, Any], jax.Array] | None = None,
    seed: int | jax.Array,
    frozen: bool = False,
    remat: bool = False,
    ema: float = 0.0,
) -> tuple[TrainState, Metrics]:
    """Compute one update, on one device.

    Args:
        state: replicated parameters, and this device's part of the class memory.
        batch: this device's part: image [b, H, W, 3] uint8, label [b] int32; and augmentation, if
            `augment` needs one.
        model: made with `axis_name=AXIS`.
        objective: made with `axis_name=AXIS`.
        tx: optimizer.
        schedule: learning rate schedule.
        augment: (image, augmentation) -> resized and augmented image, uint8 [b, H, W, 3]; None for
            images that the host augmented.
        seed: run seed, for the random numbers of model (`Model.draw`) and objective.
        frozen: a step of the first phase (`FirstPhase.step_of`).
        remat: keep only the results of convolutions and products of the network for the gradient,
            and compute what follows them again: less memory for little time.
        ema: decay of the average of the weights, if the state holds one.

    Returns:
        The new state and {"loss", "grad_norm", "rate", ...}, the same on every device; "rate" is
        the learning rate as a share of its base value.
    """
    label = gather_rows(batch["label"])
    image = batch["image"]
    if augment is not None:
        image = augment(image, batch["augmentation"])

    def forward(bound: Model) -> tuple[jax.Array, tuple[Metrics, jax.Array, jax.Array]]:
        encode = functools.partial(recomputed, bound) if remat else bound.encode_with_before
        own, before = first_phase.features(encode, image, frozen=frozen)
        feature = gather_rows(own)
        # Without a BN neck, both are the same array, which need not be gathered twice.
        before = feature if before is own else gather_rows(before)
        randomness = {"epoch": epoch, "key": jax.random.fold_in(key, 1)}
        loss, stats = objective(bound, Batch(feature, before, label, state.memory, **randomness))
        # The history of the epochs records it.
        if "accuracy" not in stats:
            raise ValueError(
                f"the objective {type(objective).__name__} returns the metrics {sorted(stats)}; "
                "expected 'accuracy' among them."
            )
        return loss, (stats, feature, before)

    # Depends on seed and step only, so that all devices draw the same numbers.
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    epoch = state.step // schedule.steps_per_epoch
    drawn = model.draw(epoch, key)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats, **drawn}
        (loss, aux), batch_stats = apply_training(model, forward, variables)
        return loss, (*aux, batch_stats)

    # Do not reduce the gradients: the loss is already reduced over the mesh, and under shard_map
    # the gradient of a replicated value is already summed over the devices.
    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    stats, feature, before, batch_stats = aux
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    rate = schedule.share(state.step, state.history.loss)
    updates = jax.tree.map(lambda u: u * rate.astype(u.dtype), updates)
    history = state.history.add(loss, stats["accuracy"], state.step, schedule.steps_per_epoch)
    memory = state.memory
    # Written last, because the loss uses the memory of the previous step.
    if memory is not None:
        first = jax.lax.axis_index(AXIS) * memory.valid.shape[0]
        memory = objective.remember(Batch(feature, before, label, memory), first)
    params, average = optax.apply_updates(state.params, updates), state.average
    if average is not None:
        variables = {"params": params, "batch_stats": batch_stats}
        average = averaging.updated(average, variables, state.step, ema)
    state = state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        history=history,
        memory=memory,
        average=average,
    )
    return state, {"loss": loss, "grad_norm": optax.tree.norm(grads), "rate": rate, **stats}


def make_train_step(
    mesh: Mesh, abstract: TrainState, *, precision: str = "default", **parts: Any
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compile (state, batch, seed) -> state, metrics (`train_step`), which donates the state.

    The seed is an argument of the compiled function, so that runs of other seeds share it.

    Args:
        mesh: devices.
        abstract: state, or its shapes.
        precision: precision of float32 products, as in `jax.default_matmul_precision`: "default" is
            the device's fastest (TF32 on new GPUs, bfloat16 on TPUs), "highest" is float32.
        **parts: keywords of `train_step` but the seed: model, objective, tx, schedule and so on.
    """
    specs = state_specs(abstract)

    def step(state: TrainState, batch: dict[str, Any], seed: Any) -> tuple[TrainState, Metrics]:
        with jax.default_matmul_precision(precision):
            return train_step(state, batch, seed=seed, **parts)

    in_specs, out_specs = (specs, P(AXIS), P()), (specs, P())
    sharded = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
    # Shardings are repeated for jit, so that the returned state has exactly those of the input and
    # the second step is not compiled again.
    return jax.jit(
        sharded,
        in_shardings=shardings(mesh, in_specs),
        out_shardings=shardings(mesh, out_specs),
        donate_argnums=0,
        compiler_options=network_options(mesh),
    )
