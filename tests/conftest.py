"""Shared fixtures: eight virtual devices, exact matrix products, the golden data."""

import pathlib

import jax
import pytest
from golden import find

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")


class GoldenFolder:
    """A folder of golden files; a test that asks for one it does not hold is skipped."""

    def __init__(self, folder):
        self.folder = folder

    def __truediv__(self, name) -> pathlib.Path:
        if not (self.folder / name).is_file():
            pytest.skip(f"{self.folder} holds no {name}; JAXREID_GOLDEN=FOLDER names a full set")
        return self.folder / name


@pytest.fixture(scope="session")
def golden_dir() -> GoldenFolder:
    """Numbers of the methods' original code: the full set, or the cut in the repository."""
    return GoldenFolder(find())
