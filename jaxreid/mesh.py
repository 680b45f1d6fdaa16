"""The device mesh: one axis over which batches and the class memory are divided.

Everything that runs on several devices is written per device under `jax.shard_map` and names this
axis in its collectives. Arrays are either whole on every device (`P()`) or cut along their first
axis (`P(AXIS)`).
"""

import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh of the given devices (default: every device of every process).

    The devices of one process are neighbours: each process holds one contiguous part of a batch.
    """
    devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
    # Auto, not the default Explicit: indexing and scatters outside shard_map would each need an
    # `out_sharding`.
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def check_devices() -> None:
    """Raises ValueError, with the cure, where JAX finds no device of the kind that is asked for."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter: its plugin is not installed
        reason = f" ({str(error).splitlines()[0].rstrip('.')})" if str(error) else ""
        raise ValueError(
            f"JAX finds no device of JAX_PLATFORMS={jax.config.jax_platforms}{reason}: set it to "
            "cpu, leave it out, or install what the device needs, as in pip install "
            "'jaxreid[cuda]'."
        ) from error


def remember_compiled() -> None:
    """Keeps compiled programs between runs, unless JAX has a place for them already."""
    if not jax.config.jax_compilation_cache_dir:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache / "jaxreid" / "compiled"))


def shardings(mesh: Mesh, specs: Any) -> Any:
    """`NamedSharding`s for a tree of `PartitionSpec`s."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P)
    )


def check_divisible(count: int, mesh: Mesh, what: str) -> None:
    """Raises ValueError where `count` rows cannot be divided evenly over the mesh.

    Args:
        count: the number of rows.
        mesh: the mesh.
        what: the name of the setting, for the message.
    """
    size = mesh.size
    if count <= 0 or count % size:
        below, above = count // size * size, (max(count, 0) // size + 1) * size
        nearest = f"{below} or {above}" if below > 0 else f"{above}"
        raise ValueError(
            f"{what}={count} cannot be divided over {size} devices; use a multiple of {size}, "
            f"for example {nearest}."
        )


def to_devices(mesh: Mesh, tree: Any) -> Any:
    """Global arrays cut along their first axis, from the rows that this process holds."""
    sharding = NamedSharding(mesh, P(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def to_host(tree: Any) -> Any:
    """Whole NumPy arrays, on every process, from arrays that may be spread over all of them."""

    def fetch(x: jax.Array) -> np.ndarray:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return np.asarray(x)
        if x.is_fully_replicated:
            return np.asarray(x.addressable_shards[0].data)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(fetch, tree)


def all_agree(ok: bool) -> bool:
    """True if `ok` is True on every process; waits for all of them."""
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def check_same_file(path: pathlib.Path) -> None:
    """Raises ValueError, on every process, if some have another file at `path`, or none."""
    if jax.process_count() == 1:
        return
    held = path.read_bytes() if path.is_file() else b""
    digest = np.frombuffer(hashlib.sha256(held).digest(), np.uint8)
    if len(np.unique(multihost_utils.process_allgather(digest), axis=0)) > 1:
        raise ValueError(f"{path} is not the same on all machines; every one needs the same file.")
