"""First phase of a training, in which only the classifier learns.

The large initial gradients of a new classifier would spoil a pretrained network. During the phase,
features are computed in evaluation mode without gradient (`features`), the optimizer freezes all
other parameters and their moments (`groups` and `hold`), and a separate step is compiled
(`FirstPhase.step_of`).

Source: torchreid's `fixbase_epoch` with `open_layers=["classifier"]`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreid.training.objectives import OBJECTIVES

# The only part of the model that is trained.
LEARNS = "classifier"


@dataclasses.dataclass(frozen=True)
class FirstPhase:
    """Length of the first phase.

    Attributes:
        epochs: epochs at the start of the training; 0 for no first phase.
        steps_per_epoch: updates per epoch.
    """

    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Updates of the phase: `freeze_steps` of `make_optimizer`."""
        return self.epochs * self.steps_per_epoch

    def step_of(self, make: Callable[..., Any]) -> Callable[[int], Any]:
        """Return a function from the epoch, counted from 0, to its step `make(frozen=...)`."""
        steps = {frozen: make(frozen=frozen) for frozen in (False, True)}
        return lambda epoch: steps[epoch < self.epochs]

    def warnings(self, *, pretrained: bool) -> list[str]:
        """Return warnings for the log; `pretrained` if the network starts from loaded weights."""
        if pretrained or not self.epochs:
            return []
        return [
            "freeze_epochs: the first phase trains only the classifier, on a network of random "
            "weights; load weights with --config.init_from=FILE, or set --config.freeze_epochs=0"
        ]


def features(
    encode: Callable[..., tuple[jax.Array, jax.Array]], image: jax.Array, *, frozen: bool
) -> tuple[jax.Array, jax.Array]:
    """Compute the features of a training batch, in or after the first phase.

    Args:
        encode: `Model.encode_with_before`.
        image: [b, H, W, 3] uint8.
        frozen: in the first phase.
    """
    encoded = encode(image, train=not frozen)
    return jax.lax.stop_gradient(encoded) if frozen else encoded


def groups(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameter groups of a training with a first phase.

    Args:
        parts: tree of the groups without a first phase, "new" or "backbone", by part of the model.

    Returns:
        A tree of the same structure, with "waiting" for "new" parameters outside the classifier.

    Raises:
        ValueError: the model has no classifier.
    """
    if LEARNS not in parts:
        suitable = OBJECTIVES.names_where(lambda objective: objective.classifies)
        raise ValueError(
            f"nothing would learn in the first phase: the model has the parts {sorted(parts)}, but "
            "no classifier; set freeze_epochs to 0, or use the objective "
            f"{' or '.join(map(repr, suitable))}."
        )
    group_of = {"new": "waiting", "backbone": "backbone"}
    return {
        part: tree if part == LEARNS else jax.tree.map(group_of.__getitem__, tree)
        for part, tree in parts.items()
    }


def hold(tx: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Freeze parameters and the state of `tx` during the first updates.

    The state is a pair: [] int32, the updates so far, at most `steps`; and the state of `tx`.

    Args:
        tx: transformation applied after the phase; its own step count starts then.
        steps: updates of the phase.

    Source: PyTorch's optimizers skip parameters without gradient.
    """

    def init(params: Any) -> tuple[jax.Array, Any]:
        return jnp.zeros((), jnp.int32), tx.init(params)

    def update(grads: Any, state: tuple[jax.Array, Any], params: Any = None) -> tuple[Any, Any]:
        count, old = state
        held = count < steps
        updates, new = tx.update(grads, old, params)
        # where(), not a product with 0, which is NaN for a gradient that is not finite.
        updates = jax.tree.map(lambda u: jnp.where(held, jnp.zeros_like(u), u), updates)
        inner = jax.tree.map(lambda old, new: jnp.where(held, old, new), old, new)
        return updates, (count + held, inner)

    return optax.GradientTransformation(init, update)
