"""Loaded model: features, scores, ranked lists, explanations, evaluation."""
