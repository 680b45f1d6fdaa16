"""Data sets by name, as arrays: found, prepared once by TFDS, read into memory.

    market = load("market1501", dir="/data/market1501")
    plaza = load("synthetic_people/plaza")

A data set is prepared once and read from the copy, `<prepared_dir>/<name>/<config>/<version>`.
Where it comes from a folder, that path carries a fingerprint of the folder's files, so that a
subset, or a folder that changed, gets a copy of its own. No network is used.

TensorFlow is imported inside `load`, after everything that can be found wrong without it.
"""

import importlib
import inspect
import logging
import os
import pathlib
import re
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jaxreid.data.sets.layouts import LAYOUTS
from jaxreid.data.sets.prepared import import_tensorflow, is_prepared, prepare, quiet, read
from jaxreid.data.split import Split, join
from jaxreid.names import check_name

logger = logging.getLogger(__name__)

_BUILDERS = pathlib.Path(__file__).parent / "builders"
_SPLITS = ("train", "query", "gallery")


def available() -> list[str]:
    """Returns the names of all data sets, without their domains, sorted."""
    files = _BUILDERS.glob("*/*_dataset_builder.py")
    return sorted(f.parent.name for f in files if f.stem == f"{f.parent.name}_dataset_builder")


def parse_options(pairs: Iterable[str]) -> dict[str, int | str]:
    """Options of a data set from texts such as `seed=3`; whole numbers become int.

    Raises:
        ValueError: a text is not NAME=VALUE.
    """
    options: dict[str, int | str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"option {pair!r} of a data set: write NAME=VALUE.")
        options[key] = int(value) if value.lstrip("-").isdigit() else value
    return options


def load(
    name: str,
    *,
    dir: str | os.PathLike | None = None,
    prepared_dir: str | os.PathLike | None = None,
    **options,
) -> dict[str, Split]:
    """Loads a data set, preparing it first where that has not been done.

    Preparing is safe to interrupt and safe to start from several processes at once: one of them
    prepares, and the others wait.

    Args:
        name: `<data set>` or `<data set>/<domain>`, as in TFDS; options may follow it, as in
            `synthetic_people/plaza-train_ids=1000-seed=3` or `market1501-time_rule=corrected`.
        dir: folder of a data set that is read from files; see its builder's README for the layout.
        prepared_dir: where prepared copies are kept; TFDS's own place if None ($TFDS_DATA_DIR or
            ~/tensorflow_datasets). Needs no write access once the copy is there.
        **options: of the data set, for example `time_rule` of market1501.

    Returns:
        The splits by name: train, query, gallery.

    Raises:
        FileNotFoundError: `dir` does not exist or is not this data set.
        ValueError: the name, its domain or an option is unknown, `dir` is missing or out of place,
            or the data set holds a broken image.
        OSError: the prepared copy is damaged.
    """
    return _locate(name, dir, prepared_dir, options)()


def load_sets(
    *,
    train: Sequence[str] | str | None,
    test: Sequence[str],
    dir: str | os.PathLike | None = None,
    prepared_dir: str | os.PathLike | None = None,
    identities: int = 0,
) -> tuple[Split | None, dict[str, dict[str, Split]]]:
    """Loads the data sets of one run: those to learn from, and those to be tested on.

    Args:
        train: names of the data sets to learn from, which are joined (`prepared.join`); one name
            alone may also be given as it is. None for no training.
        test: names of the data sets to be tested on.
        dir: folder of the data sets that are read from files.
        prepared_dir: where prepared copies are kept.
        identities: for trying things: keep only this many people of each set; 0 keeps all.

    Returns:
        The training split, None without training; and by name the splits "query" and "gallery" of
        each test set.

    Raises:
        FileNotFoundError: as `load`.
        ValueError: as `load`, no test set is named, or no training set or one twice.
    """
    if isinstance(test, str) or not test:
        raise ValueError(f"data.test is {test!r}; needed is a tuple of one or more data sets.")
    sources = _sources(train)
    located = {}
    for name in dict.fromkeys([*sources, *test]):  # all before any work
        is_folder = re.split("[/-]", name)[0] in LAYOUTS
        located[name] = _locate(name, dir if is_folder else None, prepared_dir, {})
    found = {name: read_all() for name, read_all in located.items()}
    parts = {name: found[name]["train"] for name in sources}
    tests = {name: {part: found[name][part] for part in ("query", "gallery")} for name in test}
    if identities:
        parts = {name: _first_people(split, split, identities) for name, split in parts.items()}
        for splits in tests.values():
            query = splits["query"]
            splits.update({k: _first_people(s, query, identities) for k, s in splits.items()})
    return join(parts) if parts else None, tests


def _sources(train: Sequence[str] | str | None) -> list[str]:
    """The names of the training sets; none if there is no training."""
    if train is None:
        return []
    names = [train] if isinstance(train, str) else list(train)
    if not names:
        raise ValueError(f"data.train is {train!r}; needed is a tuple of one or more data sets.")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"data.train names {name!r} more than once; its images count once.")
    return names


def _locate(
    name: str,
    folder: str | os.PathLike | None,
    prepared_dir: str | os.PathLike | None,
    options: dict[str, Any],
) -> Callable[[], dict[str, Split]]:
    """Finds everything wrong with a name in a moment; what it returns prepares and reads."""
    name, *pairs = name.split("-")
    options = options | parse_options(pairs)
    base = name.partition("/")[0]
    check_name(base, available(), "data set")
    root = _local_dir(prepared_dir)
    module = importlib.import_module(f"jaxreid.data.sets.builders.{base}.{base}_dataset_builder")
    if base in LAYOUTS:
        config, size = _config_of_folder(name, module, folder, options)
    else:
        config, size = _config_of_domain(name, module, folder, options), ""

    def read_all() -> dict[str, Split]:
        tf, tfds = import_tensorflow()
        with quiet():
            builder = module.Builder(data_dir=str(root), config=config)
            if not is_prepared(builder):
                prepare(builder, tfds, name + size)
                builder = module.Builder(data_dir=str(root), config=config)
            return {split: read(builder, split, tf, tfds) for split in _SPLITS}

    return read_all


def _first_people(split: Split, of: Split, count: int) -> Split:
    return split.select(np.isin(split.pid, np.unique(of.pid)[:count]))


def _config_of_folder(
    name: str, module: types.ModuleType, folder: str | os.PathLike | None, options: dict
) -> tuple[object, str]:
    """The configuration of exactly this folder's files, and their number for the message."""
    base, slash, _ = name.partition("/")
    if slash:
        raise ValueError(f"data set {name!r}: {base} has no domains; write {base!r}.")
    if folder is None:
        raise ValueError(
            f"data set {name!r} is read from a folder and needs dir= (of a training "
            f"--config.data.dir=, of the tools --dir). "
            f"{module.Builder.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    layout = LAYOUTS[base]
    _check_options(name, options, layout)
    raw = layout(folder, **options)
    if raw.notice():
        logger.warning(raw.notice())
    return module.make_config(raw), f" ({len(raw):,} images)"


def _config_of_domain(
    name: str, module: types.ModuleType, folder: str | os.PathLike | None, options: dict
) -> object:
    """The configuration of a domain of a data set which needs no files."""
    base, _, domain = name.partition("/")
    check_name(
        name,
        [f"{base}/{config.name}" for config in module.Builder.BUILDER_CONFIGS],
        "domain of a data set",
    )
    if folder is not None:
        raise ValueError(f"data set {name!r} is drawn by code and reads no folder: leave out dir.")
    _check_options(name, options, module.make_config)
    config = module.make_config(domain, **options)
    # TFDS wants a configuration that it knows by name, even an equal one
    return domain if config.name == domain else config


def _check_options(name: str, options: dict, function) -> None:
    valid = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for option in options:
        check_name(option, valid, f"option of {name}")


def _local_dir(prepared_dir: str | os.PathLike | None) -> pathlib.Path:
    given = prepared_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if "://" in str(given):
        raise ValueError(
            f"prepared_dir is {str(given)!r} (given, or TFDS_DATA_DIR); prepared copies are kept "
            "in a local folder: give one as prepared_dir."
        )
    return pathlib.Path(given).expanduser().absolute()
