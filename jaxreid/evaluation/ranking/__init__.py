"""Cross-camera retrieval metrics: from scores to ranks."""

from jaxreid.evaluation.ranking.metrics import QueryRanks, rank_queries, summarize, top_matches
from jaxreid.evaluation.ranking.protocol import choose_rule, count_matches, junk_groups, protocol_of

__all__ = [
    "QueryRanks",
    "choose_rule",
    "count_matches",
    "junk_groups",
    "protocol_of",
    "rank_queries",
    "summarize",
    "top_matches",
]
