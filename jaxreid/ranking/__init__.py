"""From scores to ranks: the cross-camera retrieval metrics."""

from jaxreid.ranking.metrics import QueryRanks, rank_queries, summarize, top_matches

__all__ = ["QueryRanks", "rank_queries", "summarize", "top_matches"]
