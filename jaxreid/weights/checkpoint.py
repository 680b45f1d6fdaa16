"""Checkpoints of a run. The only module that imports Orbax."""

import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from orbax.checkpoint.checkpoint_managers import preservation_policy as preservation

from jaxreid.mesh import make_mesh, shardings, to_host
from jaxreid.models.model import abstract_variables
from jaxreid.places import is_remote, place
from jaxreid.runs.workdir import holds_checkpoint
from jaxreid.weights.cards import difference, model_of


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


def run_of(path: pathlib.Path) -> tuple[pathlib.Path, int | None]:
    """Return the work directory and the step of RUN, RUN/checkpoints or RUN/checkpoints/STEP."""
    if not holds_checkpoint(path):
        if path.name == "checkpoints":
            return path.parent, None
        if path.parent.name == "checkpoints" and path.name.isdigit():
            return path.parent.parent, int(path.name)
    return path, None


def read_run(path: pathlib.Path, step: int | None = None) -> Run:
    """Load the model of a run from its newest checkpoint or that of `step`, by its own card.

    Args:
        path: as for `run_of`.
        step: step of a checkpoint; None for that of the path, or the newest.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: the checkpoint cannot be read.
    """
    workdir, named = run_of(path)
    step = named if step is None else step
    if not holds_checkpoint(workdir):
        raise FileNotFoundError(
            f"{workdir} holds no checkpoint; expected the work directory of a run (with a folder "
            "checkpoints), a step of it (RUN/checkpoints/500), or a weights file (.safetensors)."
        )
    with Checkpoints(workdir, {}, every_steps=1) as checkpoints:
        step = checkpoints.check_step(step)
        held = checkpoints.card(step)
        card = held.get("model") if isinstance(held, Mapping) else None
        abstract = abstract_variables(model_of(card, checkpoints.folder / str(step)))
        return Run(card, checkpoints.restore_variables(abstract, make_mesh(), step), step)


class Checkpoints:
    """The checkpoints of one work directory; a context manager.

    A checkpoint is written under a temporary name and renamed once complete, so that a run killed
    while writing leaves the previous checkpoint intact. Every checkpoint is read back before the
    next one is saved, and the last one by `check_saved`.

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
        self._unchecked: tuple[int, dict[str, Any]] | None = None
        folder = place(workdir) / "checkpoints"
        if not is_remote(folder):
            folder = folder.resolve()
        _drop_reports_of_abandoned_tasks()
        self._folder = folder
        with _writing(folder):
            self._manager = ocp.CheckpointManager(
                folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=preservation.AnyPreservationPolicy(policies)
                ),
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # An error that ends the run comes first.
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(Exception) if error else _writing(self.folder))
            # Waits for a write in progress.
            self._manager.close()

    @property
    def folder(self) -> pathlib.Path:
        """Folder of the checkpoints."""
        return self._folder

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

        Raises:
            FloatingPointError: an array holds NaN or infinity; nothing is saved.
            OSError: the checkpoint before cannot be read, or this one cannot be written.
        """
        if self._manager.latest_step() == step:
            return
        check_finite(parts, step)
        self.check_saved()
        items = {name: ocp.args.StandardSave(tree) for name, tree in parts.items()}
        args = ocp.args.Composite(card=ocp.args.JsonSave(self._card), **items)
        with _writing(self.folder):
            self._manager.save(step, args=args, force=True)
        # Arrays of the host, because devices may have no room for a second state.
        hosts = lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape)  # noqa: E731
        self._unchecked = step, jax.tree.map(hosts, dict(parts))

    def check_saved(self) -> None:
        """Wait for the checkpoint that is being written, and read it back.

        Every process must call it.

        Raises:
            OSError: the checkpoint cannot be written or read.
        """
        if self._unchecked is None:
            return
        (step, parts), self._unchecked = self._unchecked, None
        with _writing(self.folder):
            self._manager.wait_until_finished()
            # TensorStore compares checksums as it reads.
            items = {name: ocp.args.StandardRestore(tree) for name, tree in parts.items()}
            args = ocp.args.Composite(card=ocp.args.JsonRestore(), **items)
            self._manager.restore(step, args=args)

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
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        except Exception as error:
            _silence()
            others = sorted({*self._manager.all_steps()} - {step})
            advice = "it is the only one"
            if others:
                advice = f"to use that of step {others[-1]}, delete this folder"
            raise ValueError(
                f"the checkpoint in {self.folder / str(step)} cannot be read "
                f"({_first_line(error)}); {advice}."
            ) from error
        return {name: restored[name] for name in args}

    def preempted(self, step: int) -> str | None:
        """Return a reason to stop, at the same step on every process, or None.

        Requires `jax.distributed`; a single process uses its own signal handler.
        """
        if jax.process_count() > 1 and self._manager.reached_preemption(step):
            return "preemption"
        return None


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    """Raise any error of Orbax, which has many kinds, as one sentence with the folder."""
    try:
        yield
    except Exception as error:
        _silence()
        raise OSError(
            f"a checkpoint in {folder} cannot be written or read back ({_first_line(error)}). Make "
            "room or give access there, or use another --workdir; the same command resumes from "
            "the newest whole checkpoint."
        ) from error


@functools.cache
def _drop_reports_of_abandoned_tasks() -> None:
    """Keep from the user that tasks of a failed write or read end after their event loop.

    TensorStore's threads report them at any time, also before the failure is known here.
    """
    report = sys.unraisablehook

    def report_others(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            report(unraisable)

    sys.unraisablehook = report_others


def _silence() -> None:
    """Keep stack traces of the tasks that Orbax abandons when it fails from the user."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def _first_line(error: BaseException) -> str:
    """Return the first line of the error that others followed, such as those of a clean-up."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def check_finite(parts: Mapping[str, Any], step: int) -> None:
    """Raise FloatingPointError if an array holds NaN or infinity, checked on the devices.

    Args:
        parts: trees by name, as for `Checkpoints.save`.
        step: updates so far, for the error message.
    """
    leaves = {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): x
        for path, x in jax.tree_util.tree_leaves_with_path(dict(parts))
        if jnp.issubdtype(x.dtype, jnp.inexact)
    }
    finite = to_host(_all_finite(list(leaves.values())))
    if bad := [name for name, ok in zip(leaves, finite, strict=True) if not ok]:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise FloatingPointError(f"values of {bad[0]}{more} are not finite after step {step}.")


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.array([jnp.isfinite(x).all() for x in leaves], bool)
