"""Decorators that register custom components under a name, in this process.

    @jaxreid.register.matcher("mine")
    class Mine(Matcher): ...

Select it with `--config.model.matcher.name=mine` or `{"name": "mine"}`. Any importable component
can also be used without registration, under the name "package.module:Class". A package provides
names permanently through entry points in the group `jaxreid.matcher` (`jaxreid.backbone`, ...).
Tables are imported on first use. Every decorator raises ValueError if the name is taken.
"""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
Decorator = Callable[[T], T]


def backbone(name: str) -> Decorator:
    """Register a `models.backbones.backbone.Backbone`: images to a feature map."""
    from jaxreid.models.backbones import BACKBONES

    return BACKBONES.register(name)


def neck(name: str) -> Decorator:
    """Register a `models.necks.neck.Neck`: feature maps to features."""
    from jaxreid.models.necks import NECKS

    return NECKS.register(name)


def matcher(name: str) -> Decorator:
    """Register a `models.matchers.matcher.Matcher`: features to scores."""
    from jaxreid.models.matchers import MATCHERS

    return MATCHERS.register(name)


def objective(name: str) -> Decorator:
    """Register a `training.objectives.Objective`: scores and labels to a loss."""
    from jaxreid.training.objectives import OBJECTIVES

    return OBJECTIVES.register(name)


def dataset(name: str) -> Decorator:
    """Register a data set; see `data.sets.SETS`."""
    from jaxreid.data.sets import SETS

    return SETS.register(name)
