"""Decorators that make a part of one's own available under a name, for this process.

    @jaxreid.register.matcher("mine")
    class Mine(Matcher): ...

`--config.model.matcher.name=mine` and `{"name": "mine"}` then choose it. Without registration, any
importable one has the name "package.module:Class"; a package can offer names for good by an entry
point in the group `jaxreid.matcher` (and so on). Tables are imported when they are needed.
"""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
Decorator = Callable[[T], T]


def backbone(name: str) -> Decorator:
    """Registers a `models.backbones.backbone.Backbone`: images to a feature map.

    Raises:
        ValueError: the name is taken by something else.
    """
    from jaxreid.models.backbones import BACKBONES

    return BACKBONES.register(name)


def neck(name: str) -> Decorator:
    """Registers a `models.necks.neck.Neck`: feature maps to features.

    Raises:
        ValueError: the name is taken by something else.
    """
    from jaxreid.models.necks import NECKS

    return NECKS.register(name)


def matcher(name: str) -> Decorator:
    """Registers a `models.matchers.matcher.Matcher`: features to scores.

    Raises:
        ValueError: the name is taken by something else.
    """
    from jaxreid.models.matchers import MATCHERS

    return MATCHERS.register(name)


def objective(name: str) -> Decorator:
    """Registers a `training.objectives.Objective`: scores and labels to a loss.

    Raises:
        ValueError: the name is taken by something else.
    """
    from jaxreid.training.objectives import OBJECTIVES

    return OBJECTIVES.register(name)


def dataset(name: str) -> Decorator:
    """Registers a data set, as `data.sets.SETS` holds them.

    Raises:
        ValueError: the name is taken by something else.
    """
    from jaxreid.data.sets import SETS

    return SETS.register(name)
