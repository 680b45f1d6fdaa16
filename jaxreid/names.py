"""Choosing things by name, with an error that helps."""

import difflib
from collections.abc import Iterable


def check_name(name: str, valid: Iterable[str], what: str) -> str:
    """Returns `name` if it is valid.

    Args:
        name: what the user wrote.
        valid: the names there are.
        what: what is being named, for the message ("backbone").

    Raises:
        ValueError: the name is unknown; lists the valid ones, the nearest first.
    """
    valid = list(valid)
    if name in valid:
        return name
    near = difflib.get_close_matches(str(name), valid, n=len(valid), cutoff=0.0)
    order = near + [other for other in valid if other not in near]
    raise ValueError(f"unknown {what} {name!r}; valid: {', '.join(order)}.")
