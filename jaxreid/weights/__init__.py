"""Weights on disk: files of weights, PyTorch checkpoints, checkpoints of a run."""
