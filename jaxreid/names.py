"""Look up components by name, with helpful errors."""

import contextlib
import dataclasses
import difflib
import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_origin

T = TypeVar("T")
# Variable of the environment: modules that files may name, separated by commas.
ALLOW = "JAXREID_ALLOW"
# Fields of every Linen module.
_LINEN = ("parent", "name")


def check_name(name: str, valid: Iterable[str], what: str) -> str:
    """Return `name` if it is valid; `what` is the kind of thing, for the message ("backbone").

    Raises:
        ValueError: unknown name; the message lists the valid ones, nearest first.
    """
    valid = list(valid)
    if name in valid:
        return name
    raise ValueError(f"unknown {what} {name!r}; valid: {', '.join(nearest(name, valid))}.")


def nearest(name: str, valid: Iterable[str]) -> list[str]:
    """Sort the valid names by similarity to `name`."""
    valid = list(valid)
    near = difflib.get_close_matches(str(name), valid, n=len(valid), cutoff=0.0)
    return near + [other for other in valid if other not in near]


def check_trusted(name: Any, kind: str, source: Any) -> None:
    """Refuse a name from a file whose module nobody has imported or allowed: imports run code.

    Files may come from anywhere. Names of tables are harmless; `package.module:attribute` is
    accepted if the module is imported already or is listed in `ALLOW`.

    Args:
        name: name of the thing, as it is in the file.
        kind: kind of thing, for the message ("matcher").
        source: the file.

    Raises:
        ValueError: importing the module was not allowed.
    """
    module, colon, _ = str(name).partition(":")
    allowed = os.environ.get(ALLOW, "").replace(" ", "").split(",")
    if colon and module not in sys.modules and module not in allowed:
        raise ValueError(
            f"{source} names the {kind} {name!r}, outside of jaxreid; expected a name of jaxreid, "
            f"or a module that you have allowed, because importing {module!r} runs its code. If "
            f"you trust it, set the environment variable {ALLOW}={module}, or import {module} "
            "first."
        )


def check_at_least(given: Mapping[str, Any], least: Mapping[str, int], what: str) -> None:
    """Check that the settings in `least` are whole numbers of at least the value there.

    The message prefixes settings with `what`, their section ("neck").

    Raises:
        ValueError: a value is too small or not a whole number.
    """
    for name, smallest in least.items():
        value = given.get(name, smallest)
        if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
            raise ValueError(
                f"{what}.{name} is {value}; expected a whole number of at least {smallest}."
            )


class Table:
    """Registry of classes or functions by name: built-in, registered, or any importable one.

    A name is looked up among the entries, then among the entry points of installed packages (group
    `jaxreid.<kind>`). A name `package.module:attribute` is imported directly. Entries are imported
    on lookup. The options of a class or function are its keywords.

    Args:
        kind: kind of thing, for messages and the entry point group ("matcher").
        entries: "package.module:attribute" by name.
        base: required base class, as "package.module:Class".
    """

    def __init__(self, kind: str, entries: Mapping[str, str], *, base: str | None = None) -> None:
        self.kind, self._base = kind, base
        self._entries: dict[str, tuple[Any, dict[str, Any]]] = {
            n: (e, {}) for n, e in entries.items()
        }

    def add(self, names: Mapping[str, Mapping[str, Any]], thing: Any) -> None:
        """Add a family: one class or function under several names that imply options.

        Args:
            names: options implied by each name.
            thing: "package.module:attribute", or the class or function itself.
        """
        self._entries |= {name: (thing, dict(implied)) for name, implied in names.items()}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a class or function under a name in this process.

        Registering the same class or function twice is allowed.

        Raises:
            ValueError: the name is taken.
        """

        def decorate(thing: T) -> T:
            existing = self._entries.get(name, (thing,))[0]
            if existing is not thing and _address(existing) != _address(thing):
                raise ValueError(f"{self.kind} {name!r} already exists: {_address(existing)}.")
            self._entries[name] = (thing, {})
            return thing

        return decorate

    @property
    def names(self) -> tuple[str, ...]:
        """All names, entries before entry points; excludes names `package.module:attribute`."""
        return (*self._entries, *(p.name for p in self._points() if p.name not in self._entries))

    def names_where(self, condition: Callable[[Any], bool]) -> list[str]:
        """List the names whose class or function satisfies a condition.

        Names that cannot be imported, or for which the condition fails with AttributeError,
        TypeError or ValueError, are left out.
        """
        matching = []
        for name in self.names:
            with contextlib.suppress(AttributeError, TypeError, ValueError):
                matching += [name] if condition(self.find(name)[0]) else []
        return matching

    def find(self, name: str) -> tuple[Any, dict[str, Any]]:
        """Return the class or function of a name and the options that the name implies.

        Raises:
            ValueError: the name is unknown or cannot be imported.
        """
        if name in self._entries:
            thing, implied = self._entries[name]
            return (_imported(thing, self.kind) if isinstance(thing, str) else thing), implied
        for point in self._points():
            if point.name == name:
                return _imported(point.value, self.kind), {}
        if ":" in str(name):
            return _imported(name, self.kind), {}
        check_name(name, self.names, self.kind)
        # Unreachable: check_name has raised.
        raise AssertionError

    def make(self, name: str, options: Mapping[str, Any], **context: Any) -> Any:
        """Construct a component by name, with its options.

        Args:
            name: as for `find`.
            options: keywords; lists, as from JSON, become tuples.
            **context: further keywords, passed if the component has them; not valid as options.

        Raises:
            ValueError: unknown name, wrong base class, unknown or missing option, wrong type, or a
                value rejected by the component's `validate`.
        """
        thing, implied = self.find(name)
        if self._base and not (isinstance(thing, type) and issubclass(thing, self._of_base())):
            raise ValueError(f"{self.kind} {name!r} is not a subclass of {self._base}.")
        fields = keywords_of(thing)
        # Attributes that only the name sets.
        fixed = getattr(thing, "IMPLIED", ())
        valid = [f for f in fields if f not in fixed and f not in context]
        if unknown := sorted(options.keys() - set(valid)):
            has = f"it has {', '.join(valid)}" if valid else "it has none"
            section = self.kind if self.kind == "objective" else f"model.{self.kind}"
            keywords = ", ".join([f"'name': {name!r}", *(f"'{o}': ..." for o in valid[:2])])
            raise ValueError(
                f"{self.kind} {name!r} has no option {', '.join(unknown)}; {has}. To change the "
                f'name, set the whole section, as in --config.{section}="{{{keywords}}}".'
            )
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        _check_types(thing, options, self.kind)
        keywords = implied | options | {k: v for k, v in context.items() if k in fields}
        if missing := [name for name in required_by(thing) if name not in keywords]:
            raise ValueError(f"{self.kind} {name!r} needs the option {', '.join(missing)}.")
        component = thing(**keywords)
        if hasattr(component, "validate"):
            component.validate()
        return component

    def _of_base(self) -> type:
        return _imported(self._base, self.kind)

    def _points(self) -> Iterable[importlib.metadata.EntryPoint]:
        return importlib.metadata.entry_points(group=f"jaxreid.{self.kind}")


def keywords_of(thing: Any) -> list[str]:
    """List the init fields of a dataclass (such as a Linen module) or keywords of a function."""
    if dataclasses.is_dataclass(thing):
        return [f.name for f in dataclasses.fields(thing) if f.init and f.name not in _LINEN]
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(thing).parameters.values()
    return [p.name for p in parameters if p.kind in kinds]


def required_by(thing: Any) -> list[str]:
    """List those of `keywords_of` without a default."""
    if dataclasses.is_dataclass(thing):
        missing = dataclasses.MISSING
        fields = {f.name: f for f in dataclasses.fields(thing)}
        has = {
            n: f.default is not missing or f.default_factory is not missing
            for n, f in fields.items()
        }
        return [name for name in keywords_of(thing) if not has[name]]
    parameters = inspect.signature(thing).parameters
    return [n for n in keywords_of(thing) if parameters[n].default is inspect.Parameter.empty]


# Types of options, in words.
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a string"}


def _check_types(thing: Any, options: Mapping[str, Any], kind: str) -> None:
    """Raise ValueError if a value contradicts the annotation of its field."""
    if not dataclasses.is_dataclass(thing):
        return
    annotated = {field.name: field.type for field in dataclasses.fields(thing)}
    for name, value in options.items():
        expected = annotated[name]
        if get_origin(expected) is tuple or expected is tuple:
            fits, words = isinstance(value, tuple), "a tuple, as in (1, 2)"
        elif expected in KINDS:
            accepted = int | float if expected is float else expected
            fits = isinstance(value, accepted) and isinstance(value, bool) == (expected is bool)
            words = KINDS[expected]
        else:
            continue
        if not fits:
            raise ValueError(f"{kind}.{name} is {value!r}; expected {words}.")


def _imported(address: str, kind: str) -> Any:
    module, _, attribute = address.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{kind} {address!r} cannot be imported: {error}. Expected package.module:Class, with "
            "the package installed or its folder on PYTHONPATH."
        ) from error


def _address(thing: Any) -> str:
    if isinstance(thing, str):
        return thing
    return f"{thing.__module__}:{getattr(thing, '__qualname__', type(thing).__name__)}"
