"""Record of an architecture search: probabilities of the candidates of each block."""

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
    """Compute the probability of each candidate from the architecture weights of a `SuperNet`.

    Returns:
        [6, 4] float64, blocks in the order of `BLOCKS` and candidates in that of `PLACES`; rows sum
        to 1.
    """
    weights = to_host([params[block]["weights"] for block in BLOCKS])
    positive = np.maximum(np.asarray(weights, np.float64), 0) + TINY
    return positive / positive.sum(1, keepdims=True)


def is_search(params: Mapping[str, Any]) -> bool:
    """Return whether these are the parameters of a `SuperNet`, or their shapes."""
    return all("weights" in params.get(block, ()) for block in BLOCKS)


def chosen(shares: np.ndarray) -> list[str]:
    """Return the most probable of `PLACES` for each block, from [6, 4]; the first one if tied."""
    return [PLACES[index] for index in shares.argmax(1)]


def record(
    workdir: pathlib.Path,
    writer: Writer,
    params: Mapping[str, Any],
    *,
    step: int,
    steps_per_epoch: int,
    print_table: bool = False,
) -> None:
    """Save the state of a search at the end of an epoch; does nothing for other backbones.

    Writes an event of kind "search" (once per step), and to the work directory
    `architecture.json`, whose "stem" and "blocks" are options of `make_backbone`, and
    `architecture.png`.

    Args:
        workdir: work directory.
        writer: event log of the run.
        params: parameters of a `Model`.
        step: updates so far.
        steps_per_epoch: updates per epoch; within an epoch, nothing is saved.
        print_table: also print a table.
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
    if print_table:
        writer.say(f"candidates of each block, in percent, after epoch {epoch}; * is the best:")
        writer.say(architecture_table(shares))
        writer.say(
            "to train this architecture with configs/osnet.py, append to its argument "
            f",architecture={workdir / 'architecture.json'}"
        )
    if jax.process_index() == 0:
        best = {"stem": "instance", "blocks": chosen(shares)}
        content = {"format": FORMAT} | best | {"probabilities": shares.tolist(), "epoch": epoch}
        write_json(workdir / "architecture.json", content)
        save(architecture_picture(history_of(writer.events)), workdir / "architecture.png")


def history_of(events: Sequence[Mapping[str, Any]]) -> list[tuple[int, np.ndarray]]:
    """Return (epochs so far, probabilities [6, 4]) for each search event, in order."""
    return [
        (e["epoch"], np.array([[e[f"{b}/{p}"] for p in PLACES] for b in BLOCKS]))
        for e in events
        if e["kind"] == "search"
    ]


def architecture_table(shares: np.ndarray) -> str:
    """Format the `probabilities` [6, 4] in percent, with a star at the best of each block."""
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
