"""Choosing things by name, with an error that helps."""

import contextlib
import dataclasses
import difflib
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_origin

T = TypeVar("T")
_LINEN = ("parent", "name")  # fields of every Linen module


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
    raise ValueError(f"unknown {what} {name!r}; valid: {', '.join(nearest(name, valid))}.")


def nearest(name: str, valid: Iterable[str]) -> list[str]:
    """The valid names, those first that are most like `name`."""
    valid = list(valid)
    near = difflib.get_close_matches(str(name), valid, n=len(valid), cutoff=0.0)
    return near + [other for other in valid if other not in near]


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


class Table:
    """Things by name: the project's own, registered ones, and any importable one.

    A name is looked up among the entries, then in the entry points of installed packages (group
    `jaxreid.<kind>`), and may be `package.module:attribute` instead. An entry is imported when it
    is asked for. The thing alone knows its options: they are its keywords.

    Args:
        kind: what is named, for messages and for the group of entry points ("matcher").
        entries: "package.module:attribute" by name.
        base: "package.module:Class" of which all things are subclasses, or None.
    """

    def __init__(self, kind: str, entries: Mapping[str, str], *, base: str | None = None) -> None:
        self.kind, self._base = kind, base
        self._entries: dict[str, tuple[Any, dict[str, Any]]] = {
            n: (e, {}) for n, e in entries.items()
        }

    def add(self, names: Mapping[str, Mapping[str, Any]], thing: Any) -> None:
        """Adds a family: one thing under several names, each with options that the name implies.

        Args:
            names: the options of each name.
            thing: "package.module:attribute", or the thing itself.
        """
        self._entries |= {name: (thing, dict(implied)) for name, implied in names.items()}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: makes a class or function available under a name, for this process.

        Raises:
            ValueError: the name is taken by something else.
        """

        def decorate(thing: T) -> T:
            held = self._entries.get(name, (thing,))[0]
            if held is not thing and _address(held) != _address(thing):
                raise ValueError(f"{self.kind} {name!r} exists already: {_address(held)}.")
            self._entries[name] = (thing, {})
            return thing

        return decorate

    @property
    def names(self) -> tuple[str, ...]:
        """All names, the project's own first; without `package.module:attribute`."""
        return (*self._entries, *(p.name for p in self._points() if p.name not in self._entries))

    def names_where(self, condition: Callable[[Any], bool]) -> list[str]:
        """Names of the things for which a condition holds; one that cannot be asked is left out.

        Args:
            condition: of a thing, such as a class.
        """
        found = []
        for name in self.names:
            with contextlib.suppress(AttributeError, TypeError, ValueError):
                found += [name] if condition(self.find(name)[0]) else []
        return found

    def find(self, name: str) -> tuple[Any, dict[str, Any]]:
        """The thing of a name, and the options that the name implies.

        Raises:
            ValueError: an unknown name, or one that cannot be imported.
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
        raise AssertionError  # check_name has refused the name

    def make(self, name: str, options: Mapping[str, Any], **context: Any) -> Any:
        """A thing by name, with its options.

        Args:
            name: as for `find`.
            options: attributes of the thing; lists stand for tuples, as in JSON.
            **context: what the thing gets beside its options, if it has attributes of these names.

        Raises:
            ValueError: an unknown name, an option that the thing does not have, or one that its
                `validate` refuses.
        """
        thing, implied = self.find(name)
        if self._base and not (isinstance(thing, type) and issubclass(thing, self._of_base())):
            raise ValueError(f"{self.kind} {name!r} is not a subclass of {self._base}.")
        fields = keywords_of(thing)
        fixed = getattr(thing, "IMPLIED", ())  # attributes that the name decides alone
        valid = [f for f in fields if f not in fixed and f not in context]
        if unknown := sorted(options.keys() - set(valid)):
            has = f"it has {', '.join(valid)}" if valid else "it has none"
            section = self.kind if self.kind == "objective" else f"model.{self.kind}"
            keywords = ", ".join([f"'name': {name!r}", *(f"'{o}': ..." for o in valid[:2])])
            raise ValueError(
                f"{self.kind} {name!r} has no option {', '.join(unknown)}; {has}. With another "
                f'name, give the section as a whole, as in --config.{section}="{{{keywords}}}".'
            )
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        _check_types(thing, given, self.kind)
        keywords = implied | given | {k: v for k, v in context.items() if k in fields}
        if missing := [name for name in required_by(thing) if name not in keywords]:
            raise ValueError(f"{self.kind} {name!r} needs the option {', '.join(missing)}.")
        made = thing(**keywords)
        if hasattr(made, "validate"):
            made.validate()
        return made

    def _of_base(self) -> type:
        return _imported(self._base, self.kind)

    def _points(self) -> Iterable[importlib.metadata.EntryPoint]:
        return importlib.metadata.entry_points(group=f"jaxreid.{self.kind}")


def keywords_of(thing: Any) -> list[str]:
    """The attributes of a dataclass (such as a Linen module), or the keywords of a function."""
    if dataclasses.is_dataclass(thing):
        return [f.name for f in dataclasses.fields(thing) if f.init and f.name not in _LINEN]
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(thing).parameters.values()
    return [p.name for p in parameters if p.kind in kinds]


def required_by(thing: Any) -> list[str]:
    """Those of `keywords_of` that have no default."""
    if dataclasses.is_dataclass(thing):
        kept = dataclasses.MISSING
        fields = {f.name: f for f in dataclasses.fields(thing)}
        has = {n: f.default is not kept or f.default_factory is not kept for n, f in fields.items()}
        return [name for name in keywords_of(thing) if not has[name]]
    parameters = inspect.signature(thing).parameters
    return [n for n in keywords_of(thing) if parameters[n].default is inspect.Parameter.empty]


_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def _check_types(thing: Any, options: Mapping[str, Any], kind: str) -> None:
    """Raises ValueError for a value that the annotation of an attribute excludes."""
    if not dataclasses.is_dataclass(thing):
        return
    annotated = {field.name: field.type for field in dataclasses.fields(thing)}
    for name, value in options.items():
        expected = annotated[name]
        if get_origin(expected) is tuple or expected is tuple:
            fits, words = isinstance(value, tuple), "a tuple, as in (1, 2)"
        elif expected in _KINDS:
            accepted = int | float if expected is float else expected
            fits = isinstance(value, accepted) and isinstance(value, bool) == (expected is bool)
            words = _KINDS[expected]
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
