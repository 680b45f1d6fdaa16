"""StableHLO files: programs of JAX that run without this package, on any device."""

from collections.abc import Sequence

import jax
import numpy as np
from jax import export

from jaxreid.export.programs import Program

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(program: Program) -> bytes:
    """Return a program as `jax.export.deserialize` reads it, with its weights."""
    exported = export.export(jax.jit(program.function), platforms=PLATFORMS)(
        *program.inputs.values()
    )
    return bytes(exported.serialize())


def run_stablehlo(content: bytes, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Run a StableHLO file on this machine's device; return its result."""
    return np.asarray(jax.jit(export.deserialize(bytearray(content)).call)(*arrays))
