"""Shared by all tests: eight virtual devices, exact matrix products, compilations, golden data."""

import functools
import gc
import os
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
import pytest
from flax.core.scope import Scope
from golden import find

gc.set_threshold(100_000)  # tracing makes many objects that live on

# Here and in every process that is started from here: compiled programs run once or a few times,
# and so are not optimised, and what one test has compiled, no other has to. An MLIR context for
# every fusion and 32 modules for every program are made for large ones.
flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):  # XLA no longer has the other way, and ends at unknown flags
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(flags))
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="jaxreid-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    jax.config.update("jax_compilation_cache_dir", COMPILED.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_traceback_in_locations_limit", 0)  # of every operation; none is looked at


@functools.lru_cache(10_000)
def shape_of(initializer, arguments: tuple) -> tuple[int, ...]:
    return jax.eval_shape(lambda: initializer(jax.random.key(0), *arguments)).shape


def trace_initializers_once() -> None:
    """Let Flax remember the shapes of initializers, which it compares with those of parameters.

    It traces every initializer in every `apply`: a third of what tracing OSNet takes.
    """
    param = Scope.param

    def remembering(scope, name, initializer, *arguments, **keywords):
        described = tuple(tuple(a) if isinstance(a, list) else a for a in arguments)
        hashable = not any(isinstance(a, jax.Array) for a in described)
        if hashable and scope.has_variable("params", name):
            value = scope.get_variable("params", name)
            if np.shape(value) == shape_of(initializer, described):
                scope.reserve(name, "params")
                return value
        return param(scope, name, initializer, *arguments, **keywords)  # made, or refused

    Scope.param = remembering


trace_initializers_once()


def on_one_device():
    return mock.patch.object(jax, "devices", new=lambda: jax.local_devices()[:1])  # noqa: PT008


@pytest.fixture(scope="module")
def one_device():
    """Whole runs see one of the eight, which are slow: they wait for each other on a few cores."""
    with on_one_device():
        yield


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


def pytest_collection_modifyitems(items):
    """Whole runs first: what is left at the end is small, and the workers end together."""
    items.sort(key=lambda item: "one_device" not in item.fixturenames)
