"""Matchers: two sets of features to scores [Q, G]; larger means more alike."""

from typing import Any

import flax.linen as nn

from jaxreid.models.matchers import qaconv, qaconv_ms
from jaxreid.models.matchers.embedding import Embedding
from jaxreid.models.matchers.metric_network import NETS, MetricNetwork
from jaxreid.models.matchers.qaconv import QAConv
from jaxreid.models.matchers.qaconv_ms import QAConvMS
from jaxreid.names import check_at_least, check_name, check_options
from jaxreid.ops.similarity import METRICS

FEATURES = {  # what each compares
    "qaconv": "map",
    "qaconv_ms": "multi-scale map",
    "embedding": "embedding",
    "metric_network": "embedding",
}
MATCHERS = {
    "qaconv": QAConv,
    "qaconv_ms": QAConvMS,
    "embedding": Embedding,
    "metric_network": MetricNetwork,
}
NAMES = tuple(MATCHERS)
HEADS = {"qaconv": qaconv.HEADS, "qaconv_ms": qaconv_ms.HEADS}


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
    check_options(MATCHERS[name], options, f"matcher {name!r}")
    if name == "embedding":
        check_name(options.get("metric", "cosine"), METRICS, "matcher.metric")
        return Embedding(**options)
    check_at_least(options, {"hidden": 1, "patch": 1, "statistics_chunk": 0}, "matcher")
    if name == "metric_network":
        check_name(options.get("net", "perceptron"), NETS, "matcher.net")
        return MetricNetwork(axis_name=axis_name, **options)
    check_name(options.get("head", HEADS[name][0]), HEADS[name], "matcher.head")
    if options.get("patch", 1) % 2 == 0:
        raise ValueError(f"matcher.patch is {options['patch']}; needed is an odd number.")
    return MATCHERS[name](axis_name=axis_name, **options)
