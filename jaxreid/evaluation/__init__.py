"""Evaluation: features, scores, rankings, results."""
