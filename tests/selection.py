"""Which cases of a test are left to `-m full`."""

import pytest


def deep(*cases, but=()):
    """Cases of which all `but` these are left to `-m full`."""
    marks = [() if case in but else pytest.mark.full for case in cases]
    return [
        pytest.param(*case, marks=mark)
        if isinstance(case, tuple)
        else pytest.param(case, marks=mark)
        for case, mark in zip(cases, marks, strict=True)
    ]
