"""Shared fixtures: eight virtual devices, exact matrix products, the golden data."""

import os
import pathlib

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """Folder of numbers computed by the methods' original code; skips where there is none."""
    given = os.environ.get("JAXREID_GOLDEN")
    folder = pathlib.Path(given) if given else REPOSITORY.parent / "shared" / "golden" / "public"
    if not (folder / "index.json").is_file():
        if given:
            raise FileNotFoundError(f"JAXREID_GOLDEN={given} holds no index.json")
        pytest.skip("no golden data: set JAXREID_GOLDEN to a folder of them")
    return folder
