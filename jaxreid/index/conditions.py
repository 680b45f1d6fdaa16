"""Conditions on the rows of an index, in the SQL of LanceDB."""

import contextlib
import datetime
import math
from collections.abc import Iterable, Sequence

Names = str | Sequence[str] | None
Moment = float | str | datetime.datetime | None


def condition(
    *,
    id: Names = None,
    path: Names = None,
    camera: Names = None,
    person: Names = None,
    after: Moment = None,
    before: Moment = None,
) -> str:
    """Return the condition that all of these hold; "" without any.

    Args:
        id: one of these ids.
        path: one of these paths, or below one of these folders.
        camera: one of these cameras.
        person: one of these people.
        after: at this time or later, as for `seconds`.
        before: at this time or earlier.

    Raises:
        ValueError: a time cannot be read, or a list is empty.
    """
    parts = []
    for column, names in (("id", id), ("camera", camera), ("person", person)):
        if names is not None:
            parts.append(f"{column} IN ({', '.join(map(_quoted, _listed(names, column)))})")
    if path is not None:
        paths = _listed(path, "path")
        below = " OR ".join(f"starts_with(path, {_quoted(p.rstrip('/') + '/')})" for p in paths)
        parts.append(f"(path IN ({', '.join(map(_quoted, paths))}) OR {below})")
    for sign, moment in ((">=", after), ("<=", before)):
        if moment is not None:
            parts.append(f"time {sign} CAST({seconds(moment)!r} AS DOUBLE)")
    return " AND ".join(parts)


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


def _listed(names: str | Iterable[str], column: str) -> list[str]:
    listed = [names] if isinstance(names, str) else [str(name) for name in names]
    if not listed:
        raise ValueError(f"no {column} given; expected at least one, or None for all.")
    return listed


def _quoted(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"{text!r} has a zero byte.")
    return "'" + text.replace("'", "''") + "'"
