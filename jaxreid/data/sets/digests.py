"""Cache of file digests, valid while files do not change.

A start reads every image of a folder once; later starts compare size, times and inode.
"""

import itertools
import json
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

from jaxreid.places import user_cache

# Files changed this recently could change again without another time stamp (seconds).
_SETTLED = 3.0
_THREADS = 16
# Files per task of a thread; one by one, handing them out takes longer than asking for their times.
_TASK = 500
# Seconds to look up the times of a file on a local disk.
_QUICK = 5e-5


class Memory:
    """Values by name that are kept between runs, in the user's cache folder.

    The folder is `jaxreid` in `XDG_CACHE_HOME` or `~/.cache`; without write access there, nothing
    is kept.

    Args:
        kind: of the values, a folder.
        about: their subject, such as the path of a folder.
    """

    def __init__(self, kind: str, about: str) -> None:
        name = blake2b(os.fsencode(about), digest_size=8).hexdigest()
        self._file: pathlib.Path | None
        try:
            self._file = user_cache() / kind / f"{name}.json"
        except ValueError:  # no home
            self._file = None
        self.known = self._read()

    def keep(self, values: dict[str, list]) -> None:
        """Replace the stored values, if they differ."""
        if self._file is None or values == self.known:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial = self._file.with_name(f"{self._file.name}.{os.getpid()}.partial")
            partial.write_text(json.dumps(values))
            partial.replace(self._file)
        except OSError:
            return

    def _read(self) -> dict[str, list]:
        try:
            held = json.loads(self._file.read_text()) if self._file else {}
            return {name: value for name, value in held.items() if isinstance(value, list)}
        except (OSError, ValueError, AttributeError, RecursionError):  # damaged, or of others
            return {}


def digests_of(paths: Sequence[str | pathlib.Path], root: pathlib.Path) -> list[str]:
    """Return 16 hexadecimal digits for each file that change with any of its bytes.

    Digests are kept by the path of `root` (`Memory`).

    Raises:
        OSError: a file cannot be read; the message names it.
    """
    memory, now = Memory("digests", os.fspath(root.absolute())), time.time()

    def look(names: Sequence[str]) -> list[tuple[str, list]]:
        return [digest(name) for name in names]

    def digest(name: str) -> tuple[str, list]:
        stat = os.stat(name)
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        held = memory.known.get(name)
        if held and held[1:] == mark:
            return held[0], held
        value = blake2b(pathlib.Path(name).read_bytes(), digest_size=8).hexdigest()
        settled = max(stat.st_mtime, stat.st_ctime) < now - _SETTLED
        return value, [value, *mark] if settled else []

    names = [os.fspath(path) for path in paths]
    try:
        began = time.perf_counter()
        pairs = look(names[:_TASK])
        # Threads pay where the file system answers slowly, or files have to be read.
        quick = time.perf_counter() - began < _TASK * _QUICK
        rest = names[_TASK:]
        pairs += look(rest) if quick else in_threads(look, rest)
    except OSError as error:
        raise type(error)(
            f"cannot read {error.filename}: {error.strerror}; expected a readable image. Restore "
            "the file, or remove it and start again."
        ) from error
    memory.keep({name: held for name, (_, held) in zip(names, pairs, strict=True) if held})
    return [value for value, _ in pairs]


def in_threads(function, items: Sequence, size: int = _TASK) -> Iterator:
    """Yield the results of a function of parts of a list, which returns one for each item."""
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    with ThreadPoolExecutor(min(_THREADS, len(parts) or 1)) as pool:
        yield from itertools.chain.from_iterable(pool.map(function, parts))
