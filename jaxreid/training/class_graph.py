"""The class graph of an epoch: which training identities the model takes for each other."""

import dataclasses
import io
import pathlib

import jax
import numpy as np

from jaxreid.data.split import Split
from jaxreid.evaluation.scoring import Scorer
from jaxreid.pictures.canvas import save
from jaxreid.pictures.ranking import Row, Tile, ranking_picture
from jaxreid.runs.files import replace_file
from jaxreid.runs.log import progress

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


def build_class_graph(scorer: Scorer, anchors: Split, count: int) -> ClassGraph:
    """Scores one image of every class against those of all others, on all devices.

    Args:
        scorer: of the model, with its variables.
        anchors: C images, one of each class.
        count: neighbours of each class, below C.

    Source: Liao and Shao, CVPR 2022, arXiv 2104.01546, Section 3.
    """
    classes = len(anchors)
    with progress("graph features", total=classes) as bar:
        features = scorer.encode(anchors.image, anchors.name, bar)
    with progress("graph scores", total=classes**2, unit="pair") as bar:
        found, scores = scorer.nearest(features, features, count + 1, bar)
    # An image is usually the most like itself; where it is not even among the best, the last goes.
    others = found != np.arange(classes)[:, None]
    others[others.all(1), count] = False
    neighbours, scores = (x[others].reshape(classes, count) for x in (found, scores))
    return ClassGraph(neighbours.astype(np.int32), scores)


def nearest_classes(
    scorer: Scorer, anchors: Split, count: int, *, save_as: pathlib.Path | None = None
) -> np.ndarray:
    """The training classes that the model finds most alike.

    Args:
        scorer: of the model, with its variables.
        anchors: C images, one of each class.
        count: neighbours of each class.
        save_as: as for `save_graph`, or None.

    Returns:
        [C, count] int32, the most alike first.
    """
    graph = build_class_graph(scorer, anchors, count)
    if save_as is not None and jax.process_index() == 0:
        save_graph(save_as, graph, anchors)
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
