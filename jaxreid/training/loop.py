"""Training: restore, step, log, evaluate, save."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxreid.data.feed import Feed
from jaxreid.data.sets import load_sets
from jaxreid.evaluation.testing import Evaluation
from jaxreid.mesh import AXIS, check_divisible, make_mesh, to_devices, to_host
from jaxreid.models.model import make_model
from jaxreid.runs.log import Meter, Writer, show
from jaxreid.runs.signals import StopRequest
from jaxreid.runs.workdir import holds_checkpoint
from jaxreid.training.class_graph import nearest_classes
from jaxreid.training.first_phase import FirstPhase
from jaxreid.training.objectives import make_objective
from jaxreid.training.optim import make_optimizer
from jaxreid.training.schedules import make_schedule
from jaxreid.training.search import record
from jaxreid.training.state import (
    abstract_parts,
    abstract_state,
    checkpoint_parts,
    create_state,
    state_from_parts,
    variables_of,
)
from jaxreid.training.step import make_train_step
from jaxreid.weights.checkpoint import Checkpoints
from jaxreid.weights.file import load_weights

Section = Mapping[str, Any]  # keywords, grouped as in the configuration


def train(
    *,
    workdir: pathlib.Path,
    seed: int,
    precision: str,
    init_from: str | None,
    init_skip: Sequence[str],
    data: Section,
    model: Section,
    objective: Section,
    batch_size: int,
    epochs: int,
    freeze_epochs: int,
    sampler: Section,
    optim: Section,
    schedule: Section,
    augment: Section,
    eval: Section,
    checkpoint: Section,
    log: Section,
) -> bool:
    """Trains to the end, from the newest checkpoint of the work directory if there is one.

    Args:
        workdir: exists; everything is left here.
        seed: of weights, data order and augmentation.
        precision: of float32 products in training, as for `make_train_step`.
        init_from: a file of weights to start from, or None.
        init_skip: parts of it to leave out.
        data: keywords of `datasets.load_sets`.
        model: keywords of `make_model`.
        objective: keywords of `make_objective`.
        batch_size: images per step, over all devices.
        epochs: passes of the sampler, at most.
        freeze_epochs: the first of them, in which only the classifier learns.
        sampler: keywords of `make_sampler`; "save_graph" keeps the graphs of its epochs.
        optim: keywords of `make_optimizer`.
        schedule: keywords of `make_schedule`.
        augment: as for `Feed`.
        eval: keywords of `Evaluation`.
        checkpoint: keywords of `Checkpoints`.
        log: keywords of `Meter`.

    Returns:
        True at the end of the training, False if a signal asked to stop before it.

    Raises:
        ValueError, OSError: a setting or a file that cannot work.
        FloatingPointError: the loss is not finite.
    """
    mesh = make_mesh()
    check_divisible(batch_size, mesh, "batch_size")
    keep_graphs = (sampler := dict(sampler)).pop("save_graph")
    evaluation = Evaluation(make_model(**model), mesh, workdir, loaded=bool(init_from), **eval)
    meter = Meter(lr=optim["lr"], **log)
    images, tests = load_sets(**data)
    goal = make_objective(**objective, num_classes=images.num_classes, axis_name=AXIS)
    model = {**model, "classes": images.num_classes} if goal.classifies else model
    alone, spread = make_model(**model), make_model(**model, axis_name=AXIS)
    size = {"batch_size": batch_size, **alone.image_format}
    feed = Feed(images, sampler=sampler, augment=augment, seed=seed, **size)
    length = feed.steps_per_epoch
    first_phase = FirstPhase(freeze_epochs, length)
    tx = make_optimizer(**optim, freeze_steps=first_phase.steps)
    plan = make_schedule(**schedule, epochs=epochs, steps_per_epoch=length)
    shape = {"num_classes": images.num_classes if goal.uses_memory else None, "epochs": epochs}
    abstract = abstract_state(alone, tx, **shape)
    file = None if holds_checkpoint(workdir) else init_from
    weights, told = load_weights(file, model, skip=init_skip)
    told += first_phase.warnings(pretrained=bool(file))
    rules = {"model": spread, "objective": goal, "tx": tx, "schedule": plan, "seed": seed}
    make_update = functools.partial(make_train_step, mesh, abstract, precision=precision, **rules)
    update_of = first_phase.step_of(make_update)
    card = {"model": model, "trained_on": {"name": data["train"]} | images.summary}
    with Checkpoints(workdir, card, **checkpoint) as checkpoints, StopRequest() as stop:
        if checkpoints.latest_step is None:
            state = create_state(alone, tx, seed=seed, mesh=mesh, weights=weights, **shape)
        else:
            parts = checkpoints.restore(abstract_parts(abstract, mesh, feed.state()))
            state, order = state_from_parts(parts)
            feed.restore(order)
        step = int(state.step)
        with Writer(workdir, resume_at=step) as writer:
            writer.say(
                f"{images.num_classes} identities, {len(images)} images; up to {epochs} epochs of "
                f"{length} steps of {batch_size} images on {mesh.size} device(s)"
            )
            for line in [f"resuming from step {step}"] if step else told:
                writer.say(line)
            epoch, first = divmod(step, length)
            while epoch < (last := plan.last_epoch(epoch, to_host(state.history.loss))):
                record(workdir, writer, state.params, step=step, steps_per_epoch=length)
                if first == 0 and evaluation.due(epoch):
                    evaluation.run(variables_of(state), tests, writer, step=step)
                nearest = functools.partial(
                    nearest_classes, evaluation.evaluator, variables_of(state), images,
                    evaluation.load, writer.progress,
                    save_as=workdir / "graphs" / f"epoch_{epoch + 1}" if keep_graphs else None,
                )  # fmt: skip
                accuracy = to_host(state.history.accuracy)
                batches = feed.batches(epoch, start=first, accuracy=accuracy, nearest=nearest)
                meter.start()
                sizes = {"total": length * batch_size, "initial": first * batch_size}
                with writer.progress(f"epoch {epoch + 1}/{last}", **sizes) as bar:
                    for batch in batches:
                        update = update_of(epoch)
                        state, metrics = update(state, to_devices(mesh, batch))
                        step += 1
                        meter.add(metrics, batch_size)
                        bar.update(batch_size)
                        leave = stop.name or checkpoints.preempted(step)
                        save = leave or step == last * length or checkpoints.due(step)
                        if save or step % length == 0 or meter.due(step):
                            values = meter.read(step)  # also: nothing that is not finite is saved
                            writer.write("train", step, values)
                            show(bar, values, images_left=(last * length - step) * batch_size)
                        if save:
                            checkpoints.save(checkpoint_parts(state, feed.state()), step)
                        if leave:
                            where = f"step {step} of {last * length}; the same command continues"
                            writer.say(f"stopped by {leave} at {where}")
                            return False
                epoch, first = epoch + 1, 0
            record(workdir, writer, state.params, step=step, steps_per_epoch=length, tell=True)
            evaluation.run(variables_of(state), tests, writer, step=step)
            evaluation.tell(writer, ", metrics and checkpoints")
    return True
