"""Device mesh with a single axis that shards batches and the class memory.

Multi-device code is written per device under `jax.shard_map` and uses this axis in its collectives.
Arrays are either replicated (`P()`) or sharded along their first axis (`P(AXIS)`).
"""

import contextlib
import contextvars
import hashlib
import pathlib
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxreid.places import user_cache

AXIS = "data"
# Platform of exported programs: operations keep their plain form, without loops over tiles, so that
# the number of images may stay unknown.
ANY = "any"
# Platform that is compiled for, if it is not that of this process (`compile_for`).
_COMPILED_FOR: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """Return the platform that is compiled for: "cpu", "gpu", "tpu", or `ANY` in an export.

    Operations with a form of their own for a platform ask this function while they are traced.
    """
    return _COMPILED_FOR.get() or jax.default_backend()


@contextlib.contextmanager
def compile_for(name: str) -> Iterator[None]:
    """Trace for another platform than that of this process (`platform`)."""
    token = _COMPILED_FOR.set(name)
    try:
        yield
    finally:
        _COMPILED_FOR.reset(token)


def kept_whole(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Return a function that exporters see as one operation, known by its name."""
    return jax.jit(function) if platform() == ANY else function


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Make a one-dimensional mesh of devices (default: all devices of all processes).

    Devices are ordered by process, so each process holds a contiguous part of a batch.
    """
    devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
    # Auto rather than the default Explicit, which requires an `out_sharding` for every indexing and
    # scatter outside shard_map.
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def check_devices() -> None:
    """Raise ValueError with a remedy if JAX finds no device of the requested platform."""
    try:
        jax.devices()
    # JAX raises AssertionError if the plugin of the platform is not installed.
    except (RuntimeError, AssertionError) as error:
        reason = f" ({str(error).splitlines()[0].rstrip('.')})" if str(error) else ""
        raise ValueError(
            f"JAX finds no device of JAX_PLATFORMS={jax.config.jax_platforms}{reason}: set it to "
            "cpu, unset it, or install support for the device, as in pip install 'jaxreid[cuda]'."
        ) from error


def remember_compiled() -> None:
    """Enable JAX's persistent compilation cache, unless one is configured already."""
    if not jax.config.jax_compilation_cache_dir:
        # Without a home, or without access to it, programs are compiled anew each time.
        with contextlib.suppress(ValueError, OSError):
            cache = user_cache() / "compiled"
            cache.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=cache).close()
            jax.config.update("jax_compilation_cache_dir", str(cache))


def shardings(mesh: Mesh, specs: Any) -> Any:
    """Map a tree of `PartitionSpec`s to `NamedSharding`s."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P)
    )


def check_divisible(count: int, mesh: Mesh, what: str) -> None:
    """Raise ValueError, naming the setting `what`, if `count` rows do not divide evenly."""
    size = mesh.size
    if count <= 0 or count % size:
        below, above = count // size * size, (max(count, 0) // size + 1) * size
        nearest = f"{below} or {above}" if below > 0 else f"{above}"
        raise ValueError(
            f"{what}={count} does not divide evenly over {size} devices; use a multiple of {size}, "
            f"for example {nearest}."
        )


def gather_rows(x: jax.Array) -> jax.Array:
    """Join the rows of all devices of the mesh, inside `jax.shard_map`.

    A single device keeps its own. The gradient of a gather is a reduce-scatter, and one over a
    single device aborts the TPU compiler at low effort (libtpu 0.0.42).
    """
    return x if jax.lax.axis_size(AXIS) == 1 else jax.lax.all_gather(x, AXIS, tiled=True)


def to_devices(mesh: Mesh, tree: Any) -> Any:
    """Build global arrays, sharded along their first axis, from the rows of this process."""
    sharding = NamedSharding(mesh, P(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def sent_ahead(mesh: Mesh, batches: Iterator[Any]) -> Generator[Any, None, None]:
    """Yield batches as `to_devices` builds them, the next one loaded and sent in the meantime.

    Close it to stop early; that closes `batches`.
    """

    def send() -> Any:
        batch = next(batches, None)
        return None if batch is None else to_devices(mesh, batch)

    with contextlib.closing(batches), ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(send)
        while (batch := waiting.result()) is not None:
            waiting = thread.submit(send)
            yield batch


def to_host(tree: Any) -> Any:
    """Gather arrays, possibly sharded over processes, as whole NumPy arrays on every process."""

    def fetch(x: jax.Array) -> np.ndarray:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return np.asarray(x)
        if x.is_fully_replicated:
            return np.asarray(x.addressable_shards[0].data)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(fetch, tree)


def all_agree(ok: bool) -> bool:
    """Return True if `ok` is True on every process; synchronises all processes."""
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def check_same_file(path: pathlib.Path) -> None:
    """Raise ValueError on every process if the file at `path` differs or is missing on some."""
    if jax.process_count() == 1:
        return
    content = path.read_bytes() if path.is_file() else b""
    digest = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
    if len(np.unique(multihost_utils.process_allgather(digest), axis=0)) > 1:
        raise ValueError(f"{path} differs between machines; expected the same file on all of them.")
