"""The command line starts anew once, with huge pages, and only where they have to be asked for."""

import os
import subprocess
import sys

import pytest

from jaxreid import huge_pages

# Python imports it first: every start leaves a line, and huge pages are always asked for.
CUSTOM = """
import os, sys
from jaxreid import huge_pages
huge_pages._asked_for = lambda: True
print(os.getpid(), os.environ.get("GLIBC_TUNABLES", ""), file=sys.stderr)
"""
LOSING = """
execve = os.execve
def forgetful(program, arguments, environment):
    execve(program, arguments, {**environment, "GLIBC_TUNABLES": ""})
os.execve = forgetful
"""
REFUSING = """
def refused(*arguments):
    raise PermissionError
os.execve = refused
"""
PROGRAM = """
import sys
from jaxreid.huge_pages import use_huge_pages
use_huge_pages()
print(*sys.argv[1:], sep="|")
"""
ASKED = "glibc.malloc.hugetlb=1"


def run(folder, *arguments, tunables="", custom=CUSTOM):
    """Process id, lines of the starts, standard output and exit status."""
    (folder / "sitecustomize.py").write_text(custom)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "GLIBC_TUNABLES": tunables, "PYTHONPATH": path}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, **pipes)
    output, errors = process.communicate(timeout=60)
    own = f"{process.pid} "
    starts = [line.removeprefix(own) for line in errors.splitlines() if line.startswith(own)]
    return starts, output.strip(), process.returncode


@pytest.mark.parametrize(
    ("before", "starts"),
    [
        ("", ["", ASKED]),
        ("glibc.malloc.check=0", ["glibc.malloc.check=0", f"glibc.malloc.check=0:{ASKED}"]),
        ("glibc.malloc.hugetlb=0", ["glibc.malloc.hugetlb=0"]),
    ],
)
def test_program_starts_anew_as_the_same_process_with_the_same_arguments(tmp_path, before, starts):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    got = run(tmp_path, program, "--name=a b", "*", tunables=before)
    assert got == (starts, "--name=a b|*", 0)


@pytest.mark.parametrize("module", ["jaxreid", "jaxreid.main"])
def test_both_entry_points_start_anew_and_keep_the_exit_status(tmp_path, module):
    starts, _, status = run(tmp_path, "-m", module, "--nonsense")
    assert starts == ["", ASKED]
    assert status == {"jaxreid": 2, "jaxreid.main": 1}[module]


@pytest.mark.parametrize(("custom", "starts"), [(LOSING, ["", ""]), (REFUSING, [""])])
def test_program_runs_where_the_variable_is_lost_or_the_start_refused(tmp_path, custom, starts):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert run(tmp_path, program, "x", custom=CUSTOM + custom) == (starts, "x", 0)


def test_python_that_was_started_for_another_program_goes_on(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    starts, output, _ = run(tmp_path, "-m", "cProfile", "-s", "time", program, "x")
    assert starts == [""]
    assert output.startswith("x")


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
    monkeypatch.setattr(huge_pages, "MODE", tmp_path / "enabled")
    monkeypatch.setattr(os, "confstr", lambda name: library, raising=False)
    if mode is not None:
        huge_pages.MODE.write_text(mode)
    assert huge_pages._asked_for() == asked
