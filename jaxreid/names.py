"""Choosing things by name, with an error that helps."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

# Fields of modules that are no settings.
_NOT_OPTIONS = ("parent", "name", "dtype", "axis_name")


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


def check_options(made: type, given: Mapping[str, Any], what: str) -> None:
    """Refuses what a module has no attribute for, which its constructor would not do in words.

    Args:
        made: a dataclass, such as a Linen module.
        given: keywords for it.
        what: is made, for the message ("neck 'map'").

    Raises:
        ValueError: there is no such attribute; lists those there are.
    """
    options = [f.name for f in dataclasses.fields(made) if f.name not in _NOT_OPTIONS]
    if unknown := sorted(given.keys() - set(options)):
        has = f"it has {', '.join(options)}" if options else "it has none"
        raise ValueError(
            f"{what} has no option {', '.join(unknown)}; {has}. With another name, give the "
            "section as a whole, as in --config.model.neck=\"{'name': 'map', 'channels': 128, "
            "'norm': 'none'}\"."
        )


def check_at_least(given: Mapping[str, Any], least: Mapping[str, int], what: str) -> None:
    """Refuses numbers that are too small, or no whole numbers.

    Args:
        given: settings; only those in `least` are looked at.
        least: the smallest valid value of each.
        what: they are of, for the message ("neck").

    Raises:
        ValueError: says which, and what is needed.
    """
    for name, smallest in least.items():
        value = given.get(name, smallest)
        if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
            raise ValueError(
                f"{what}.{name} is {value}; needed is a whole number of at least {smallest}."
            )
