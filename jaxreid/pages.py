"""Huge pages for the memory of arrays, which glibc has to be asked for before a process starts.

XLA allocates what a program needs anew at every call. In pages of 4 KiB, mapping it takes up to a
third of the time of a training step on a CPU (docs/speed.md).
"""

import os
import pathlib
import sys

# From version 2.35 on, glibc asks the kernel for huge pages if this is 1.
TUNABLE = "glibc.malloc.hugetlb"
LIBRARY = (2, 35)
# Where the kernel says which processes get huge pages: [always], those that ask [madvise], [never].
MODE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Start this program anew with huge pages, if it has to ask for them and did not.

    For the entry points of the command line alone: replaces the process by one with the same
    arguments and process id. `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` prevents it.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables or not _asked_for():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{TUNABLE}=1")))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _asked_for() -> bool:
    """Return True if the kernel gives huge pages to processes that ask, and glibc can."""
    try:
        name, version = str(os.confstr("CS_GNU_LIBC_VERSION")).split()
        known = name == "glibc" and tuple(map(int, version.split("."))) >= LIBRARY
        return known and "[madvise]" in MODE.read_text()
    except (AttributeError, ValueError, OSError):
        return False
