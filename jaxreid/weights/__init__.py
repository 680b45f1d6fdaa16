"""Weights on disk: weights files, PyTorch checkpoints, checkpoints of a run."""
