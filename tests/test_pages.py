"""The command line starts anew once, with huge pages, and only where they have to be asked for."""

import os
import subprocess
import sys

import pytest

from jaxreid import pages

PROGRAM = """
import os, pathlib, sys
from jaxreid import pages
pages._asked_for = lambda: True
pages.use_huge_pages()
print(os.getpid(), os.environ["GLIBC_TUNABLES"], *sys.argv[1:], sep="|")
"""


def run(tunables):
    environment = {**os.environ, "GLIBC_TUNABLES": tunables}
    command = [sys.executable, "-c", PROGRAM, "--name=a b", "*"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    return process.pid, output.strip().split("|")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_program_starts_anew_as_the_same_process_with_the_same_arguments(before, after):
    pid, output = run(before)
    assert output == [str(pid), after, "--name=a b", "*"]


@pytest.mark.parametrize(
    ("library", "mode", "asked"),
    [
        ("glibc 2.36", "always [madvise] never", True),
        ("glibc 2.36", "[always] madvise never", False),
        ("glibc 2.36", "always madvise [never]", False),
        ("glibc 2.34", "always [madvise] never", False),
        (None, "always [madvise] never", False),
        ("glibc 2.36", None, False),
    ],
)
def test_huge_pages_are_asked_for_where_that_helps(monkeypatch, tmp_path, library, mode, asked):
    monkeypatch.setattr(pages, "MODE", tmp_path / "enabled")
    monkeypatch.setattr(os, "confstr", lambda name: library, raising=False)
    if mode is not None:
        pages.MODE.write_text(mode)
    assert pages._asked_for() == asked
