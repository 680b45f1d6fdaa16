"""The class graph of an epoch: which training identities the model takes for each other."""

import dataclasses
import io
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxreid.data.split import Split
from jaxreid.evaluation.scoring import Evaluator
from jaxreid.pictures.canvas import save
from jaxreid.pictures.ranking import Row, Tile, ranking_picture
from jaxreid.runs.files import replace_file

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
    with progress("graph scores", total=classes**2, unit="pair") as bar:
        found, scores = evaluator.nearest(variables, features, features, count + 1, bar.update)
    # An image is usually the most like itself; where it is not even among the best, the last goes.
    others = found != np.arange(classes)[:, None]
    others[others.all(1), count] = False
    neighbours, scores = (x[others].reshape(classes, count) for x in (found, scores))
    return ClassGraph(neighbours.astype(np.int32), scores)


def nearest_classes(
    evaluator: Evaluator,
    variables: Any,
    images: Split,
    load: Callable[[Any], Iterable[np.ndarray]],
    progress: Callable[..., Any],
    anchors: np.ndarray,
    count: int,
    *,
    save_as: pathlib.Path | None,
) -> np.ndarray:
    """The training classes that the model takes for most alike.

    Args:
        evaluator: of the model.
        variables: {"params", "batch_stats"} of the model.
        images: the training set.
        load: from splits to this process's parts of the batches of their images.
        progress: as for `class_graph`.
        anchors: [C] int, an image of every class.
        count: neighbours wanted of each.
        save_as: as for `save_graph`, or None.

    Returns:
        [C, count] int32, the most alike first.
    """
    chosen = images.take(anchors)
    graph = class_graph(evaluator, variables, load((chosen,)), len(chosen), count, progress)
    if save_as is not None and jax.process_index() == 0:
        save_graph(save_as, graph, chosen)
    return graph.neighbours


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
        source=anchors.source,
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
