"""Digests of files, remembered as long as the files do not change.

A start reads every image of a folder once; later starts compare size, times and inode.
"""

import json
import os
import pathlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

from jaxreid.places import user_cache

# Files changed this recently could change again without another time stamp (seconds).
_SETTLED = 3.0
_THREADS = 16


def digests_of(paths: Sequence[pathlib.Path], root: pathlib.Path) -> list[str]:
    """Return 16 hexadecimal digits for each file that change with any of its bytes.

    Digests are kept in the user's cache folder (`XDG_CACHE_HOME`, `~/.cache`), by the path of
    `root`. Without write access there, files are read at every start.

    Raises:
        OSError: a file cannot be read; the message names it.
    """
    memory = _memory(root)
    known, now = _remembered(memory), time.time()

    def digest(path: pathlib.Path) -> tuple[str, list]:
        stat = path.stat()
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        held = known.get(str(path))
        if held and held[1:] == mark:
            return held[0], held
        value = blake2b(path.read_bytes(), digest_size=8).hexdigest()
        settled = max(stat.st_mtime, stat.st_ctime) < now - _SETTLED
        return value, [value, *mark] if settled else []

    try:
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            pairs = list(pool.map(digest, paths))
    except OSError as error:
        raise type(error)(
            f"cannot read {error.filename}: {error.strerror}; expected a readable image. Restore "
            "the file, or remove it and start again."
        ) from error
    fresh = {str(path): held for path, (_, held) in zip(paths, pairs, strict=True) if held}
    if memory and fresh != known:
        _remember(memory, fresh)
    return [value for value, _ in pairs]


def _memory(root: pathlib.Path) -> pathlib.Path | None:
    try:
        cache = user_cache()
    except ValueError:  # no home
        return None
    name = blake2b(os.fsencode(root.absolute()), digest_size=8).hexdigest()
    return cache / "digests" / f"{name}.json"


def _remembered(memory: pathlib.Path | None) -> dict[str, list]:
    try:
        held = json.loads(memory.read_text()) if memory else {}
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _remember(memory: pathlib.Path, digests: dict[str, list]) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        partial = memory.with_name(f"{memory.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(digests))
        partial.replace(memory)
    except OSError:
        return
