"""Fine-tuning of a model on a user's own people, measured before and after."""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.configs import finetuning as values  # type: ignore[attr-defined]
from jaxreid.data import sets
from jaxreid.data.sets.division import FEWEST
from jaxreid.data.sets.resolving import OWN, named_set
from jaxreid.data.split import Split
from jaxreid.mesh import make_mesh
from jaxreid.models.matchers import MATCHERS
from jaxreid.places import expanded, place
from jaxreid.runs.settings import check_tensorflow, resolved
from jaxreid.training.loop import train
from jaxreid.weights.source import open_weights

# Other people, to measure forgetting: a small set that is drawn on any machine.
KEPT = ("synthetic_people/plaza?train_ids=2&test_ids=20&distractors=0",)


def finetune(
    model: str | os.PathLike,
    data: str | os.PathLike,
    workdir: str | os.PathLike,
    *,
    keep: Sequence[str] = KEPT,
    epochs: int | None = None,
    rate: float = 1.0,
    seed: int = 0,
) -> list[dict[str, Any]] | None:
    """Fine-tune a model on one's own people, or resume that.

    Args:
        model: run or weights file to start from, as for `jaxreid.load`.
        data: own people: a folder, a table, or a data set by its name. Folders and tables that do
            not say how they are divided are divided by `split=learn`: the model is measured on
            people, or with less than 20 people on images, that it does not learn from.
        workdir: work directory of the run; created.
        keep: data sets on which forgetting is measured.
        epochs: number of epochs; None: about `configs.finetuning.STEPS` updates.
        rate: factor of the learning rates of `configs.finetuning`.
        seed: run seed.

    Returns:
        For each test set "set", "own" (whether it is of the user's people), and "before" and
        "after": {"rank1", "mAP"}; None if a signal stopped the training, which the same call
        resumes.

    Raises:
        ValueError, OSError: people or images are too few, or a set or the model cannot be read.
        ModuleNotFoundError: TensorFlow, which training needs, is not installed.
    """
    check_tensorflow()
    config = make_config(model, data, keep=keep, epochs=epochs, rate=rate, seed=seed)
    if not train(config, workdir):
        return None
    return compared(place(workdir), own=config["data"]["train"])


def make_config(
    model: str | os.PathLike,
    data: str | os.PathLike,
    *,
    keep: Sequence[str] = KEPT,
    epochs: int | None = None,
    rate: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the configuration of a fine-tuning; arguments as for `finetune`.

    Raises:
        ValueError, OSError: as `finetune`.
    """
    card = {key: value for key, value in open_weights(model).card.items() if key != "classes"}
    name = own_name(data)
    with _quiet():
        splits = sets.load(name)
    people = check_people(name, splits)
    size = people, len(splits["train"]), make_mesh().size
    config = values.get_settings(*size).to_dict()
    matcher, _ = MATCHERS.find(card["matcher"]["name"])
    config["model"] = {**config["model"], **card, "freeze_stats": True}
    config["objective"] = dict(matcher.LEARNS)
    config["init_from"], config["seed"] = os.fspath(place(model)), seed
    config["data"] |= {"train": (name,), "test": (name, *keep)}
    config["optim"]["lr"] *= rate
    config["optim"]["backbone_lr"] *= rate
    if epochs is not None:
        config["epochs"] = epochs
    return resolved(config)


def own_name(data: str | os.PathLike) -> str:
    """Return the name of a data set for a folder, a table or a name, with how it is divided."""
    text = os.fspath(data)
    path = expanded(text)
    if path.is_dir() or path.is_file():
        text = f"{'folder' if path.is_dir() else 'table'}:{text}"
    named = named_set(text)
    if named.base not in OWN or "split" in dict(named.options):
        return text
    return f"{text}{'&' if named.options else '?'}split=learn"


def check_people(name: str, splits: Mapping[str, Split]) -> int:
    """Return the number of people to learn from.

    Raises:
        ValueError: nobody trains, nothing can be tested, or too few people have two images.
    """
    for part in ("train", "query", "gallery"):
        if part not in splits:
            raise ValueError(
                f"{name} has no {part} split; expected train, query and gallery, to learn and to "
                "measure. Leave out the option split, so that it is divided for fine-tuning."
            )
    pids, counts = np.unique(splits["train"].pid, return_counts=True)
    several, others = int((counts > 1).sum()), set(splits["query"].pid.tolist()) - {*pids.tolist()}
    # Of the fewest, some may be held out.
    if several < FEWEST - 2 or several + len(others) < FEWEST:
        raise ValueError(
            f"{name}: {len(pids)} people to learn from, {several} of them on two images or more; "
            f"expected at least {FEWEST} people with two images each. A model learns from what two "
            "images of a person have in common and from how people differ."
        )
    return len(pids)


def compared(workdir: pathlib.Path, *, own: Sequence[str]) -> list[dict[str, Any]]:
    """Return the results of a run before and after, by test set; see `finetune`."""
    rows = json.loads((workdir / "results.json").read_text())["results"]
    results: dict[str, dict[str, Any]] = {}
    titles = {named_set(name).key for name in own}
    for row in rows:
        if row.get("variant", "plain") != "plain":
            continue
        name = row["set"]
        entry = results.setdefault(name, {"set": name, "own": name in titles})
        when = "after" if row["model"] == "trained" else "before"
        entry[when] = {"rank1": row["rank1"], "mAP": row["mAP"]}
    return list(results.values())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave notices about data to the training, which reads them again."""
    logger = logging.getLogger(sets.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
