"""Rules for values of settings: valid values, and their description in messages."""

import math
from typing import Any, NamedTuple


class Number(NamedTuple):
    """Rule for numbers from `low` to `high`.

    `above` excludes `low`, `below` excludes `high`, and `whole` requires integers.
    """

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        return f"{'a whole number' if self.whole else 'a number'} {self.range}"

    @property
    def range(self) -> str:
        """The range, for messages."""
        if self.high < math.inf:
            if self.below:
                return f"from {self.low} to less than {self.high}"
            return (
                f"above {self.low}, at most {self.high}"
                if self.above
                else (f"from {self.low} to {self.high}")
            )
        if self.low > -math.inf:
            return f"{'above' if self.above else 'of at least'} {self.low}"
        return "(not nan or inf)"

    def holds(self, value: Any) -> bool:
        """Return whether a value is valid."""
        kinds = int if self.whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if (self.above and value == self.low) or (self.below and value == self.high):
            return False
        return self.low <= value <= self.high


class Numbers(NamedTuple):
    """Rule for tuples of numbers, in ascending order if `rising`.

    A tuple has as many numbers as `example`, or any number of them if `any_length`.
    """

    each: Number
    example: tuple[float, ...]
    rising: bool = False
    any_length: bool = False

    def __str__(self) -> str:
        count = "" if self.any_length else f"{len(self.example)} "
        order = "ascending " if self.rising else ""
        kind = "whole numbers" if self.each.whole else "numbers"
        return f"a tuple of {count}{order}{kind} {self.each.range}, as in {self.example}"

    def holds(self, value: Any) -> bool:
        """Return whether a value is valid."""
        if not isinstance(value, tuple) or not all(self.each.holds(one) for one in value):
            return False
        if not self.any_length and len(value) != len(self.example):
            return False
        return not self.rising or list(value) == sorted(value)


class Choice(NamedTuple):
    """Rule for one of several strings."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"

    def holds(self, value: Any) -> bool:
        """Return whether a value is valid."""
        return value in self.names


class Flag(NamedTuple):
    """Rule for True and False."""

    def __str__(self) -> str:
        return "True or False"

    def holds(self, value: Any) -> bool:
        """Return whether a value is valid."""
        return isinstance(value, bool)


class Text(NamedTuple):
    """Rule for strings; `none` also allows None, `empty` the empty string."""

    example: str
    none: bool = False
    empty: bool = False

    def __str__(self) -> str:
        return f"a string{' or None' * self.none}, as in {self.example!r}"

    def holds(self, value: Any) -> bool:
        """Return whether a value is valid."""
        if isinstance(value, str):
            return bool(value) or self.empty
        return value is None and self.none


class Names(NamedTuple):
    """Rule for tuples of names; `single` also allows one name as a string, `empty` no name."""

    example: str
    single: bool = False
    empty: bool = False

    def __str__(self) -> str:
        return f"a tuple of names, as in ({self.example!r},)"

    def holds(self, value: Any) -> bool:
        """Return whether a value is valid."""
        if isinstance(value, str):
            return self.single and bool(value)
        if not isinstance(value, tuple) or not (value or self.empty):
            return False
        return all(isinstance(name, str) and name for name in value)


class Options(NamedTuple):
    """Rule for dictionaries, which must have a "name" if `named` is set."""

    named: str = ""

    def __str__(self) -> str:
        if self.named:
            return f"a dictionary with a name, as in {{'name': {self.named!r}}}"
        return "a dictionary of options"

    def holds(self, value: Any) -> bool:
        """Return whether a value is valid."""
        if not isinstance(value, dict):
            return False
        return not self.named or isinstance(value.get("name"), str)
