"""Data sets by name."""

from jaxreid.data.sets.loading import available, load, load_sets, parse_options

__all__ = ["available", "load", "load_sets", "parse_options"]
