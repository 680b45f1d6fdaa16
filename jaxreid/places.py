"""Paths as users write them."""

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
