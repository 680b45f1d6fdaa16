"""The first phase of a training, in which only the classifier learns.

A new classifier has large gradients at first, which would spoil a pretrained network. While the
phase lasts, features are those of evaluation and have no gradient (`features`), the optimizer holds
every other parameter and its moments (`groups` and `hold`), and another step is compiled
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

LEARNS = "classifier"  # the part of the model that is not held


@dataclasses.dataclass(frozen=True)
class FirstPhase:
    """How long it lasts.

    Attributes:
        epochs: at the start of the training; 0 for no first phase.
        steps_per_epoch: updates in each.
    """

    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Updates that belong to it: `freeze_steps` of `make_optimizer`."""
        return self.epochs * self.steps_per_epoch

    def step_of(self, make: Callable[..., Any]) -> Callable[[int], Any]:
        """The training step of each epoch.

        Args:
            make: `make(frozen=...)` gives a step, as `make_train_step` does.

        Returns:
            A function of the epoch, from 0.
        """
        steps = {frozen: make(frozen=frozen) for frozen in (False, True)}
        return lambda epoch: steps[epoch < self.epochs]

    def warnings(self, *, pretrained: bool) -> list[str]:
        """Sentences for the log.

        Args:
            pretrained: the network starts from weights of a file.
        """
        if pretrained or not self.epochs:
            return []
        return [
            "freeze_epochs: the classifier learns first, on a network of random weights; give it "
            "others with --config.init_from=FILE, or set --config.freeze_epochs=0"
        ]


def features(
    encode: Callable[..., tuple[jax.Array, jax.Array]], image: jax.Array, *, frozen: bool
) -> tuple[jax.Array, jax.Array]:
    """Features of a training batch, in or after the first phase.

    Args:
        encode: `Model.encode_with_before`.
        image: [b, H, W, 3] uint8.
        frozen: in the first phase.
    """
    found = encode(image, train=not frozen)
    return jax.lax.stop_gradient(found) if frozen else found


def groups(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parameter groups where a first phase holds all but the classifier.

    Args:
        parts: the group of every parameter without a first phase, by part of the model: "new" or
            "backbone".

    Returns:
        A tree of the same shape: "waiting" for "new" parameters outside the classifier.

    Raises:
        ValueError: there is no classifier.
    """
    if LEARNS not in parts:
        able = OBJECTIVES.names_where(lambda objective: objective.classifies)
        raise ValueError(
            f"nothing would learn in the first phase: the parts of the model are {sorted(parts)}, "
            "and no classifier; set freeze_epochs to 0, or take the objective "
            f"{' or '.join(map(repr, able))}."
        )
    held = {"new": "waiting", "backbone": "backbone"}
    return {
        part: tree if part == LEARNS else jax.tree.map(held.__getitem__, tree)
        for part, tree in parts.items()
    }


def hold(tx: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Leaves parameters and the state of `tx` as they are for the first updates.

    Its state is a pair: [] int32, the updates so far, at most those held; and the state of `tx`.

    Args:
        tx: begins after them, as if they had not been: its count starts then.
        steps: updates.

    Source: PyTorch's optimizers pass over parameters that have no gradient.
    """

    def init(params: Any) -> tuple[jax.Array, Any]:
        return jnp.zeros((), jnp.int32), tx.init(params)

    def update(grads: Any, state: tuple[jax.Array, Any], params: Any = None) -> tuple[Any, Any]:
        count, old = state
        held = count < steps
        updates, new = tx.update(grads, old, params)
        # Chosen and not multiplied: a gradient that is not finite is passed over as well.
        updates = jax.tree.map(lambda u: jnp.where(held, jnp.zeros_like(u), u), updates)
        inner = jax.tree.map(lambda old, new: jnp.where(held, old, new), old, new)
        return updates, (count + held, inner)

    return optax.GradientTransformation(init, update)
