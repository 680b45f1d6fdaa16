"""The record of an architecture search: which candidate each block is about to choose."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreid.mesh import to_host
from jaxreid.models.backbones.osnet import BLOCKS, PLACES
from jaxreid.models.backbones.osnet_search import TINY
from jaxreid.pictures.canvas import save
from jaxreid.pictures.search import architecture_picture
from jaxreid.runs.log import Writer, table, write_json

FORMAT = "jaxreid architecture 1"


def probabilities(params: Mapping[str, Any]) -> np.ndarray:
    """The share of each candidate in its block's architecture weights.

    Args:
        params: of a `SuperNet`.

    Returns:
        [6, 4] float64, blocks by `BLOCKS` and candidates by `PLACES`; rows add up to 1.
    """
    weights = to_host([params[block]["weights"] for block in BLOCKS])
    positive = np.maximum(np.asarray(weights, np.float64), 0) + TINY
    return positive / positive.sum(1, keepdims=True)


def is_search(params: Mapping[str, Any]) -> bool:
    """True if these are the parameters of a `SuperNet`, or the shapes of them."""
    return all("weights" in params.get(block, ()) for block in BLOCKS)


def chosen(shares: np.ndarray) -> list[str]:
    """For each block the most probable of `PLACES`; of equal ones the first.

    Args:
        shares: [6, 4], as `probabilities` gives them.
    """
    return [PLACES[index] for index in shares.argmax(1)]


def record(
    workdir: pathlib.Path,
    writer: Writer,
    params: Mapping[str, Any],
    *,
    step: int,
    steps_per_epoch: int,
    tell: bool = False,
) -> None:
    """Keeps what the search has come to; of a super-network, and at the end of an epoch.

    Left are an event of kind "search" (once for each step), and in the work directory
    `architecture.json`, whose "stem" and "blocks" are options of `make_backbone`, and
    `architecture.png`.

    Args:
        workdir: the work directory.
        writer: of the run.
        params: of a `Model`.
        step: updates so far.
        steps_per_epoch: updates of an epoch; within one, nothing is done.
        tell: say it as a table, too.
    """
    epoch, rest = divmod(step, steps_per_epoch)
    if rest or not is_search(params["backbone"]):
        return
    shares = probabilities(params["backbone"]).round(6)
    if not any(e["kind"] == "search" and e["step"] == step for e in writer.events):
        rows = dict(zip(BLOCKS, shares, strict=True))
        values = {
            f"{block}/{place}": float(share)
            for block, row in rows.items()
            for place, share in zip(PLACES, row, strict=True)
        }
        writer.write("search", step, {"epoch": epoch} | values)
    if tell:
        writer.say(f"candidates of each block, in percent, after epoch {epoch}; * is taken:")
        writer.say(architecture_table(shares))
        writer.say(
            "configs/osnet.py trains this architecture: end its argument with "
            f",architecture={workdir / 'architecture.json'}"
        )
    if jax.process_index() == 0:
        best = {"stem": "instance", "blocks": chosen(shares)}
        content = {"format": FORMAT} | best | {"probabilities": shares.tolist(), "epoch": epoch}
        write_json(workdir / "architecture.json", content)
        save(architecture_picture(history_of(writer.events)), workdir / "architecture.png")


def history_of(events: Sequence[Mapping[str, Any]]) -> list[tuple[int, np.ndarray]]:
    """Epochs so far and probabilities [6, 4], from the events of a run, in their order."""
    return [
        (e["epoch"], np.array([[e[f"{b}/{p}"] for p in PLACES] for b in BLOCKS]))
        for e in events
        if e["kind"] == "search"
    ]


def architecture_table(shares: np.ndarray) -> str:
    """The probabilities of all candidates in percent, with a star at those that are chosen.

    Args:
        shares: [6, 4], as `probabilities` gives them.
    """
    rows = [
        (
            block,
            *(
                f"{'*' if place == best else ''}{100 * share:.1f}"
                for place, share in zip(PLACES, row, strict=True)
            ),
        )
        for block, best, row in zip(BLOCKS, chosen(shares), shares, strict=True)
    ]
    return table(("block", *PLACES), rows)
