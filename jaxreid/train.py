"""Training: restore, step, log, evaluate, save."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreid.checkpoint import Checkpoints
from jaxreid.data.datasets import load_sets
from jaxreid.data.pipeline import ImageStore, train_batches
from jaxreid.data.samplers import make_order
from jaxreid.mesh import AXIS, check_divisible, make_mesh, to_devices
from jaxreid.model import make_model
from jaxreid.objectives import make_objective
from jaxreid.optim import make_optimizer
from jaxreid.pretrained import load_weights
from jaxreid.runs import holds_checkpoint
from jaxreid.state import abstract_state, create_state, variables_of
from jaxreid.step import make_train_step
from jaxreid.stopping import StopRequest
from jaxreid.testing import Evaluation
from jaxreid.writer import Meter, Writer, show

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
    sampler: Section,
    optim: Section,
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
        epochs: passes over the training set.
        sampler: keywords of `make_order`.
        optim: keywords of `make_optimizer`.
        augment: keywords of `augment.augment`.
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
    alone, spread = make_model(**model), make_model(**model, axis_name=AXIS)
    evaluation = Evaluation(alone, mesh, workdir, loaded=bool(init_from), **eval)
    meter = Meter(**log)
    images, tests = load_sets(**data)

    def order(epoch: int) -> np.ndarray:
        return make_order(
            labels=images.labels, batch_size=batch_size, seed=seed, epoch=epoch, **sampler
        )

    steps_per_epoch = len(order(0))
    steps = epochs * steps_per_epoch
    batches = functools.partial(
        train_batches,
        ImageStore(images.image, images.name),
        images.labels,
        height=alone.height,
        width=alone.width,
        augment=augment,
        seed=seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    batches(order(0), epoch=0).close()  # finds wrong settings before anything is computed
    tx, rate = make_optimizer(steps=steps, steps_per_epoch=steps_per_epoch, **optim)
    classes = images.num_classes
    goal = make_objective(**objective, num_classes=classes, axis_name=AXIS)
    held = classes if goal.uses_memory else None
    file = None if holds_checkpoint(workdir) else init_from
    weights, told = load_weights(file, model, skip=init_skip)
    abstract = abstract_state(alone, tx, num_classes=held)
    update = make_train_step(spread, goal, tx, mesh, abstract, precision=precision)
    card = {"model": model, "trained_on": {"name": data["train"]} | images.summary}
    with Checkpoints(workdir, card, **checkpoint) as checkpoints, StopRequest() as stop:
        if checkpoints.latest_step is None:
            state = create_state(alone, tx, num_classes=held, seed=seed, mesh=mesh, weights=weights)
        else:
            state = checkpoints.restore(abstract, mesh)
        step = int(state.step)
        with Writer(workdir, resume_at=step) as writer:
            writer.say(
                f"{classes} identities, {len(images)} images; {epochs} epochs of "
                f"{steps_per_epoch} steps of {batch_size} images on {mesh.size} device(s)"
            )
            for line in [f"resuming from step {step} of {steps}"] if step else told:
                writer.say(line)
            for epoch in range(step // steps_per_epoch, epochs):
                first = step % steps_per_epoch
                if first == 0 and evaluation.due(epoch):
                    evaluation.run(variables_of(state), tests, writer, step=step)
                meter.start()
                sizes = {"total": steps_per_epoch * batch_size, "initial": first * batch_size}
                with writer.progress(f"epoch {epoch + 1}/{epochs}", **sizes) as bar:
                    for batch in batches(order(epoch), epoch=epoch, start=first):
                        state, metrics = update(state, to_devices(mesh, batch))
                        step += 1
                        meter.add(metrics, batch_size)
                        bar.update(batch_size)
                        leave = stop.name or checkpoints.preempted(step)
                        save = leave or step == steps or checkpoints.due(step)
                        if save or step % steps_per_epoch == 0 or meter.due(step):
                            values = meter.read(step)  # also: nothing that is not finite is saved
                            writer.write("train", step, values | {"lr": float(rate(step - 1))})
                            show(bar, values, images_left=(steps - step) * batch_size)
                        if save:
                            checkpoints.save(state, step)
                        if leave:
                            where = f"step {step} of {steps}; the same command continues"
                            writer.say(f"stopped by {leave} at {where}")
                            return False
            evaluation.run(variables_of(state), tests, writer, step=steps)
            evaluation.tell(writer, ", metrics and checkpoints")
    return True
