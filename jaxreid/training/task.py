"""Training task: model, objective, optimizer and step of a recipe on a mesh; needs no data."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import optax
from jax.sharding import Mesh

from jaxreid.mesh import AXIS
from jaxreid.models.model import Model, make_model
from jaxreid.programs import shared
from jaxreid.training.first_phase import FirstPhase
from jaxreid.training.objectives import Objective, make_objective
from jaxreid.training.optim import make_optimizer
from jaxreid.training.schedules import Schedule, make_schedule
from jaxreid.training.state import TrainState, abstract_state, make_creation
from jaxreid.training.step import make_train_step


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Trainable parts of a recipe, with any seed.

    Attributes:
        mesh: devices.
        card: keywords of `make_model`, with the classes of a classifier.
        model: model outside a mesh.
        objective: objective on the mesh.
        tx: optimizer.
        schedule: learning rate schedule.
        first_phase: length of the first phase.
        memory_classes: training identities in the class memory, or None for no memory.
        epochs: maximum number of epochs.
        precision: precision of float32 products, as for `make_train_step`.
        remat: as for `train_step`.
        ema: as for `train_step`; 0 for no average.
        abstract: shapes and types of the state.
    """

    mesh: Mesh
    card: Mapping[str, Any]
    model: Model
    objective: Objective
    tx: optax.GradientTransformation
    schedule: Schedule
    first_phase: FirstPhase
    memory_classes: int | None
    epochs: int
    precision: str
    remat: bool
    ema: float
    abstract: TrainState

    @shared
    def make_creation(self) -> Callable[..., TrainState]:
        """Compile (seed, weights) -> new state (`state.make_creation`)."""
        shape = {"num_classes": self.memory_classes, "epochs": self.epochs}
        averaged = bool(self.ema)
        return make_creation(self.model, self.tx, mesh=self.mesh, averaged=averaged, **shape)

    @shared
    def make_step(
        self, *, frozen: bool = False, augment: Callable[..., Any] | None = None
    ) -> Callable[..., Any]:
        """Compile the training step in or after the first phase (`step.make_train_step`).

        It takes (state, batch, seed).
        """
        return make_train_step(
            self.mesh,
            self.abstract,
            precision=self.precision,
            model=make_model(**self.card, axis_name=AXIS),
            objective=self.objective,
            tx=self.tx,
            schedule=self.schedule,
            frozen=frozen,
            augment=augment,
            remat=self.remat,
            ema=self.ema,
        )


@shared
def make_task(
    mesh: Mesh,
    *,
    num_classes: int,
    steps_per_epoch: int,
    precision: str,
    model: Mapping[str, Any],
    objective: Mapping[str, Any],
    epochs: int,
    freeze_epochs: int,
    optim: Mapping[str, Any],
    schedule: Mapping[str, Any],
    remat: bool = False,
    ema: float = 0.0,
) -> Task:
    """Build a task from the settings of a recipe and the sizes of its data.

    Args:
        mesh: devices.
        num_classes: training identities.
        steps_per_epoch: updates per epoch.
        precision: precision of float32 products, as for `make_train_step`.
        model: keywords of `make_model`.
        objective: keywords of `make_objective`.
        epochs: maximum number of epochs.
        freeze_epochs: first epochs, in which only the classifier learns.
        optim: keywords of `make_optimizer`.
        schedule: keywords of `make_schedule`.
        remat: as for `train_step`.
        ema: as for `train_step`; 0 for no average.

    Raises:
        ValueError: an invalid setting.
    """
    loss = make_objective(**objective, num_classes=num_classes, axis_name=AXIS)
    card = {**model, "classes": num_classes} if loss.classifies else model
    local_model = make_model(**card)
    first_phase = FirstPhase(freeze_epochs, steps_per_epoch)
    tx = make_optimizer(**optim, freeze_steps=first_phase.steps)
    rates = make_schedule(**schedule, epochs=epochs, steps_per_epoch=steps_per_epoch)
    memory_classes = num_classes if loss.uses_memory else None
    size = {"num_classes": memory_classes, "epochs": epochs, "averaged": bool(ema)}
    return Task(
        mesh=mesh,
        card=card,
        model=local_model,
        objective=loss,
        tx=tx,
        schedule=rates,
        first_phase=first_phase,
        memory_classes=memory_classes,
        epochs=epochs,
        precision=precision,
        remat=remat,
        ema=ema,
        abstract=abstract_state(local_model, tx, **size),
    )
