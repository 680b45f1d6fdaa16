"""A data set's name becomes the data set: its function in the table, its folder, its options."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxreid.data.sets.naming import Named, checked, parse_name
from jaxreid.data.sets.prepared import folder_of_copies
from jaxreid.data.sets.reading import Found
from jaxreid.data.sets.source import Source
from jaxreid.data.split import Split
from jaxreid.names import Table, check_name, check_trusted, nearest
from jaxreid.places import expanded

SETS = Table(
    "dataset",
    {
        name: f"jaxreid.data.sets.{name}:find"
        for name in (
            *("synthetic_people", "folder", "table"),
            *("market1501", "msmt17", "cuhk03_np", "cuhk03", "dukemtmcreid"),
            *("randperson", "clonedperson", "cuhksysu"),
            *("cuhk01", "cuhk02", "viper", "grid", "prid2011", "ilids", "sensereid"),
        )
    },
)

# Sets of a user's own images.
OWN = ("folder", "table")
# Arguments of a data set's function that are not options.
_CONTEXT = ("folder", "domain")
# Folder of data sets whose place is not given.
ROOT_VARIABLE = "JAXREID_DATA"


def named_set(name: str) -> Named:
    """Parse a name; domains, places and options follow the name of a set in the table."""
    return parse_name(name, SETS.names)


def in_each_folder(named: Named, dir: str | os.PathLike | None) -> list[Named]:
    """Return a data set as it is, or once for each folder if `dir` is several with commas."""
    text = "" if dir is None else os.fspath(dir)
    folders = [folder.strip() for folder in text.split(",")]
    if named.place or len(folders) == 1 or expanded(text).exists():
        return [named]
    if "folder" not in inspect.signature(_function(named.base)[0]).parameters:
        return [named]
    return [named._replace(place=folder) for folder in folders]


def resolve(
    named: Named,
    folder: str | os.PathLike | None,
    prepared_dir: str | os.PathLike | None,
    options: Mapping[str, Any],
) -> Found:
    """Resolve a name, with every check that does not need images."""
    text = named.base if named.domain is None else f"{named.base}/{named.domain}"
    if named.base not in SETS.names and os.path.isdir(text):
        raise ValueError(
            f"{text} is a folder; expected the name of a data set before it, as in folder:{text} "
            f"for images of your own or market1501:{text}."
        )
    function, implied = _function(named.base)
    arguments = _arguments(named, function, folder, implied | dict(named.options) | dict(options))
    copies = folder_of_copies(prepared_dir)
    content = function(**arguments)
    if not isinstance(content, Source) and not _is_splits(content):
        raise ValueError(
            f"data set {named.title!r} returned {type(content).__name__}; expected a Source, or a "
            "dict of Split by name (train, query, gallery)."
        )
    place = os.path.abspath(expanded(arguments["folder"])) if arguments.get("folder") else ""
    return Found(named.title, content, copies, copied=prepared_dir is not None, place=place)


def _arguments(
    named: Named,
    function: Callable[..., Any],
    folder: str | os.PathLike | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the keywords for the function of a data set: domain, folder and options."""
    title, base = named.title, named.base
    keywords = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in keywords.values()):
        valid = [k for k in keywords if k not in _CONTEXT]
        for option in options:
            check_name(option, valid, f"option of {title}")
    arguments = dict(options)
    if "domain" in keywords:
        if named.domain is not None or _is_required(keywords["domain"]):
            arguments["domain"] = named.domain or ""
    elif named.domain is not None:
        raise ValueError(f"data set {title!r}: {base} has no domains; write {base!r}.")
    if "folder" in keywords:
        # A folder of your own is not what holds the sets of papers.
        root = None if base in OWN else os.environ.get(ROOT_VARIABLE)
        if place := named.place or folder or root:
            arguments["folder"] = place
        elif _is_required(keywords["folder"]):
            about = (inspect.getdoc(function) or "").partition("\n")[0]
            raise ValueError(
                f"data set {title!r} is read from a folder, but none is given: name it as in "
                f"'{title}:FOLDER', or set data.dir (dir= in Python, --dir of the verbs) or "
                f"{ROOT_VARIABLE}. {about}".rstrip()
            )
    elif named.place:
        raise ValueError(f"data set {title!r} does not read a folder: write {named.key!r}.")
    for key, parameter in keywords.items():
        if key not in arguments and _is_required(parameter):
            raise ValueError(
                f"data set {title!r} needs the option {key}: write {title}?{key}=VALUE."
            )
        if key in options:
            try:
                arguments[key] = checked(key, options[key], parameter.annotation)
            except ValueError as error:
                raise ValueError(f"data set {title!r}: {error}") from error
    return arguments


def _is_splits(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(s, Split) for s in content.values())


def _function(base: str) -> tuple[Any, dict[str, Any]]:
    """Return the function of a data set, and the options implied by its name."""
    if ":" not in base:
        check_name(base, SETS.names, "data set")
    try:
        return SETS.find(base)
    except ValueError as error:
        name, _, place = base.partition(":")
        # A misspelt name with a place of one word looks like a module and its function.
        near = nearest(name, SETS.names)[0]
        raise ValueError(f"{error} Or did you mean {near}:{place}?") from error


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD


def check_trusted_sets(names: Iterable[Any], source: Any) -> None:
    """Refuse data sets that a file names, if they are of a module that nobody has allowed.

    Args:
        names: as the file holds them; what is not a string is ignored.
        source: the file, for the message.

    Raises:
        ValueError: see `jaxreid.names.check_trusted`; or a name cannot be parsed.
    """
    for name in names:
        if isinstance(name, str):
            check_trusted(named_set(name).base, "data set", source)
