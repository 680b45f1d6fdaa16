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
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.data.sets.consistency import check_galleries, join_training
from jaxreid.data.sets.naming import Named, parse_options, spread
from jaxreid.data.sets.prepared import PreparedCopy, find_copies, folder_of_copies
from jaxreid.data.sets.reading import Found
from jaxreid.data.sets.resolving import (
    SETS,
    check_trusted_sets,
    in_each_folder,
    named_set,
    resolve,
)
from jaxreid.data.sets.source import Record, Source
from jaxreid.data.split import Split

__all__ = [
    "SETS",
    "Record",
    "Source",
    "Split",
    "available",
    "check_there",
    "check_trusted_sets",
    "load",
    "load_sets",
    "parse_options",
    "prepared_copies",
]

logger = logging.getLogger(__name__)


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
        found = resolve(_placed(name, dir), None, prepared_dir, options)
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
    sources = [one for named in _training_sets(train) for one in in_each_folder(named, dir)]
    targets = [
        one
        for name in test
        for split in spread(named_set(name))
        for one in in_each_folder(split, dir)
    ]
    keys = _keys(dict.fromkeys([*sources, *targets]))
    # Resolve all names before reading any data set, so that mistakes are reported at once.
    with _uncollected():
        resolved = {
            key: dataclasses.replace(resolve(named, dir, prepared_dir, {}), skip_broken=skip_broken)
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
    resolve(spread(named_set(name))[0], dir, None, {})


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
    copies = find_copies(folder_of_copies(prepared_dir))
    if name is None:
        return copies
    content = resolve(_placed(name, dir), None, prepared_dir, options).content
    if not isinstance(content, Source):
        return []
    return [
        copy
        for copy in copies
        if copy.path.parts[-3] == content.name
        and (not copy.complete or copy.path.parts[-2:] != (content.config, content.version))
    ]


def _placed(name: str, dir: str | os.PathLike | None) -> Named:
    named = named_set(name)
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
    return [named_set(name) for name in names]


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
