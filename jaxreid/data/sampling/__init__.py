"""Samplers, which choose the images of each batch. NumPy only."""
