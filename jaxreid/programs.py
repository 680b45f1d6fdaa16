"""Compiled functions that the runs of one process share."""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

# Results kept: those of a few recipes, a program each.
LARGEST = 32
Maker = TypeVar("Maker", bound=Callable[..., Any])
_HELD: contextvars.ContextVar[dict[Hashable, Any] | None] = contextvars.ContextVar(
    "shared", default=None
)


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Make `shared` functions reuse, in this context, their results for equal arguments.

    The `LARGEST` results that were used last are kept.
    """
    token = _HELD.set({})
    try:
        yield
    finally:
        _HELD.reset(token)


def shared(make: Maker) -> Maker:
    """Decorate a function that makes compiled functions, for `sharing`.

    Its arguments are plain data, meshes, functions, modules and other dataclasses; results for
    unhashable arguments are not shared.
    """

    @functools.wraps(make)
    def call(*args: Any, **keywords: Any) -> Any:
        held = _HELD.get()
        if held is None:
            return make(*args, **keywords)
        try:
            key = _key((make, args, keywords))
            result = held.pop(key, None)
        except TypeError:
            # Something in it is unhashable.
            return make(*args, **keywords)
        held[key] = make(*args, **keywords) if result is None else result
        if len(held) > LARGEST:
            del held[next(iter(held))]
        return held[key]

    return call  # type: ignore[return-value]


def _key(value: Any) -> Hashable:
    """Return a key that is equal for equal values of one type; 1, 1.0 and True differ."""
    if isinstance(value, Mapping):
        return "mapping", frozenset((name, _key(one)) for name, one in value.items())
    if isinstance(value, list | tuple):
        return "sequence", tuple(map(_key, value))
    if isinstance(value, functools.partial):
        return "partial", _key((value.func, value.args, value.keywords))
    # Also Flax modules, whose own hash refuses dictionaries.
    if dataclasses.is_dataclass(value) and type(value).__eq__ is not object.__eq__:
        return type(value), _key(
            {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        )
    return type(value), value
