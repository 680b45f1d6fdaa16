"""Huge pages for the memory of arrays, which must be requested from glibc before a process starts.

XLA allocates what a program needs anew at every call. In pages of 4 KiB, mapping it takes up to a
third of the time of a training step on a CPU (docs/speed.md).
"""

import contextlib
import os
import pathlib
import sys

# From version 2.35 on, glibc asks the kernel for huge pages if this is 1.
TUNABLE = "glibc.malloc.hugetlb"
LIBRARY = (2, 35)
# Where the kernel says which processes get huge pages: [always], those that ask [madvise], [never].
MODE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
# Set for the second start: a process with privileges loses GLIBC_TUNABLES.
STARTED = "_JAXREID_STARTED_ANEW"


def use_huge_pages() -> None:
    """Start this program anew with huge pages, where they must be asked for and were not.

    For entry points of the command line alone. It then does not return: the new program, with the
    same arguments and process id, replaces this one. Nothing happens under a debugger or profiler,
    in a notebook, or with `GLIBC_TUNABLES=glibc.malloc.hugetlb=0`.
    """
    if os.environ.pop(STARTED, None) or not _started_for_us():
        return
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables or not _asked_for():
        return
    asking = ":".join(filter(None, (tunables, f"{TUNABLE}=1")))
    environment = {**os.environ, "GLIBC_TUNABLES": asking, STARTED: "1"}
    # Where this is not allowed, the program works without.
    with contextlib.suppress(OSError, ValueError):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _started_for_us() -> bool:
    """Return True if Python was started for this program: not for a debugger, or a notebook."""
    arguments = sys.orig_argv[1:]
    if "-m" in arguments:
        module = arguments[arguments.index("-m") + 1 :][:1]
        return bool(module) and module[0].split(".")[0] == __name__.split(".")[0]
    return sys.argv[0] in arguments


def _asked_for() -> bool:
    """Return True if the kernel gives huge pages to processes that ask, and glibc can."""
    try:
        name, version = str(os.confstr("CS_GNU_LIBC_VERSION")).split()
        known = name == "glibc" and tuple(map(int, version.split("."))) >= LIBRARY
        return known and "[madvise]" in MODE.read_text()
    except (AttributeError, ValueError, OSError):
        return False
