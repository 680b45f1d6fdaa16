"""File of a calibration, checked as untrusted input."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

FORMAT = "jaxreid calibration 1"
# File in a work directory.
CALIBRATION = "calibration.json"
# Fields of a calibration that are arrays.
CURVES = ("score", "log_ratio", "rate_score", "rate")
_LONGEST_FILE, _LONGEST_NAME = 2**20, 300


def content_of(path: pathlib.Path) -> bytes:
    """Return the content of a file; raise ValueError if it is longer than any calibration."""
    with path.open("rb") as file:
        content = file.read(_LONGEST_FILE + 1)
    if len(content) > _LONGEST_FILE:
        raise ValueError(
            f"{path} is too long; expected a calibration of at most {_LONGEST_FILE:,} bytes."
        )
    return content


def parsed(content: bytes | str, where: str) -> Any:
    """Return the data of a JSON text; raise ValueError, with the place, if it is not JSON."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error}); expected a calibration.") from error


def checked(data: Any, where: str) -> dict[str, Any]:
    """Return the fields of a calibration; its sets and thresholds are the fields of each.

    Raises:
        ValueError: anything is amiss; the message names the place and the reason.
    """
    try:
        return _checked(data)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{where} is not a calibration of this version ({FORMAT!r}): {reason}. Write it "
            "again: jaxreid calibrate RUN --data=SET."
        ) from error


def _checked(data: Any) -> dict[str, Any]:
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ValueError("it does not declare this format")
    curves = {name: _numbers(data[name], name) for name in CURVES}
    for left, right in (("score", "log_ratio"), ("rate_score", "rate")):
        if len(curves[left]) != len(curves[right]):
            raise ValueError(f"{left} and {right} differ in length")
        if not (np.diff(curves[left]) > 0).all():
            raise ValueError(f"{left} does not ascend")
    if (np.diff(curves["log_ratio"]) < 0).any():
        raise ValueError("log_ratio descends")
    if (np.diff(curves["rate"]) > 0).any() or not (
        (curves["rate"] > 0) & (curves["rate"] <= 1)
    ).all():
        raise ValueError("rate ascends, or is not in (0, 1]")
    sets = [
        {
            **{name: _text(held[name]) for name in ("name", "fingerprint")},
            **{name: _count(held[name]) for name in ("people", "positives", "negatives")},
        }
        for held in _items(data["sets"])
    ]
    thresholds = [
        {
            **{name: float(_numbers([held[name]], name)[0]) for name in ("rate", "score", "error")},
            "by_set": tuple(_numbers(held["by_set"], "by_set").tolist()),
        }
        for held in (_items(data["thresholds"]) if data["thresholds"] else ())
    ]
    own = data["own"]
    if not isinstance(own, bool):
        raise ValueError("own is neither true nor false")
    more = {"sets": sets, "thresholds": thresholds, "own": own}
    return {**curves, **more, "model_digest": _text(data["model_digest"])}


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= 1000:
        raise ValueError("a list is missing, empty or too long")
    return value


def _numbers(value: Any, name: str) -> np.ndarray:
    if not all(type(number) in (int, float) for number in _items(value)):
        raise ValueError(f"{name} holds something else than numbers")
    numbers = np.array(value, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} is not finite")
    return numbers


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value < 2**53:
        raise ValueError(f"{value!r} is not a count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        raise ValueError("a name is not a short line of text")
    return value
