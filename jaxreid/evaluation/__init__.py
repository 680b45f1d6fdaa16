"""Evaluation: features once, scores, rankings, results."""
