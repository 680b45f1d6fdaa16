"""Checkpoints: the only file that knows Orbax."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from jaxreid.mesh import make_mesh, shardings
from jaxreid.models.model import init_variables, make_model
from jaxreid.runs.workdir import holds_checkpoint


@dataclasses.dataclass(frozen=True)
class Run:
    """The model in a checkpoint of a run.

    Attributes:
        card: keywords of `make_model`.
        variables: {"params", "batch_stats"}, whole on every device.
        step: updates.
    """

    card: dict[str, Any]
    variables: dict[str, Any]
    step: int


def read_run(workdir: pathlib.Path, step: int | None = None) -> Run:
    """Reads the model of a run, by its own card.

    Args:
        workdir: the work directory.
        step: of the checkpoint; the newest if None.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    if not holds_checkpoint(workdir):
        raise FileNotFoundError(
            f"{workdir} holds no checkpoint; expected the work directory of a run (with a folder "
            "checkpoints), a step of it (RUN/checkpoints/500), or a file of weights (.safetensors)."
        )
    with Checkpoints(workdir, {}, every_steps=1) as checkpoints:
        step = checkpoints.check_step(step)
        card = checkpoints.card(step)["model"]
        abstract = jax.eval_shape(lambda: init_variables(make_model(**card), 0))
        return Run(card, checkpoints.restore_variables(abstract, make_mesh(), step), step)


class Checkpoints:
    """The checkpoints of one work directory; a context manager.

    A checkpoint is written beside its final name and renamed when it is whole: a run that is killed
    while it writes leaves the one before untouched.

    Args:
        workdir: the work directory; checkpoints are in its folder `checkpoints`.
        card: what the model is and what it learns from, as plain data; it travels with the
            weights, and a state is restored only under an equal card.
        every_steps: how often the caller is told to save.
        keep: how many of the newest to keep.
        keep_every: keep those at multiples of this many steps for ever as well; 0 keeps none.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        card: Mapping[str, Any],
        *,
        every_steps: int,
        keep: int = 2,
        keep_every: int = 0,
    ) -> None:
        if every_steps < 1:
            raise ValueError(f"checkpoint.every_steps is {every_steps}; needed is at least 1.")
        self._card, self._every = json.loads(json.dumps(card)), every_steps
        policies = [preservation.LatestN(max(keep, 1))]
        if keep_every:
            policies.append(preservation.EveryNSteps(keep_every))
        self._manager = ocp.CheckpointManager(
            pathlib.Path(workdir).resolve() / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation.AnyPreservationPolicy(policies)
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()  # waits for a write that is under way

    @property
    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """True if a checkpoint is to be written after this step."""
        return step % self._every == 0

    def save(self, parts: Mapping[str, Any], step: int) -> None:
        """Writes a checkpoint in the background; every process calls it.

        Args:
            parts: trees by name; "variables" is what `restore_variables` reads alone.
            step: updates so far.
        """
        if self._manager.latest_step() == step:
            return
        items = {name: ocp.args.StandardSave(tree) for name, tree in parts.items()}
        args = ocp.args.Composite(card=ocp.args.JsonSave(self._card), **items)
        self._manager.save(step, args=args, force=True)

    def check_step(self, step: int | None) -> int:
        """A step that has a checkpoint: the one asked for, or the newest for None.

        Raises:
            FileNotFoundError: there is none; lists those there are.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise FileNotFoundError(
                f"no checkpoint in {self._manager.directory}; train first, or name the work "
                "directory of a training."
            )
        if step is not None and step not in steps:
            raise FileNotFoundError(
                f"no checkpoint of step {step} in {self._manager.directory}; there are steps "
                f"{', '.join(map(str, steps))}."
            )
        return steps[-1] if step is None else step

    def card(self, step: int | None = None) -> dict[str, Any]:
        """The card of a checkpoint, by default of the newest.

        Raises:
            FileNotFoundError: there is no such checkpoint.
        """
        return self._restore(step, card=ocp.args.JsonRestore())["card"]

    def restore(self, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """The newest checkpoint, on any number of devices.

        Args:
            abstract: trees by name, with leaves of the shapes, types and shardings wanted.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: it belongs to another model or to other training data.
        """
        if (card := self.card()) != self._card:
            raise ValueError(
                f"the checkpoint in {self._manager.directory} is of {card}, and now asked for is "
                f"{self._card}; use the same model and training data, or another --workdir."
            )
        return self._restore(
            None, **{part: ocp.args.StandardRestore(tree) for part, tree in abstract.items()}
        )

    def restore_variables(
        self, abstract: dict[str, Any], mesh: Mesh, step: int | None = None
    ) -> dict[str, Any]:
        """Only what using the model needs: {"params", "batch_stats"}, whole on every device."""
        everywhere = shardings(mesh, P())
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), abstract
        )
        return self._restore(step, variables=ocp.args.StandardRestore(target))["variables"]

    def _restore(self, step: int | None, **args: Any) -> dict[str, Any]:
        step = self.check_step(step)
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return {name: restored[name] for name in args}

    def preempted(self, step: int) -> str | None:
        """A reason to stop, given to every process at the same step, or None.

        Needs `jax.distributed`; a lone process is told by its own signal handler.
        """
        if jax.process_count() > 1 and self._manager.reached_preemption(step):
            return "preemption"
        return None
