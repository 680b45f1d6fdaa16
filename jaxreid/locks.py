"""Locks between processes: one holder at a time, released when its process ends, however it ends.

The system holds the lock (flock). Where it has no locks, as on Windows, on some network file
systems and in object stores, a file that names the holder stands for the lock. A store may let two
processes that start in the same moment both have it.
"""

import contextlib
import datetime
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator
from typing import IO

from jaxreid.places import is_remote

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class InUseError(OSError):
    """Another process holds the lock."""


@contextlib.contextmanager
def hold(path: pathlib.Path, resource: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a resource in a context.

    Args:
        path: file of the lock; created, with its folder, and left in place.
        resource: name of the locked resource, for messages: "work directory runs/qaconv".
        wait: wait for another process instead of raising, with a message to stderr.

    Raises:
        InUseError: another process holds the lock, unless `wait`.
        OSError: the file cannot be created.
    """
    stand_in = path.with_name(path.name + ".held")
    with contextlib.ExitStack() as stack:
        locked = False
        if not is_remote(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a+"))
            locked = _flock(file, resource, wait=wait)
        if locked:
            _write(file, _holder())
        else:
            _create(stand_in, resource, wait=wait)
        try:
            yield
        finally:
            if locked:
                # The lock itself ends with the file's descriptor.
                _write(file, "")
            else:
                stand_in.unlink(missing_ok=True)


def _flock(file: IO[str], resource: str, *, wait: bool) -> bool:
    """Return True once the system has locked a file, False if it has no locks here."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read() or "unknown"
        _refuse_or_report(f"{resource} is in use by another process ({holder})", wait)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _create(path: pathlib.Path, resource: str, *, wait: bool) -> None:
    """Create a file that stands for a lock; wait for it to vanish if another process has it."""
    reported = False
    while True:
        if not is_remote(path):
            with contextlib.suppress(FileExistsError), path.open("x") as file:
                file.write(_holder())
                return
        elif not path.exists():
            path.write_text(_holder())
            return
        with contextlib.suppress(FileNotFoundError):
            holder = path.read_text()
            if _is_dead(holder):
                path.unlink()
                continue
            if not reported:
                _refuse_or_report(
                    f"{resource} is in use by another process ({holder or 'unknown'}; this file "
                    f"system has no locks: if that process has ended, delete {path})",
                    wait,
                )
                reported = True
        time.sleep(0.5)


def _refuse_or_report(problem: str, wait: bool) -> None:
    if not wait:
        raise InUseError(f"{problem}. Wait until it ends, or stop it, and repeat the command.")
    print(f"waiting: {problem}", file=sys.stderr, flush=True)


def _holder() -> str:
    now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
    return f"host {socket.gethostname()}, pid {os.getpid()}, since {now}"


def _is_dead(holder: str) -> bool:
    """Return whether the process that wrote a stand-in is known to have ended."""
    host, _, rest = holder.removeprefix("host ").partition(", pid ")
    pid = rest.partition(",")[0]
    # On Windows, os.kill would end the process instead of checking for it.
    if os.name != "posix" or host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _write(file: IO[str], text: str) -> None:
    # The note is for people: a full disk must not keep a process from its lock.
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(text)
        file.flush()
