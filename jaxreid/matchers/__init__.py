"""Matchers: two sets of features to scores [Q, G]; larger means more alike."""

from typing import Any

import flax.linen as nn

from jaxreid.matchers.embedding import Embedding
from jaxreid.matchers.metric_network import NETS, MetricNetwork
from jaxreid.matchers.qaconv import HEADS, QAConv
from jaxreid.matchers.qaconv_ms import HEADS as MS_HEADS
from jaxreid.matchers.qaconv_ms import QAConvMS
from jaxreid.names import check_name
from jaxreid.ops.similarity import METRICS

FEATURES = {  # what each compares
    "qaconv": "map",
    "qaconv_ms": "multi-scale map",
    "embedding": "embedding",
    "metric_network": "embedding",
}
NAMES = tuple(FEATURES)


def make_matcher(name: str, *, axis_name: str | None = None, **options: Any) -> nn.Module:
    """A matcher by name.

    Args:
        name: one of `NAMES`.
        axis_name: mesh axis over which a training batch is spread.
        **options: attributes of the matcher.

    Raises:
        ValueError: an unknown name, or an option out of its range.
    """
    check_name(name, NAMES, "matcher")
    if name == "embedding":
        check_name(options.get("metric", "cosine"), METRICS, "matcher.metric")
        return Embedding(**options)
    if name == "metric_network":
        check_name(options.get("net", "perceptron"), NETS, "matcher.net")
        if options.get("hidden", 1) < 1:
            raise ValueError(f"matcher.hidden is {options['hidden']}; needed is at least 1.")
        return MetricNetwork(axis_name=axis_name, **options)
    if name == "qaconv_ms":
        check_name(options.get("head", "perceptron"), MS_HEADS, "matcher.head")
        lists = {k: tuple(v) for k, v in options.items() if k == "parts"}  # JSON has no tuples
        return QAConvMS(axis_name=axis_name, **options | lists)
    check_name(options.get("head", "v2.1"), HEADS, "matcher.head")
    return QAConv(axis_name=axis_name, **options)
