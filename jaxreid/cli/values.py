"""Values of command-line arguments: `type` of `add_argument`."""

import argparse
import contextlib
import math
import os
import pathlib
from collections.abc import Callable

from jaxreid.places import expanded, is_remote

DATASET = "DATASET[/DOMAIN][:PLACE][?OPTION=VALUE]"


def path(text: str) -> pathlib.Path:
    """Parse a path, which may begin with a home directory."""
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def at_least(low: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` on."""

    def number(text: str) -> int:
        if not text.strip("+").isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {low}, got {text}"
            )
        return int(text)

    return number


count = at_least(1)


def within(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`."""

    def number(text: str) -> int:
        if (value := at_least(low)(text)) > high:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at most {high}, got {text}"
            )
        return value

    return number


def real(text: str) -> float:
    """Parse a finite number."""
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")


def between(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of numbers above `low` and below `high`."""

    def number(text: str) -> float:
        if not low < (value := real(text)) < high:
            upper = f" and below {high:g}" if math.isfinite(high) else ""
            raise argparse.ArgumentTypeError(f"expected a number above {low:g}{upper}, got {text}")
        return value

    return number


positive = between(0, math.inf)


def counts(text: str) -> tuple[int, ...]:
    """Parse whole numbers with commas, such as "1,8,64"."""
    return tuple(count(part.strip()) for part in text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Parse whole numbers and ranges with commas, such as "0-4,7"; each once, in their order."""
    chosen: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = (end.strip() for end in part.partition("-"))
        if not (first.isdigit() and (last.isdigit() or not dash)):
            raise argparse.ArgumentTypeError(f"expected numbers such as 0-4 or 0,3,7, got {text!r}")
        chosen |= dict.fromkeys(range(int(first), int(last or first) + 1))
    if not chosen:
        raise argparse.ArgumentTypeError(f"expected numbers that rise, such as 0-4, got {text!r}")
    return tuple(chosen)


def size(text: str) -> tuple[int, int]:
    """Parse height and width from text such as "384x128"."""
    try:
        height, width = (int(number) for number in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected HEIGHTxWIDTH such as 384x128, got {text!r}"
        ) from None
    if min(height, width) < 32:
        raise argparse.ArgumentTypeError(f"expected height and width of at least 32, got {text}")
    return height, width


def check_out(path: pathlib.Path | None, *suffixes: str) -> None:
    """Raise ValueError or OSError if the result could not be written, before any work is done."""
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} must end in {' or '.join(suffixes)}.")
    if is_remote(path):  # folders of a store are names
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to write {path.name} to.")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise OSError(f"cannot write {path}.")
