"""Class graph of an epoch: the most similar training identities of each identity."""

import dataclasses
import io
import pathlib

import jax
import numpy as np

from jaxreid.data.split import Split
from jaxreid.evaluation.scoring import Scorer
from jaxreid.evaluation.shortlist import check_matcher, check_window, pool_maps
from jaxreid.models.model import Model, abstract_variables, feature_shape
from jaxreid.pictures.canvas import save
from jaxreid.pictures.ranking import Row, Tile, ranking_picture
from jaxreid.runs.files import replace_file
from jaxreid.runs.log import progress

# Maximum number of classes in the picture, and of neighbours of each.
DRAWN = 12


@dataclasses.dataclass(frozen=True)
class ClassGraph:
    """Nearest classes of each class, each represented by one image.

    Attributes:
        neighbours: [C, count] int32, most similar first.
        scores: [C, count] float32, scores of the neighbours; larger is more similar.
    """

    neighbours: np.ndarray
    scores: np.ndarray


def check_graph_window(model: Model, window: tuple[int, ...]) -> None:
    """Raise ValueError if the class graph of a model cannot match maps pooled by this window."""
    off = "sampler.graph_window=(1, 1)"
    if tuple(window) != (1, 1):
        check_matcher(model.matcher, off=off)
        shape = feature_shape(model, abstract_variables(model))
        check_window(shape, window, setting="sampler.graph_window", off=off)


def build_class_graph(
    scorer: Scorer, anchors: Split, count: int, *, window: tuple[int, int] = (1, 1)
) -> ClassGraph:
    """Score one image of every class against all others, on all devices.

    Args:
        scorer: model with its variables.
        anchors: C images, one per class.
        count: neighbours per class, below C.
        window: rows and columns of the maps that are pooled before they are matched; the cost of
            the graph falls with the square of their product.

    Raises:
        ValueError: the features cannot be pooled by `window`.

    Source: Liao and Shao, CVPR 2022, arXiv 2104.01546, Section 3.
    """
    classes = len(anchors)
    with progress("graph features", total=classes) as bar:
        features = scorer.encode(anchors.image, anchors.name, bar)
    if tuple(window) != (1, 1):
        features, scorer = pool_maps(features, window), scorer.coarser(window)
    with progress("graph scores", total=classes**2, unit="pair") as bar:
        indices, scores = scorer.nearest(features, features, count + 1, bar)
    # An image is usually its own nearest neighbour, which is removed. If it is not among the
    # nearest, the last of them is removed instead.
    others = indices != np.arange(classes)[:, None]
    others[others.all(1), count] = False
    neighbours, scores = (x[others].reshape(classes, count) for x in (indices, scores))
    return ClassGraph(neighbours.astype(np.int32), scores)


def nearest_classes(
    scorer: Scorer,
    anchors: Split,
    count: int,
    *,
    window: tuple[int, int] = (1, 1),
    save_as: pathlib.Path | None = None,
) -> np.ndarray:
    """Build the class graph and return its neighbours; process 0 saves it if `save_as` is set.

    See `build_class_graph` and `save_graph` for the arguments.
    """
    graph = build_class_graph(scorer, anchors, count, window=window)
    if save_as is not None and jax.process_index() == 0:
        save_graph(save_as, graph, anchors)
    return graph.neighbours


def save_graph(path: pathlib.Path, graph: ClassGraph, anchors: Split) -> None:
    """Write a graph as numbers (PATH.npz) and as a picture (PATH.png).

    The directory of `path` is created if necessary.
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
    # Evenly spaced from the most to the least confused class.
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
    title = "Identities and their most similar identities, from the most to the least confused"
    save(ranking_picture([(title, rows)]), path.with_suffix(".png"))
