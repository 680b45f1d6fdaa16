"""Data sets by name, loaded as arrays; prepared once by TFDS where it is installed.

    market = load("market1501", dir="/data/market1501")
    plaza = load("synthetic_people/plaza")

A data set is a function in the table `SETS`, or registered from outside:

    @SETS.register("mine")
    def mine(folder, *, night=False) -> dict[str, Split]: ...

Options are passed as keywords. An argument `folder` receives the user's folder, and an argument
`domain` the part of the name after a slash. The function returns its splits, or a `Source`, which
is prepared once and read from the copy `<prepared_dir>/<name>/<config>/<version>`. That path
depends on the folder's files, so a subset or a changed folder gets its own copy. Without TFDS a
source is read directly, with the same result. The network is never used.

TensorFlow is imported inside `load`, after all checks that do not need it.
"""

import inspect
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.data.sets.consistency import check_galleries, join_training
from jaxreid.data.sets.prepared import PreparedCopy, find_copies
from jaxreid.data.sets.reading import Found
from jaxreid.data.sets.source import Record, Source
from jaxreid.data.split import Split
from jaxreid.names import Table, check_name
from jaxreid.places import expanded

__all__ = [
    "SETS",
    "Record",
    "Source",
    "Split",
    "available",
    "load",
    "load_sets",
    "parse_options",
    "prepared_copies",
]

logger = logging.getLogger(__name__)

SETS = Table(
    "dataset",
    {
        "market1501": "jaxreid.data.sets.market1501:find",
        "synthetic_people": "jaxreid.data.sets.synthetic_people:find",
    },
)

# Arguments of a data set's function that are not options.
_CONTEXT = ("folder", "domain")
# Separator in front of each option that follows a name.
_OPTION = re.compile(r"-(?=[^-=]*=)")


def available() -> list[str]:
    """Return the sorted names of all data sets, without domains."""
    return sorted(SETS.names)


def parse_options(pairs: Iterable[str]) -> dict[str, int | str]:
    """Parse options of a data set such as `seed=3`; whole numbers become int.

    Raises:
        ValueError: an option is not NAME=VALUE.
    """
    options: dict[str, int | str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"option {pair!r} of a data set: write NAME=VALUE.")
        options[key] = int(value) if re.fullmatch("-?[0-9]+", value) else value
    return options


def load(
    name: str,
    *,
    dir: str | os.PathLike | None = None,
    prepared_dir: str | os.PathLike | None = None,
    **options: Any,
) -> dict[str, Split]:
    """Load a data set, preparing it on first use.

    Args:
        name: `<data set>` or `<data set>/<domain>`, as in TFDS, or `package.module:function`.
            Options may follow, as in `synthetic_people/plaza-train_ids=1000-seed=3` or
            `market1501-time_rule=corrected`.
        dir: folder of a data set that is read from files.
        prepared_dir: folder of prepared copies; None for the default of TFDS ($TFDS_DATA_DIR or
            ~/tensorflow_datasets). Needs no write access once the copy exists.
        **options: options of the data set, for example `time_rule` of market1501.

    Returns:
        Splits by name: train, query, gallery.

    Raises:
        FileNotFoundError: `dir` does not exist or does not hold this data set.
        ValueError: the name, its domain or an option is unknown; `dir` is missing or does not
            apply; or the data set holds a broken image.
        OSError: the prepared copy is damaged.
    """
    if len(folders := _folders(dir)) > 1:
        raise ValueError(
            f"dir is {os.fspath(dir or '')!r}, {len(folders)} folders; expected one: load them one "
            "by one. Only data.dir of a run may name several."
        )
    return _find(name, folders[0], prepared_dir, options).read()


def load_sets(
    *,
    train: Sequence[str] | str | None,
    test: Sequence[str],
    dir: str | os.PathLike | None = None,
    prepared_dir: str | os.PathLike | None = None,
    identities: int = 0,
) -> tuple[Split | None, dict[str, dict[str, Split]]]:
    """Load the training and test sets of one run.

    Args:
        train: names of the training sets, which are joined (`split.join`); a single name may be a
            plain string. None for no training.
        test: names of the test sets.
        dir: folder of the data sets that are read from files. Several folders, separated by
            commas, are as many data sets, named `market1501[1]`, `market1501[2]`, ...
        prepared_dir: folder of prepared copies, as in `load`.
        identities: keep only this many people of each set, for quick trials; 0 keeps all.

    Returns:
        The training split, or None without training; and the splits "query" and "gallery" of each
        test set by name.

    Raises:
        FileNotFoundError: see `load`.
        ValueError: see `load`; or a data set lacks a split, `test` or `train` is empty, training
            sets share images, or fewer than two people are left to learn from.
    """
    if isinstance(test, str) or not test:
        raise ValueError(f"data.test is {test!r}; expected a tuple of one or more data sets.")
    folders = _folders(dir)
    sources = _in_folders(_training_sets(train), folders)
    names = _in_folders(test, folders)
    test = list(names)
    # Resolve all names before reading any data set, so that mistakes are reported at once.
    resolved = {
        key: _find(name, folder, prepared_dir, {})
        for key, (name, folder) in (sources | names).items()
    }
    splits = {name: each.read() for name, each in resolved.items()}
    parts = {name: _part(splits, name, "train") for name in sources}
    tests = {name: {s: _part(splits, name, s) for s in ("query", "gallery")} for name in test}
    if identities:
        parts = {name: _first_people(split, split, identities) for name, split in parts.items()}
        for test_set in tests.values():
            query = test_set["query"]
            test_set.update({k: _first_people(s, query, identities) for k, s in test_set.items()})
    check_galleries(tests, identities)
    return join_training(parts) if parts else None, tests


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
    content = _find(name, dir, prepared_dir, options).content
    if not isinstance(content, Source):
        return []
    return [
        copy
        for copy in copies
        if copy.path.parts[-3] == content.name
        and (not copy.complete or copy.path.parts[-2:] != (content.config, content.version))
    ]


def _training_sets(train: Sequence[str] | str | None) -> list[str]:
    """Return the names of the training sets; [] without training."""
    if train is None:
        return []
    names = [train] if isinstance(train, str) else list(train)
    if not names:
        raise ValueError(f"data.train is {train!r}; expected a tuple of one or more data sets.")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"data.train names {name!r} more than once; expected it once.")
    return names


def _folders(dir: str | os.PathLike | None) -> list[str | os.PathLike | None]:
    """Return the folders that `data.dir` names."""
    if dir is None or "," not in os.fspath(dir) or expanded(dir).is_dir():
        return [dir]
    return [part.strip() for part in os.fspath(dir).split(",") if part.strip()] or [dir]


def _in_folders(
    names: Iterable[str], folders: Sequence[str | os.PathLike | None]
) -> dict[str, tuple[str, str | os.PathLike | None]]:
    """Return name and folder of each data set by a name of its own, one per folder."""
    found: dict[str, tuple[str, str | os.PathLike | None]] = {}
    for name in names:
        if not _reads_folder(name):
            found[name] = name, None
        elif len(folders) == 1:
            found[name] = name, folders[0]
        else:
            found |= {f"{name}[{i}]": (name, folder) for i, folder in enumerate(folders, 1)}
    return found


def _find(
    name: str,
    folder: str | os.PathLike | None,
    prepared_dir: str | os.PathLike | None,
    options: Mapping[str, Any],
) -> Found:
    """Resolve a name, with every check that does not need images."""
    title, *pairs = _OPTION.split(name)
    options = dict(options) | parse_options(pairs)
    base, slash, domain = title.partition("/")
    function, implied = _function(base)
    keywords = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in keywords.values()):
        valid = [k for k in keywords if k not in _CONTEXT]
        for option in options:
            check_name(option, valid, f"option of {title}")
    arguments = implied | options
    if "domain" in keywords:
        arguments |= {"domain": domain} if slash or _is_required(keywords["domain"]) else {}
    elif slash:
        raise ValueError(f"data set {title!r}: {base} has no domains; write {base!r}.")
    if folder is not None:
        if "folder" not in keywords:
            raise ValueError(
                f"data set {title!r} does not read a folder: leave out data.dir (dir= in Python, "
                "--dir of the tools)."
            )
        arguments["folder"] = folder
    elif "folder" in keywords and _is_required(keywords["folder"]):
        about = (inspect.getdoc(function) or "").partition("\n")[0]
        raise ValueError(
            f"data set {title!r} is read from a folder, but none is given: set data.dir (dir= in "
            f"Python, --dir of the tools). {about}".rstrip()
        )
    for key, parameter in keywords.items():
        if key not in arguments and _is_required(parameter):
            raise ValueError(
                f"data set {title!r} needs the option {key}: write {name}-{key}=VALUE."
            )
    root = _local_dir(prepared_dir)
    content = function(**arguments)
    if isinstance(content, Source):
        for notice in content.notices:
            logger.warning(notice)
    elif not isinstance(content, Mapping) or not all(
        isinstance(split, Split) for split in content.values()
    ):
        raise ValueError(
            f"data set {title!r} returned {type(content).__name__}; expected a Source, or a dict "
            "of Split by name (train, query, gallery)."
        )
    return Found(name, title, content, root)


def _function(base: str) -> tuple[Any, dict[str, Any]]:
    """Return the function of a data set, and the options implied by its name."""
    if ":" not in base:
        check_name(base, SETS.names, "data set")
    return SETS.find(base)


def _reads_folder(name: str) -> bool:
    base = _OPTION.split(name)[0].partition("/")[0]
    return "folder" in inspect.signature(_function(base)[0]).parameters


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
