"""Data sets by name, loaded as arrays; prepared once by TFDS where it is installed.

    market = load("market1501", "/data/market1501")
    campus = load("cuhk01:/data/campus?split=3")
    plaza = load("synthetic_people/plaza")

A data set is a function in the table `SETS`, or registered from outside:

    @SETS.register("mine")
    def mine(folder, *, night=False) -> dict[str, Split]: ...

Options are passed as keywords. An argument `folder` receives the user's folder or file, and an
argument `domain` the part of the name after a slash. The function returns its splits, or a
`Source`, which is prepared once and read from the copy `<prepared_dir>/<name>/<config>/<version>`.
That path depends on the folder's files, so a subset or a changed folder gets its own copy. Without
TFDS a source is read directly, with the same result. The network is never used.

TensorFlow is imported inside `load`, after all checks that do not need it.
"""

import contextlib
import dataclasses
import gc
import inspect
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.data.sets.consistency import check_galleries, join_training
from jaxreid.data.sets.naming import Named, checked, parse_name, parse_options, spread
from jaxreid.data.sets.prepared import PreparedCopy, find_copies
from jaxreid.data.sets.reading import Found
from jaxreid.data.sets.source import Record, Source
from jaxreid.data.split import Split
from jaxreid.names import Table, check_name, check_trusted, nearest
from jaxreid.places import expanded

__all__ = [
    "SETS",
    "Record",
    "Source",
    "Split",
    "available",
    "check_there",
    "load",
    "load_sets",
    "parse_options",
    "prepared_copies",
]

logger = logging.getLogger(__name__)

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

_OWN = ("folder", "table")
# Arguments of a data set's function that are not options.
_CONTEXT = ("folder", "domain")
# Folder of data sets whose place is not given.
ROOT_VARIABLE = "JAXREID_DATA"


def available() -> list[str]:
    """Return the sorted names of all data sets, without domains."""
    return sorted(SETS.names)


def load(
    name: str,
    dir: str | os.PathLike | None = None,
    *,
    prepared_dir: str | os.PathLike | None = None,
    skip_broken: bool = False,
    **options: Any,
) -> dict[str, Split]:
    """Load a data set, preparing it on first use.

    Args:
        name: `<data set>` or `<data set>/<domain>`, as in TFDS, or `package.module:function`. Place
            and options may follow, as in `msmt17:/data/msmt?combine_all=True` or
            `synthetic_people/plaza?train_ids=1000&seed=3`.
        dir: folder or file of a data set that is read from files, if the name has no place; by
            default $JAXREID_DATA. A folder with the data set in a usual subfolder will do.
        prepared_dir: folder of prepared copies; None for the default of TFDS ($TFDS_DATA_DIR or
            ~/tensorflow_datasets). Needs no write access once the copy exists.
        skip_broken: leave broken images out with a warning, instead of refusing them.
        **options: options of the data set, for example `time_rule` of market1501.

    Returns:
        Splits by name: train, query, gallery.

    Raises:
        FileNotFoundError: `dir` does not exist or does not hold this data set.
        ValueError: the name, its domain or an option is unknown; `dir` is missing or does not
            apply; or the data set holds a broken image.
        OSError: the prepared copy is damaged.
    """
    with _uncollected():
        found = _find(_placed(name, dir), None, prepared_dir, options)
        _warn([found])
        return dataclasses.replace(found, skip_broken=skip_broken).read()


def load_sets(
    *,
    train: Sequence[str] | str | None,
    test: Sequence[str],
    dir: str | os.PathLike | None = None,
    prepared_dir: str | os.PathLike | None = None,
    identities: int = 0,
    skip_broken: bool = False,
) -> tuple[Split | None, dict[str, dict[str, Split]]]:
    """Load the training and test sets of one run.

    Args:
        train: names of the training sets, which are joined (`split.join`); a single name may be a
            plain string. None for no training.
        test: names of the test sets. A range stands for several, as in `viper?split=0..9`.
        dir: folder of the data sets that are read from files and named without a place; of several
            folders with commas, such a set is read from each.
        prepared_dir: folder of prepared copies, as in `load`.
        identities: keep only this many people of each set, for quick trials; 0 keeps all.
        skip_broken: leave broken images out with a warning, instead of refusing them.

    Returns:
        The training split, or None without training; and the splits "query" and "gallery" of each
        test set, by its name without the place. Sets that differ in their places alone are numbered
        `market1501[1]`, `market1501[2]`, ...

    Raises:
        FileNotFoundError: see `load`.
        ValueError: see `load`; or a data set lacks a split, `test` or `train` is empty, training
            sets share images, or fewer than two people are left to learn from.
    """
    if isinstance(test, str) or not test:
        raise ValueError(f"data.test is {test!r}; expected a tuple of one or more data sets.")
    sources = [one for named in _training_sets(train) for one in _in_each_folder(named, dir)]
    targets = [
        one
        for name in test
        for split in spread(_named(name))
        for one in _in_each_folder(split, dir)
    ]
    keys = _keys(dict.fromkeys([*sources, *targets]))
    # Resolve all names before reading any data set, so that mistakes are reported at once.
    with _uncollected():
        resolved = {
            key: dataclasses.replace(_find(named, dir, prepared_dir, {}), skip_broken=skip_broken)
            for key, named in keys.items()
        }
        _warn(resolved.values())
        splits = {name: each.read() for name, each in resolved.items()}
    parts = {k: _part(splits, k, "train") for k, named in keys.items() if named in sources}
    tests = {
        k: {s: _part(splits, k, s) for s in ("query", "gallery")}
        for k, named in keys.items()
        if named in targets
    }
    if identities:
        parts = {name: _first_people(split, split, identities) for name, split in parts.items()}
        for test_set in tests.values():
            query = test_set["query"]
            test_set.update({k: _first_people(s, query, identities) for k, s in test_set.items()})
    check_galleries(tests, identities)
    return join_training(parts) if parts else None, tests


def check_there(name: str, dir: str | os.PathLike) -> None:
    """Raise the error of `load` if a data set is not in a folder, without opening an image.

    Of a range of splits, the first is looked for.
    """
    _find(spread(_named(name))[0], dir, None, {})


def prepared_copies(
    name: str | None = None,
    *,
    dir: str | os.PathLike | None = None,
    prepared_dir: str | os.PathLike | None = None,
    **options: Any,
) -> list[PreparedCopy]:
    """Return prepared copies: all, or those of a data set that it no longer uses.

    Copies that were not finished are among them.

    Args:
        name: data set, as for `load`; its copy for the given folder and options is left out.
        dir: folder of the data set, as for `load`.
        prepared_dir: folder of prepared copies, as for `load`.
        **options: options of the data set.

    Raises:
        ValueError, FileNotFoundError: as for `load`.
    """
    copies = find_copies(_local_dir(prepared_dir))
    if name is None:
        return copies
    content = _find(_placed(name, dir), None, prepared_dir, options).content
    if not isinstance(content, Source):
        return []
    return [
        copy
        for copy in copies
        if copy.path.parts[-3] == content.name
        and (not copy.complete or copy.path.parts[-2:] != (content.config, content.version))
    ]


def _named(name: str) -> Named:
    return parse_name(name, SETS.names)


def _placed(name: str, dir: str | os.PathLike | None) -> Named:
    named = _named(name)
    if dir is None:
        return named
    if named.place:
        raise ValueError(f"{name!r} names a place, and dir is {os.fspath(dir)!r}; expected one.")
    return named._replace(place=os.fspath(dir))


def _training_sets(train: Sequence[str] | str | None) -> list[Named]:
    """Return the training sets; [] without training."""
    if train is None:
        return []
    names = [train] if isinstance(train, str) else list(train)
    if not names:
        raise ValueError(f"data.train is {train!r}; expected a tuple of one or more data sets.")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"data.train names {name!r} more than once; expected it once.")
    return [_named(name) for name in names]


def _in_each_folder(named: Named, dir: str | os.PathLike | None) -> list[Named]:
    """Return a data set as it is, or once for each folder if `dir` is several with commas."""
    text = "" if dir is None else os.fspath(dir)
    folders = [folder.strip() for folder in text.split(",")]
    if named.place or len(folders) == 1 or expanded(text).exists():
        return [named]
    if "folder" not in inspect.signature(_function(named.base)[0]).parameters:
        return [named]
    return [named._replace(place=folder) for folder in folders]


def _keys(sets: Iterable[Named]) -> dict[str, Named]:
    """Return data sets by a name of their own, in which a place counts as a number."""
    alike: dict[str, list[Named]] = {}
    for named in sets:
        alike.setdefault(named.key, []).append(named)
    return {
        key if len(those) == 1 else f"{key}[{i}]": named
        for key, those in alike.items()
        for i, named in enumerate(those, 1)
    }


def _find(
    named: Named,
    folder: str | os.PathLike | None,
    prepared_dir: str | os.PathLike | None,
    options: Mapping[str, Any],
) -> Found:
    """Resolve a name, with every check that does not need images."""
    function, implied = _function(named.base)
    given = implied | dict(named.options) | dict(options)
    arguments = _arguments(named, function, folder, given)
    copies = _local_dir(prepared_dir)
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
        root = None if base in _OWN else os.environ.get(ROOT_VARIABLE)
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
            check_trusted(parse_name(name, SETS.names).base, "data set", source)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Pause garbage collection, which would look again and again at a million objects that stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _warn(those: Iterable[Found]) -> None:
    """Log the notices of data sets; several splits of one have the same."""
    sources = [found.content for found in those if isinstance(found.content, Source)]
    for notice in dict.fromkeys(notice for source in sources for notice in source.notices):
        logger.warning(notice)


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


def _part(splits: Mapping[str, Mapping[str, Split]], name: str, part: str) -> Split:
    """Return one split of a data set; raise ValueError if the data set lacks it."""
    if part not in splits[name]:
        role = "train" if part == "train" else "test"
        raise ValueError(
            f"data.{role} names {name!r}, which has no {part} split; it has "
            f"{', '.join(splits[name])}."
        )
    return splits[name][part]


def _first_people(split: Split, of: Split, count: int) -> Split:
    return split.select(np.isin(split.pid, np.unique(of.pid)[:count]))


def _local_dir(prepared_dir: str | os.PathLike | None) -> pathlib.Path:
    location = prepared_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if "://" in str(location):
        raise ValueError(
            f"prepared_dir is {str(location)!r} (given, or from TFDS_DATA_DIR); expected a local "
            "folder for prepared copies: set prepared_dir to one."
        )
    try:
        path = expanded(location).absolute()
    except ValueError as error:
        raise ValueError(
            f"no home folder for prepared copies ({location}): {error} Expected a writable "
            "folder: set --config.data.prepared_dir=DIR (prepared_dir= in Python) or TFDS_DATA_DIR."
        ) from error
    # Not Path.exists, which raises where a parent folder may not be entered.
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"data.prepared_dir is {path}, a file; expected a folder.")
    return path
