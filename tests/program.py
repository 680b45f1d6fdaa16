"""The program's entry point, called in the process that asks, or alone: `program.py ARGUMENTS`."""

import contextlib
import io
import sys
import types
from unittest import mock

from absl import app
from absl.testing import flagsaver
from golden import REPOSITORY

from jaxreid import main


def program(arguments):
    """`python -m jaxreid.main ARGUMENTS`, from the repository: exit status and output."""
    stdout, stderr = io.StringIO(), io.StringIO()
    argv = ["jaxreid.main", *map(str, arguments)]
    with (
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        contextlib.chdir(REPOSITORY),
        mock.patch.object(sys, "argv", argv),
        flagsaver.flagsaver(),
    ):
        try:
            status = main.main(main.parse_flags(argv))
        except SystemExit as end:
            status = end.code
    return types.SimpleNamespace(
        returncode=status, stdout=stdout.getvalue(), stderr=stderr.getvalue()
    )


if __name__ == "__main__":
    from conftest import on_one_device  # and eight devices, on which rounding depends

    with on_one_device():
        app.run(main.main, flags_parser=main.parse_flags)
