"""Paths as users write them, and the folder that is kept for a user between runs."""

import os
import pathlib


def expanded(path: str | os.PathLike) -> pathlib.Path:
    """Return a path with ~ replaced by the home directory.

    Raises:
        ValueError: there is no such home directory.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        home = pathlib.Path(path).parts[0]
        raise ValueError(
            f"{path}: {home} has no home directory here (HOME is not set, or there is no such "
            "user); write the path without ~."
        ) from error


def user_cache() -> pathlib.Path:
    """Return the cache folder of this package (below `XDG_CACHE_HOME` or ~/.cache).

    Raises:
        ValueError: the home directory is not known.
    """
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxreid"
