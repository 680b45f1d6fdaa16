"""Matchers: query and gallery features to scores [Q, G]; a larger score means more similar."""

from collections.abc import Mapping
from typing import Any

from jaxreid.models.matchers.matcher import Matcher
from jaxreid.names import Table

MATCHERS = Table(
    "matcher",
    {
        "qaconv": "jaxreid.models.matchers.qaconv:QAConv",
        "qaconv_ms": "jaxreid.models.matchers.qaconv_ms:QAConvMS",
        "transmatcher": "jaxreid.models.matchers.transmatcher:TransMatcher",
        "embedding": "jaxreid.models.matchers.embedding:Embedding",
        "metric_network": "jaxreid.models.matchers.metric_network:MetricNetwork",
    },
    base="jaxreid.models.matchers.matcher:Matcher",
)


def make_matcher(
    name: str,
    *,
    parts: Mapping[str, int] | None = None,
    shared: int = 0,
    axis_name: str | None = None,
    **options: Any,
) -> Matcher:
    """Build a matcher.

    Args:
        name: one of `MATCHERS`, or package.module:Class.
        parts: `Features.parts` of the neck.
        shared: `Features.shared` of the neck.
        axis_name: mesh axis over which the training batch is sharded.
        **options: attributes of the matcher.

    Raises:
        ValueError: unknown name or option, or option out of range.
    """
    context = {"parts": dict(parts or {}), "shared": shared, "axis_name": axis_name}
    return MATCHERS.make(name, options, **context)
