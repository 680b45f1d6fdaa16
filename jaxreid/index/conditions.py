"""Conditions on the rows of an index, in the SQL of LanceDB."""

import contextlib
import datetime
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Names = str | Sequence[str] | None
Moment = float | str | datetime.datetime | None


def condition(**conditions: Any) -> str:
    """Return the condition that all of these hold; "" without any.

    Args:
        **conditions: as for `Index.remove`; None for any.

    Raises:
        ValueError: a time cannot be read, or a list is empty.
    """
    return " AND ".join(
        _SQL[name](value) for name, value in conditions.items() if value is not None
    )


def seconds(moment: float | str | datetime.datetime) -> float:
    """Return a time in seconds.

    Args:
        moment: seconds, or a date, also as text in ISO 8601 (UTC without a zone).

    Raises:
        ValueError: it is neither.
    """
    if isinstance(moment, str):
        moment = _read(moment)
    if isinstance(moment, datetime.datetime):
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    if not math.isfinite(moment):
        raise ValueError(f"time is {moment}; expected a finite number of seconds.")
    return float(moment)


def _read(text: str) -> float | datetime.datetime:
    for read in (float, datetime.datetime.fromisoformat):
        with contextlib.suppress(ValueError):
            return read(text)
    raise ValueError(f"time is {text!r}; expected seconds, or a date such as 2026-11-27T09:30:12.")


def _one_of(column: str, names: str | Sequence[str]) -> str:
    return f"{column} IN ({', '.join(map(_quoted, _listed(names, column)))})"


def _at_or_below(path: str | Sequence[str]) -> str:
    paths = _listed(path, "path")
    below = " OR ".join(f"starts_with(path, {_quoted(p.rstrip('/') + '/')})" for p in paths)
    return f"({_one_of('path', paths)} OR {below})"


def _seen(sign: str, moment: float | str | datetime.datetime) -> str:
    return f"time {sign} CAST({seconds(moment)!r} AS DOUBLE)"


_SQL: Mapping[str, Callable[[Any], str]] = {
    **{column: functools.partial(_one_of, column) for column in ("id", "camera", "person")},
    "path": _at_or_below,
    "after": functools.partial(_seen, ">="),
    "before": functools.partial(_seen, "<="),
}


def _listed(names: str | Iterable[str], column: str) -> list[str]:
    listed = [names] if isinstance(names, str) else [str(name) for name in names]
    if not listed:
        raise ValueError(f"no {column} given; expected at least one, or None for all.")
    return listed


def _quoted(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"{text!r} has a zero byte.")
    return "'" + text.replace("'", "''") + "'"
