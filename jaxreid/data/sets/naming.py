"""Names of data sets: `msmt17:/data/msmt?combine_all=True`, name, place and options."""

import os
import re
import typing
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from jaxreid.names import KINDS

# In front of the options, between them, and (as TFDS writes them) behind a name.
_FIRST, _NEXT, _DASH = (re.compile(s + r"(?=[A-Za-z_]\w*=)") for s in (r"\?", "&", "-"))
_FUNCTION = re.compile(r"[\w.]+:[A-Za-z_]\w*(/\w+)?")
_RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")
# Test sets of one range; each is evaluated for itself.
_MOST = 1000
# "none" is a word: a way to divide images.
_SPELLED = {"true": True, "True": True, "false": False, "False": False, "None": None}


# Declared besides words: a path may be a word.
_LOOSE = (type(None), os.PathLike)


class Named(NamedTuple):
    """A data set as it is named.

    Attributes:
        base: name in the table of data sets, or `package.module:function`.
        domain: name of the domain after a slash, or None.
        place: folder or file, "" if none is named.
        options: pairs of an option and its value.
    """

    base: str
    domain: str | None
    place: str
    options: tuple[tuple[str, Any], ...]

    @property
    def title(self) -> str:
        """Data set and domain, as in "synthetic_people/plaza"."""
        return self.base if self.domain is None else f"{self.base}/{self.domain}"

    @property
    def key(self) -> str:
        """Title and options, without the place: the name in results."""
        options = "&".join(f"{key}={value}" for key, value in self.options)
        return f"{self.title}?{options}" if options else self.title


def parse_name(name: str, known: Collection[str]) -> Named:
    """Take a name apart: `SET[/DOMAIN][:PLACE][?OPTION=VALUE[&OPTION=VALUE...]]`.

    Args:
        name: the name; for SET, `package.module:function` is allowed, too.
        known: names of the table; what is not among them and has a colon is a function.

    Raises:
        ValueError: an option is not NAME=VALUE.
    """
    title, *options = _FIRST.split(name, maxsplit=1)
    head, _, place = title.partition(":")
    function = _FUNCTION.match(title)
    if function and _DASH.split(head)[0].partition("/")[0] not in known:
        rest, _, place = title[function.end() :].partition(":")
        head = function[0] + rest
    head, *pairs = _DASH.split(head)
    base, slash, domain = head.partition("/")
    pairs += _NEXT.split(options[0]) if options else []
    return Named(base, domain if slash else None, place, tuple(parse_options(pairs).items()))


def spread(named: Named) -> list[Named]:
    """Return one name for each number of an option that is a range, as in `viper?split=0..9`.

    Raises:
        ValueError: the range is empty, or long.
    """
    for i, (key, value) in enumerate(named.options):
        if isinstance(value, str) and (limits := _RANGE.fullmatch(value)):
            first, last = map(int, limits.groups())
            if first > last:
                raise ValueError(f"{named.key}: the range {value} is empty; write {last}..{first}.")
            if last - first >= _MOST:
                raise ValueError(
                    f"{named.key}: the range {value} names {last - first + 1:,} test sets; "
                    f"expected at most {_MOST:,}."
                )
            rest = named.options[:i], named.options[i + 1 :]
            return [
                one
                for number in range(first, last + 1)
                for one in spread(named._replace(options=(*rest[0], (key, number), *rest[1])))
            ]
    return [named]


def parse_options(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse options of a data set such as `seed=3`: numbers, true, false, None or words.

    Raises:
        ValueError: an option is not NAME=VALUE, or given twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"option {pair!r} of a data set: write NAME=VALUE.")
        if key in options:
            raise ValueError(f"option {key} of a data set is given twice; expected it once.")
        if _FIRST.search(value):
            raise ValueError(f"option {pair!r} of a data set: write & between options, and not ?.")
        options[key] = _value(value)
    return options


def checked(key: str, value: Any, annotation: Any) -> Any:
    """Return the value of an option as the type that a data set's function declares.

    Raises:
        ValueError: it is of another type; other declarations than of plain types accept all.
    """
    declared = typing.get_args(annotation) or (annotation,)
    kinds = [kind for kind in declared if kind in KINDS]
    if not kinds or len(kinds) < len([kind for kind in declared if kind not in _LOOSE]):
        return value
    if value is None and type(None) in declared:
        return value
    for kind in kinds:
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if str in kinds and isinstance(value, int | float | os.PathLike):
        return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    if isinstance(value, str) and _RANGE.fullmatch(value):
        raise ValueError(
            f"{key}={value} names several test sets, in data.test; expected one value here."
        )
    expected = " or ".join(KINDS[kind] for kind in kinds)
    raise ValueError(f"{key} is {value!r}; expected {expected}.")


def _value(text: str) -> Any:
    if re.fullmatch("-?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"-?[0-9]{1,18}\.[0-9]{1,18}", text):
        return float(text)
    return _SPELLED.get(text, text)
