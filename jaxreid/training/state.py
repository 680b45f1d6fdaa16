"""Training state: contents, placement and initialisation."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import AXIS, shardings
from jaxreid.models.model import Model, feature_shape, init_variables
from jaxreid.training.memory import PAD_TO, ClassMemory


@flax.struct.dataclass
class History:
    """Mean loss and accuracy of each epoch, for schedules.

    Attributes:
        loss: [epochs] float32. The current epoch holds the sum so far divided by `steps_per_epoch`.
        accuracy: [epochs] float32, computed in the same way.
    """

    loss: jax.Array
    accuracy: jax.Array

    @classmethod
    def create(cls, epochs: int) -> "History":
        """Create an empty history."""
        return cls(jnp.zeros((epochs,), jnp.float32), jnp.zeros((epochs,), jnp.float32))

    def add(
        self, loss: jax.Array, accuracy: jax.Array, step: jax.Array, steps_per_epoch: int
    ) -> "History":
        """Return the history after one more step; `step` counts the steps before it."""

        def added(means: jax.Array, value: jax.Array) -> jax.Array:
            part = (value / steps_per_epoch).astype(means.dtype)
            return means.at[step // steps_per_epoch].add(part, mode="drop")

        return History(added(self.loss, loss), added(self.accuracy, accuracy))


@flax.struct.dataclass
class TrainState:
    """Everything that training changes, and nothing else.

    Attributes:
        step: [] int32, updates so far.
        params: parameters of backbone, neck, matcher and classifier.
        batch_stats: running statistics of their normalisations.
        opt_state: state of the optimizer.
        history: means of each epoch.
        memory: class memory, or None.
        average: moving average of parameters and batch statistics (`averaging.updated`), or None.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    history: History
    memory: ClassMemory | None
    average: Any = None


def variables_of(state: TrainState) -> dict[str, Any]:
    """Return parameters and batch statistics, for `Model.apply`."""
    return {"params": state.params, "batch_stats": state.batch_stats}


def models_of(state: TrainState) -> dict[str, dict[str, Any]]:
    """Return the variables to evaluate, by name: "" for the weights, "averaged" for their average.

    There is an average from the first update on.
    """
    averaged = state.average is not None and int(state.step) > 0
    return {"": variables_of(state)} | ({"averaged": state.average} if averaged else {})


def checkpoint_parts(state: TrainState, order: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Split a state into the trees of a checkpoint.

    They are separate so that a model can be loaded without the state that only training needs.
    `order` is the state of the sampler and must be the same on every process.
    """
    training = {name: getattr(state, name) for name in ("step", "opt_state", "history", "memory")}
    if state.average is not None:
        training["average"] = state.average
    return {"variables": variables_of(state), "training": training | {"order": dict(order)}}


def abstract_parts(
    abstract: TrainState, mesh: Mesh, order: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return `checkpoint_parts` of a state to restore: shapes, types and shardings."""
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings(mesh, state_specs(abstract)),
    )
    return checkpoint_parts(target, order)


def state_from_parts(parts: Mapping[str, Any]) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Rebuild the training state and the sampler's order from `checkpoint_parts`."""
    training = dict(parts["training"])
    order = training.pop("order")
    return TrainState(**parts["variables"], **training), order


def state_specs(state: TrainState) -> TrainState:
    """Return `PartitionSpec`s: the memory is sharded over classes, all else replicated."""
    specs = jax.tree.map(lambda _: P(), state)
    return specs.replace(memory=jax.tree.map(lambda _: P(AXIS), state.memory))


def abstract_state(
    model: Model,
    tx: optax.GradientTransformation,
    *,
    num_classes: int | None,
    epochs: int = 1,
    averaged: bool = False,
) -> TrainState:
    """Return shapes and types of the state without computing it."""
    return jax.eval_shape(lambda: _create(model, tx, num_classes, epochs, averaged, 0, {}))


def create_state(
    model: Model,
    tx: optax.GradientTransformation,
    *,
    num_classes: int | None,
    seed: int,
    mesh: Mesh,
    epochs: int = 1,
    averaged: bool = False,
    weights: dict[str, Any] | None = None,
) -> TrainState:
    """Create a new state, with every array initialised on its devices.

    Args:
        model: model outside a mesh, that is with `axis_name=None`.
        tx: optimizer.
        num_classes: training identities in the class memory, or None for no memory.
        seed: seed of the random weights.
        mesh: devices.
        epochs: maximum number of epochs.
        averaged: whether an average of the weights is kept.
        weights: variables that replace random ones: any part of a tree {"params", "batch_stats"},
            and optionally {"memory"}.

    Raises:
        ValueError: the class memory cannot be divided over the mesh, or does not match the one in
            `weights`.
    """
    size = {"num_classes": num_classes, "epochs": epochs, "averaged": averaged}
    create = make_creation(model, tx, mesh=mesh, **size)
    return create(seed, weights or {})


def make_creation(
    model: Model,
    tx: optax.GradientTransformation,
    *,
    num_classes: int | None,
    mesh: Mesh,
    epochs: int,
    averaged: bool = False,
) -> Callable[[int, dict[str, Any]], TrainState]:
    """Compile (seed, weights) -> state; see `create_state`."""
    size = {"num_classes": num_classes, "epochs": epochs, "averaged": averaged}
    abstract = abstract_state(model, tx, **size)
    check_memory(abstract, mesh)
    out_shardings = shardings(mesh, state_specs(abstract))
    create = functools.partial(_create, model, tx, num_classes, epochs, averaged)
    options = None
    if mesh.devices.flat[0].platform == "cpu":
        # Optimising the random draws takes LLVM ten times as long as all else, for one execution.
        options = {"xla_backend_optimization_level": 0}
    return jax.jit(create, out_shardings=out_shardings, compiler_options=options)


def check_memory(abstract: TrainState, mesh: Mesh) -> None:
    """Raise ValueError if a class memory does not divide evenly over the devices."""
    rows = 0 if abstract.memory is None else len(abstract.memory.valid)
    if rows % mesh.size:
        fitting = max(size for size in range(1, mesh.size) if rows % size == 0)
        raise ValueError(
            f"the class memory has {rows} rows (identities, padded to a multiple of {PAD_TO}), "
            f"which do not divide evenly over {mesh.size} devices; use a number of devices that "
            f"divides them, for example {fitting}."
        )


def _create(
    model: Model,
    tx: optax.GradientTransformation,
    num_classes: int | None,
    epochs: int,
    averaged: bool,
    seed: int | jax.Array,
    weights: dict[str, Any],
) -> TrainState:
    loaded = traverse_util.flatten_dict({k: v for k, v in weights.items() if k != "memory"})
    initial = traverse_util.flatten_dict(init_variables(model, seed))
    variables = traverse_util.unflatten_dict(initial | loaded)
    memory = None
    if num_classes is not None:
        memory = ClassMemory.create(num_classes, feature_shape(model, variables))
        if "memory" in weights:
            memory = memory.filled(num_classes, **weights["memory"])
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    average = None
    if averaged:
        average = jax.tree.map(jnp.zeros_like, {"params": params, "batch_stats": batch_stats})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        history=History.create(epochs),
        memory=memory,
        average=average,
    )
