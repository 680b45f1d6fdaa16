"""Chips: public figures, and topologies of them that the compiler knows without the hardware."""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from jaxreid.names import check_name

# Read by libtpu while it loads: it must neither look for a TPU and its host, nor keep other
# processes from it, nor log.
QUIET = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """Figures of one chip.

    Attributes:
        tflops: peak of bfloat16 products, 10^12 operations per second.
        hbm_gib: memory, GiB.
        hbm_gbs: memory bandwidth, 10^9 bytes per second.
        ici_gbs: 10^9 bytes per second that a chip can send over all its links: half of the
            bidirectional figure, or for v4 the all-reduce bandwidth of a pod by chip (they agree
            for v5e and v6e).
        dims: dimensions of the torus.
        devices: devices of a chip in the compiler's topology.
        source: where the figures are published.
    """

    tflops: float
    hbm_gib: float
    hbm_gbs: float
    ici_gbs: float
    dims: int
    devices: int
    source: str


# Read in November 2026.
CHIPS = {
    "v4": Chip(275, 32, 1200, 268, 3, 2, "https://cloud.google.com/tpu/docs/v4"),
    "v5e": Chip(197, 16, 819, 200, 2, 1, "https://cloud.google.com/tpu/docs/v5e"),
    "v5p": Chip(459, 95, 2765, 600, 3, 1, "https://cloud.google.com/tpu/docs/v5p"),
    "v6e": Chip(918, 32, 1638, 400, 2, 1, "https://cloud.google.com/tpu/docs/v6e"),
}
# Virtual devices, compiled by XLA:CPU; the operations take the form of the named platform.
VIRTUAL = ("cpu", "gpu")


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
        kind: one of `CHIPS` or `VIRTUAL`.
        shape: chips along each dimension; one number for virtual devices.
    """

    kind: str
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def chip(self) -> Chip | None:
        """Figures of a chip; None for virtual devices."""
        return CHIPS.get(self.kind)

    @property
    def platform(self) -> str:
        """Platform whose form the operations take."""
        return "tpu" if self.chip else self.kind

    def __str__(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"


def parse_topologies(text: str, chips: Sequence[int] = ()) -> list[Topology]:
    """Parse topologies such as "v5e:4x4", "v5e:2x2,v5e:4x4" or "gpu:8".

    Args:
        text: KIND:SHAPE, several with commas; a number of chips as the shape stands for the usual
            shape.
        chips: numbers of chips, which replace the shape of a single topology; its kind is enough
            then ("v5e").

    Raises:
        ValueError: an unknown kind, or a shape that does not fit it.
    """
    parts = [part.strip() for part in text.split(",")]
    if not chips:
        return [_parse(part) for part in parts]
    if len(parts) > 1:
        raise ValueError(
            f"--chips={','.join(map(str, chips))} with the topologies {text}: give one kind, as in "
            "--topology=v5e --chips=1,8,64, or the shapes without --chips."
        )
    kind = check_name(parts[0].partition(":")[0], (*CHIPS, *VIRTUAL), "topology")
    return [Topology(kind, usual_shape(kind, count)) for count in chips]


def _parse(text: str) -> Topology:
    kind, _, shape = text.partition(":")
    check_name(kind, (*CHIPS, *VIRTUAL), "topology")
    dims = CHIPS[kind].dims if kind in CHIPS else 1
    example = "x".join("4" * dims) if kind in CHIPS else "8"
    if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})*", shape):
        raise ValueError(
            f"the topology {text!r} has no shape; expected {kind}:SHAPE, as in {kind}:{example}."
        )
    sizes = tuple(int(size) for size in shape.split("x"))
    if len(sizes) == 1:
        return Topology(kind, usual_shape(kind, sizes[0]))
    if len(sizes) != dims:
        raise ValueError(
            f"the topology {text!r} has {len(sizes)} dimensions; expected {dims}, as in "
            f"{kind}:{example}."
        )
    return Topology(kind, sizes)


def usual_shape(kind: str, chips: int) -> tuple[int, ...]:
    """Return the shape of a slice with this number of chips: near a square or a cube, longest last.

    Raises:
        ValueError: the number is not a power of 2.
    """
    if kind in VIRTUAL:
        return (chips,)
    power = chips.bit_length() - 1
    if chips != 2**power:
        raise ValueError(
            f"{chips} chips of {kind} have no usual shape; expected a power of 2, or give the "
            f"shape, as in --topology={kind}:{'x'.join('4' * CHIPS[kind].dims)}."
        )
    dims = CHIPS[kind].dims
    # The first machine has 2x2 chips, also of a cube.
    if chips == 4 and dims == 3:
        return (2, 2, 1)
    return tuple(2 ** ((power + i) // dims) for i in range(dims))


def prepare(topologies: Sequence[Topology]) -> None:
    """Set up the process for its topologies; to be called before JAX is imported.

    Raises:
        ModuleNotFoundError: the compiler of TPUs is not installed.
    """
    if any(topology.chip for topology in topologies):
        if importlib.util.find_spec("libtpu") is None:
            raise ModuleNotFoundError(
                "the compiler of TPUs is not installed: pip install 'jaxreid[tpu]' (no TPU is "
                "needed); --topology=gpu:8 compiles for virtual devices without it."
            )
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
    import jax

    # Nothing is computed, and an accelerator may be in use by others.
    jax.config.update("jax_platforms", "cpu")
    virtual = [topology.chips for topology in topologies if not topology.chip]
    if virtual and jax.config.jax_num_cpu_devices < max(virtual):
        # Without effect once JAX has started (`devices_of`).
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", max(virtual))


def devices_of(topology: Topology) -> list[Any]:
    """Return the devices of a topology, after `prepare`.

    Raises:
        ValueError: the compiler does not know the shape, or JAX has started with fewer devices.
    """
    import jax
    from jax.experimental import topologies

    if not topology.chip:
        devices = jax.devices("cpu")[: topology.chips]
        if len(devices) < topology.chips:
            raise ValueError(
                f"{topology} needs {topology.chips} virtual devices, and JAX has started with "
                f"{len(devices)}: set JAX_NUM_CPU_DEVICES={topology.chips}."
            )
        return devices
    options = {}
    if topology.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        described = topologies.get_topology_desc(
            topology_name=str(topology), platform="tpu", **options
        )
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"the compiler does not know the topology {topology}: {error}") from error
    return list(described.devices)
