"""Compiled functions: options of the compiler, and sharing among the runs of one process."""

import contextlib
import contextvars
import dataclasses
import functools
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

import jax

# XLA on CPUs hands single operations to the library YNNPACK. Without convolutions, which take up to
# twice as long there as in XLA's own form (docs/speed.md), the list is the default of JAX 0.10.
_FLAG = "xla_cpu_experimental_ynn_fusion_type"
_CPU_OPTIONS = {_FLAG: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"}
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


def network_options(mesh: jax.sharding.Mesh) -> dict[str, str] | None:
    """Return the compiler's options for programs with networks on devices, or None for its own."""
    return _cpu_options() if mesh.devices.flat[0].platform == "cpu" else None


@functools.cache
def _cpu_options() -> dict[str, str] | None:
    """Return `_CPU_OPTIONS`, or None if XLA does not know them or `XLA_FLAGS` decides."""
    if _FLAG in os.environ.get("XLA_FLAGS", ""):
        return None
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return None
    return _CPU_OPTIONS
