"""Samplers: which images form a batch. NumPy only."""
