"""Checkpoints of a run. The only module that imports Orbax."""

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
from jaxreid.weights.cards import difference


@dataclasses.dataclass(frozen=True)
class Run:
    """The model in a checkpoint of a run.

    Attributes:
        card: keywords of `make_model`.
        variables: {"params", "batch_stats"}, replicated on every device.
        step: updates so far.
    """

    card: dict[str, Any]
    variables: dict[str, Any]
    step: int


def read_run(workdir: pathlib.Path, step: int | None = None) -> Run:
    """Load the model of a run from its newest checkpoint or that of `step`, by its own card.

    Raises:
        FileNotFoundError: no such checkpoint.
    """
    if not holds_checkpoint(workdir):
        raise FileNotFoundError(
            f"{workdir} holds no checkpoint; expected the work directory of a run (with a folder "
            "checkpoints), a step of it (RUN/checkpoints/500), or a weights file (.safetensors)."
        )
    with Checkpoints(workdir, {}, every_steps=1) as checkpoints:
        step = checkpoints.check_step(step)
        card = checkpoints.card(step)["model"]
        abstract = jax.eval_shape(lambda: init_variables(make_model(**card), 0))
        return Run(card, checkpoints.restore_variables(abstract, make_mesh(), step), step)


class Checkpoints:
    """The checkpoints of one work directory; a context manager.

    A checkpoint is written under a temporary name and renamed once complete, so that a run killed
    while writing leaves the previous checkpoint intact.

    Args:
        workdir: work directory; checkpoints are in its folder `checkpoints`.
        card: description of the model and its training data, as plain data. It is stored with the
            weights, and a state is restored only under an equal card.
        every_steps: save every N steps.
        keep: number of newest checkpoints to keep.
        keep_every: also keep checkpoints at multiples of this many steps permanently; 0 for none.
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
            raise ValueError(f"checkpoint.every_steps is {every_steps}; expected at least 1.")
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
        # Waits for a write in progress.
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Return whether to save a checkpoint after this step."""
        return step % self._every == 0

    def save(self, parts: Mapping[str, Any], step: int) -> None:
        """Write a checkpoint in the background; every process must call it.

        Args:
            parts: trees by name; `restore_variables` reads "variables" alone.
            step: updates so far.
        """
        if self._manager.latest_step() == step:
            return
        items = {name: ocp.args.StandardSave(tree) for name, tree in parts.items()}
        args = ocp.args.Composite(card=ocp.args.JsonSave(self._card), **items)
        self._manager.save(step, args=args, force=True)

    def check_step(self, step: int | None) -> int:
        """Return `step` if it has a checkpoint, or the newest step for None.

        Raises:
            FileNotFoundError: no such checkpoint; the message lists the available steps.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise FileNotFoundError(
                f"no checkpoint in {self._manager.directory}; train first, or name the work "
                "directory of a training."
            )
        if step is not None and step not in steps:
            raise FileNotFoundError(
                f"no checkpoint of step {step} in {self._manager.directory}; available steps: "
                f"{', '.join(map(str, steps))}."
            )
        return steps[-1] if step is None else step

    def card(self, step: int | None = None) -> dict[str, Any]:
        """Read the card of a checkpoint, by default of the newest.

        Raises:
            FileNotFoundError: no such checkpoint.
        """
        return self._restore(step, card=ocp.args.JsonRestore())["card"]

    def restore(self, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """Restore the newest checkpoint, on any number of devices.

        Args:
            abstract: trees by name, whose leaves have the target shapes, types and shardings.

        Raises:
            FileNotFoundError: no checkpoint.
            ValueError: the checkpoint has another card, that is another model or other training
                data.
        """
        if changes := difference(self.card(), self._card):
            raise ValueError(
                f"the checkpoint in {self._manager.directory} cannot be resumed: {changes}. Use "
                "the same model and training data, or another --workdir."
            )
        return self._restore(
            None, **{part: ocp.args.StandardRestore(tree) for part, tree in abstract.items()}
        )

    def restore_variables(
        self, abstract: dict[str, Any], mesh: Mesh, step: int | None = None
    ) -> dict[str, Any]:
        """Restore {"params", "batch_stats"} alone, replicated on every device."""
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
        """Return a reason to stop, at the same step on every process, or None.

        Requires `jax.distributed`; a single process uses its own signal handler.
        """
        if jax.process_count() > 1 and self._manager.reached_preemption(step):
            return "preemption"
        return None
