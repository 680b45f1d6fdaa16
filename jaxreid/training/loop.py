"""Training loop: restore, step, log, evaluate, save."""

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxreid.data.feed import Feed
from jaxreid.data.overlap import shared_people
from jaxreid.data.sets import load_sets
from jaxreid.evaluation.run import keep_trace, make_evaluation, report
from jaxreid.mesh import check_divisible, make_mesh, sent_ahead, to_host
from jaxreid.models.model import make_model
from jaxreid.processes import lost_processes_named
from jaxreid.runs.changes import without_places
from jaxreid.runs.log import Meter, Writer, progress, show
from jaxreid.runs.profile import Profile
from jaxreid.runs.record import clocks, note_end, note_not_finite
from jaxreid.runs.settings import check_tensorflow, resolved, start_message
from jaxreid.runs.signals import StopRequest
from jaxreid.runs.workdir import hold_workdir, holds_checkpoint, open_workdir
from jaxreid.training.class_graph import check_graph_window, nearest_classes
from jaxreid.training.kept import Best, save_average
from jaxreid.training.search import record
from jaxreid.training.state import (
    TrainState,
    abstract_parts,
    checkpoint_parts,
    models_of,
    state_from_parts,
    variables_of,
)
from jaxreid.training.task import make_task
from jaxreid.weights.checkpoint import Checkpoints, check_finite
from jaxreid.weights.loading import load_weights

# One section of the configuration, as keywords.
Section = Mapping[str, Any]


def train(config: Any, workdir: str | os.PathLike) -> bool:
    """Train a model, or resume an interrupted training.

    Args:
        config: configuration of a recipe (`get_config`), or a dictionary of the same sections.
        workdir: work directory; created if it does not exist.

    Returns:
        True at the end of the training, False if a signal stopped it before; the same call resumes
        it.

    Raises:
        ValueError, OSError: an invalid setting, file or work directory, or one that another
            process uses.
        FloatingPointError: the loss or the state is not finite.
        ConnectionError: another process of the run has ended.
    """
    check_tensorflow()
    config = resolved(config)
    with hold_workdir(os.fspath(workdir)), lost_processes_named():
        path = open_workdir(os.fspath(workdir), config, mode="train")
        start = clocks()
        try:
            finished = fit(workdir=path, **config)
        except Exception:
            with contextlib.suppress(OSError, ValueError):
                note_end(path, start=start, finished=False)
            raise
        note_end(path, start=start, finished=finished)
        return finished


def fit(
    *,
    workdir: pathlib.Path,
    seed: int,
    precision: str,
    remat: bool,
    ema: float,
    init_from: str | None,
    init_skip: Sequence[str],
    init_expects: str,
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
    """Train to the end, from the newest checkpoint in the work directory if there is one.

    Args:
        workdir: work directory for all output; must exist.
        seed: seed of weights, data order and augmentation.
        precision: precision of float32 products in training, as for `make_train_step`.
        remat: compute parts of the network again for the gradient, as for `train_step`.
        ema: decay of the average of the weights; 0 for no average.
        init_from: weights file or work directory to start from, or None.
        init_skip: parts of it to leave out.
        init_expects: name of the weights that the recipe starts from, "" for random weights; a
            warning is logged if it is set and `init_from` is not.
        data: keywords of `load_sets`.
        model: keywords of `make_model`.
        objective: keywords of `make_objective`.
        batch_size: images per step, over all devices.
        epochs: maximum number of epochs of the sampler.
        freeze_epochs: first epochs, in which only the classifier learns.
        sampler: keywords of `make_sampler`; "graph_window" pools the maps of its class graphs,
            "save_graph" saves them.
        optim: keywords of `make_optimizer`.
        schedule: keywords of `make_schedule`.
        augment: as for `Feed`.
        eval: as for `make_evaluation`.
        checkpoint: keywords of `Checkpoints`; "best" chooses weights (`Best`), "" for none.
        log: keywords of `Meter`; "profile" is the number of steps to trace (`Profile`).

    Returns:
        True at the end of the training, False if a signal stopped it before.

    Raises:
        ValueError, OSError: an invalid setting or file.
        FloatingPointError: the loss is not finite.
    """
    mesh = make_mesh()
    check_divisible(batch_size, mesh, "batch_size")
    keep_graphs = (sampler := dict(sampler)).pop("save_graph")
    window = tuple(sampler.pop("graph_window"))
    scorer, evaluation = make_evaluation(make_model(**model), mesh, eval)
    check_graph_window(scorer.model, window)
    traced = (log := dict(log)).pop("profile")
    choice = (checkpoint := dict(checkpoint)).pop("best")
    meter = Meter(lr=optim["lr"], **log)
    images, tests = load_sets(**data)
    # None is for runs without training.
    assert images is not None
    evaluation.check(tests)
    size = {"batch_size": batch_size, **scorer.model.image_format}
    feed = Feed(images, sampler=sampler, augment=augment, seed=seed, **size)
    steps_per_epoch = feed.steps_per_epoch
    task = make_task(
        mesh,
        num_classes=images.num_classes,
        steps_per_epoch=steps_per_epoch,
        precision=precision,
        remat=remat,
        ema=ema,
        model=model,
        objective=objective,
        epochs=epochs,
        freeze_epochs=freeze_epochs,
        optim=optim,
        schedule=schedule,
    )
    model = task.card
    best = None
    if choice:
        best = Best(workdir, model, choice, tests, every_epochs=evaluation.every_epochs)
    source = None if holds_checkpoint(workdir) else init_from
    weights, messages = load_weights(source, model, skip=init_skip)
    messages += task.first_phase.warnings(pretrained=bool(source))
    if init_expects and not init_from:
        messages.insert(0, start_message(init_expects, model["backbone"]["name"]))
    make_step = functools.partial(task.make_step, augment=feed.augment)
    update_of = task.first_phase.step_of(make_step)
    trained_on = {"name": without_places(data["train"]), "content": images.content} | images.summary
    card = {"model": model, "trained_on": trained_on}
    initial = "loaded" if init_from else "untrained"
    with (
        Checkpoints(workdir, card, **checkpoint) as checkpoints,
        StopRequest() as stop,
        Profile(workdir, traced) as profile,
    ):
        if checkpoints.latest_step is None:
            state = task.make_creation()(seed, weights)
        else:
            parts = checkpoints.restore(abstract_parts(task.abstract, mesh, feed.state()))
            state, order = state_from_parts(parts)
            feed.restore(order)
        step = int(state.step)
        writer = Writer(workdir, resume_at=step)

        def evaluate(state: TrainState) -> None:
            step = int(state.step)
            for name, variables in models_of(state).items():
                # Before the events, by which a later start knows that it is there.
                if name:
                    save_average(workdir, variables, model, step=step)
                bound = scorer.bind(variables)
                evaluation.run(
                    bound, tests, writer, workdir, initial=initial, step=step, model=name
                )
                if best is not None:
                    best.keep(variables, writer, step=step, model=name)

        with _remedied(workdir, checkpoints, optim):
            writer.say(
                f"{images.num_classes} identities, {len(images)} images; up to {epochs} epochs of "
                f"{steps_per_epoch} steps of {batch_size} images on {mesh.size} device(s)"
            )
            for message in [f"resuming from step {step}"] if step else messages:
                writer.say(message)
            for name, overlap in shared_people(images, tests).items():
                writer.say(f"WARNING: {overlap.sentence(name)}")
            if best is not None:
                writer.say(best.warning)
            keep_trace(workdir, images)
            epoch, first = divmod(step, steps_per_epoch)
            while epoch < (last := task.schedule.last_epoch(epoch, to_host(state.history.loss))):
                record(workdir, writer, state.params, step=step, steps_per_epoch=steps_per_epoch)
                scorer = scorer.bind(variables_of(state))
                if first == 0 and evaluation.due(epoch):
                    evaluate(state)
                neighbours = None
                if (anchors := feed.anchors(epoch)) is not None:
                    path = workdir / "graphs" / f"epoch_{epoch + 1}" if keep_graphs else None
                    neighbours = nearest_classes(
                        scorer,
                        images.take(anchors),
                        feed.neighbour_count,
                        window=window,
                        save_as=path,
                    )
                accuracy = to_host(state.history.accuracy)
                batches = feed.batches(epoch, start=first, accuracy=accuracy, neighbours=neighbours)
                meter.start()
                sizes: dict[str, Any] = {
                    "total": steps_per_epoch * batch_size,
                    "initial": first * batch_size,
                }
                with (
                    progress(f"epoch {epoch + 1}/{last}", **sizes) as bar,
                    contextlib.closing(sent_ahead(mesh, batches)) as sent,
                ):
                    for batch in meter.waits(sent):
                        state, metrics = meter.call(update_of(epoch), state, batch, seed)
                        if traced_message := profile.after(metrics):
                            writer.say(traced_message)
                        step += 1
                        meter.add(metrics, batch_size)
                        bar.update(batch_size)
                        leave = stop.name or checkpoints.preempted(step)
                        save = leave or step == last * steps_per_epoch or checkpoints.due(step)
                        if save or step % steps_per_epoch == 0 or meter.due(step):
                            # Also ends a run whose loss is not finite.
                            values = meter.read(step)
                            writer.write("train", step, values)
                            left = (last * steps_per_epoch - step) * batch_size
                            show(bar, values, images_left=left)
                        if save:
                            checkpoints.save(checkpoint_parts(state, feed.state()), step)
                            meter.start()
                        elif step % steps_per_epoch == 0:
                            # An evaluation may follow.
                            check_finite({"variables": variables_of(state)}, step)
                        if leave:
                            checkpoints.check_saved()
                            where = f"step {step} of {last * steps_per_epoch}"
                            writer.say(
                                f"stopped by {leave} at {where}; the same command resumes training"
                            )
                            return False
                epoch, first = epoch + 1, 0
            checkpoints.check_saved()
            record(
                workdir,
                writer,
                state.params,
                step=step,
                steps_per_epoch=steps_per_epoch,
                print_table=True,
            )
            evaluate(state)
            report(writer, workdir, initial=initial)
    return True


@contextlib.contextmanager
def _remedied(workdir: pathlib.Path, checkpoints: Checkpoints, optim: Section) -> Iterator[None]:
    """Add a remedy to a FloatingPointError, and allow the same run to apply it."""
    try:
        yield
    except FloatingPointError as error:
        note_not_finite(workdir)
        saved = checkpoints.latest_step
        start = "there is no checkpoint yet, so it starts anew"
        if saved is not None:
            start = f"it resumes from step {saved}, the last checkpoint before"
        rates = [f"--config.optim.{key}={optim[key] / 10:g}" for key in ("lr", "backbone_lr")]
        clip = optim["clip_norm"]
        raise FloatingPointError(
            f"{error} Repeat the command with lower learning rates, as in {' '.join(rates)}"
            + (f", or with --config.optim.clip_norm={clip / 4:g}" if clip else "")
            + f"; {start}."
        ) from error
