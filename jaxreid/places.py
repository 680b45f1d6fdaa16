"""Paths as users write them, and the user's cache folder.

Work directories and weights may also lie in an object store. Its paths (`etils.epath.Path`, which
comes with Orbax) have the methods of `pathlib.Path`, but writes are those of `runs.files`.
"""

import importlib.util
import os
import pathlib
import re
from typing import Any

# Schemes of object stores, and the package that reads and writes each.
STORES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
# One way to every store, whether TensorFlow is installed or not; etils asks once.
os.environ.setdefault("EPATH_USE_TF", "false")


def expanded(path: str | os.PathLike) -> pathlib.Path:
    """Return a local path with ~ replaced by the home directory.

    Raises:
        ValueError: the home directory does not exist, or the path is one of an object store.
    """
    if scheme_of(path) in STORES:
        raise ValueError(
            f"{os.fspath(path)} is in an object store; expected a local path. Mount the store as a "
            "folder, or copy what is needed. Weights are read from stores as they are, and work "
            "directories may lie on gs://."
        )
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        home = pathlib.Path(path).parts[0]
        raise ValueError(
            f"{path}: {home} has no home directory here (HOME is not set, or there is no such "
            "user); write the path without ~."
        ) from error


def scheme_of(path: str | os.PathLike) -> str:
    """Return what precedes :// in a URL; "" for a path."""
    scheme = re.match(r"(\w+)://", os.fspath(path))
    return scheme[1] if scheme else ""


def place(path: str | os.PathLike) -> pathlib.Path:
    """Return the path of a file or folder of a run: local as from `expanded`, or a store's.

    A store's is an `etils.epath.Path`, which is used as a `pathlib.Path`.

    Args:
        path: local path, file:// URL, or URL of a store in `STORES`.

    Raises:
        ValueError: another scheme, a package is missing, or the store cannot be reached.
    """
    text, scheme = os.fspath(path), scheme_of(path)
    if not scheme:
        return expanded(path)
    if scheme == "file":
        return expanded(text.removeprefix("file://"))
    if (package := STORES.get(scheme)) is None:
        names = ", ".join(f"{name}://" for name in STORES)
        raise ValueError(f"{text}: expected a path, or a URL that begins with {names} or file://.")
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{text}: {scheme}:// needs a package: pip install {package}")
    from etils import epath

    remote: Any = epath.Path(text)
    _reach(remote, package)
    return remote


def _reach(path: Any, package: str) -> None:
    """Raise ValueError if a store does not answer: its package has many kinds of errors."""
    try:
        path.exists()
    except Exception as error:
        reason = str(error).splitlines() or [type(error).__name__]
        raise ValueError(
            f"{path} cannot be reached: {reason[0][:300]}. Check the name, the network and the "
            f"credentials of {package}."
        ) from error


def is_remote(path: Any) -> bool:
    """Return whether a path is one of an object store."""
    return not isinstance(path, pathlib.Path)


def user_cache() -> pathlib.Path:
    """Return the cache folder of this package (below `XDG_CACHE_HOME` or ~/.cache).

    Raises:
        ValueError: the home directory is not known.
    """
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxreid"
