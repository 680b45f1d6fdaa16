"""The class graph of an epoch: which training identities the model takes for each other."""

import dataclasses
import io
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxreid.data.graph_sampler import nearest_classes
from jaxreid.data.prepared import Split
from jaxreid.evaluate import Evaluator
from jaxreid.files import replace_file
from jaxreid.visualize import Row, Tile, ranking_picture, save

BLOCK = 512  # classes whose scores with all others are held at once
DRAWN = 12  # classes in the picture, with at most as many of their neighbours


@dataclasses.dataclass(frozen=True)
class ClassGraph:
    """Each class, seen in one image of it, with the classes most like it.

    Attributes:
        neighbours: [C, count] int32, the most alike first.
        scores: [C, count] float32, of those; larger is more alike.
    """

    neighbours: np.ndarray
    scores: np.ndarray


def class_graph(
    evaluator: Evaluator,
    variables: Any,
    batches: Iterable[np.ndarray],
    classes: int,
    count: int,
    progress: Callable[..., Any],
) -> ClassGraph:
    """Scores one image of every class against those of all others, on all devices.

    Args:
        evaluator: of the model.
        variables: {"params", "batch_stats"} of the model.
        batches: this process's parts of the batches of one image per class, in their order.
        classes: how many.
        count: neighbours wanted of each.
        progress: makes a progress bar: `progress(what, total=..., unit=...)`.

    Source: Liao and Shao, CVPR 2022, arXiv 2104.01546, Section 3.
    """
    with progress("graph features", total=classes) as bar:
        features = evaluator.features(variables, batches, classes, bar.update)
    neighbours, kept = [], []
    with progress("graph scores", total=classes**2, unit="pair") as bar:
        for first in range(0, classes, BLOCK):
            rows = features[first : first + BLOCK]
            scores = evaluator.scores(variables, rows, features, bar.update)
            neighbours.append(nearest_classes(scores, count, first))
            kept.append(np.take_along_axis(scores, neighbours[-1], axis=1))
    return ClassGraph(np.concatenate(neighbours), np.concatenate(kept))


def save_graph(path: pathlib.Path, graph: ClassGraph, anchors: Split) -> None:
    """Writes a graph as numbers (.npz) and as a picture (.png).

    Args:
        path: without an ending; its directory is made if it is not there.
        graph: the graph.
        anchors: the image of each class.
    """
    path.parent.mkdir(exist_ok=True)
    file = io.BytesIO()
    np.savez_compressed(
        file,
        neighbours=graph.neighbours,
        scores=graph.scores,
        pid=anchors.pid,
        anchor=np.array(anchors.name),
    )
    replace_file(path.with_suffix(".npz"), file.getvalue())
    # From the class that is most confused with another to the one that is least.
    order = np.argsort(-graph.scores[:, 0], kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, DRAWN).round().astype(int))]
    rows = [
        Row(
            f"{anchors.name[c]}",
            Tile(anchors.image[c], f"id {anchors.pid[c]}", None),
            [
                Tile(anchors.image[n], f"id {anchors.pid[n]}  {score:+.2f}", None)
                for n, score in zip(
                    graph.neighbours[c, :DRAWN], graph.scores[c, :DRAWN], strict=True
                )
            ],
        )
        for c in chosen
    ]
    title = "Identities and those most like them; from the most to the least confused"
    save(ranking_picture([(title, rows)]), path.with_suffix(".png"))
