"""Objectives: losses of scores and labels."""

from typing import Any

from jaxreid.names import Table
from jaxreid.training.objectives.objective import Batch, Objective

OBJECTIVES = Table(
    "objective",
    {
        "class_memory": "jaxreid.training.objectives.class_memory:ClassMemoryObjective",
        "pairwise": "jaxreid.training.objectives.pairs:PairwiseObjective",
        "triplet": "jaxreid.training.objectives.pairs:TripletObjective",
        "softmax": "jaxreid.training.objectives.softmax:SoftmaxObjective",
        "arcface": "jaxreid.training.objectives.margins:ArcFaceObjective",
        "cosface": "jaxreid.training.objectives.margins:CosFaceObjective",
        "circle": "jaxreid.training.objectives.circle:CircleObjective",
        "circle_pairs": "jaxreid.training.objectives.circle:CirclePairsObjective",
        "centre": "jaxreid.training.objectives.centre:CentreObjective",
        "gmn": "jaxreid.training.objectives.gmn:GMNObjective",
    },
    base="jaxreid.training.objectives.objective:Objective",
)


def make_objective(
    name: str, *, num_classes: int, axis_name: str | None = None, **options: Any
) -> Objective:
    """Build an objective by name.

    Args:
        name: one of `OBJECTIVES`, or package.module:Class.
        num_classes: training identities.
        axis_name: mesh axis over which the step is divided.
        **options: attributes of the objective.

    Raises:
        ValueError: an unknown name or option, or an option out of its range.
    """
    return OBJECTIVES.make(name, options, num_classes=num_classes, axis_name=axis_name)


__all__ = ["OBJECTIVES", "Batch", "Objective", "make_objective"]
