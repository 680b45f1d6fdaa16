"""Numerical building blocks on plain arrays: no modules, no state."""
