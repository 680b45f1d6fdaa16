"""What `jax.shard_map` knows of an array: along which mesh axes it differs on the devices."""

import jax
import jax.numpy as jnp


def varying(x: jax.Array) -> frozenset[str]:
    """Mesh axes along which `x` differs; empty outside `shard_map`."""
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def vary_alike(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, each marked as different on every device on which one of them is.

    A gradient that arrives at an array which is the same everywhere is then summed over the
    devices, as it must be, by the transpose of the mark.
    """
    axes = [varying(x) for x in arrays]
    union = frozenset().union(*axes)
    return [
        jax.lax.pcast(x, tuple(union - have), to="varying") if union - have else x
        for x, have in zip(arrays, axes, strict=True)
    ]


def zeros_like(x: jax.Array) -> jax.Array:
    """Zeros which may be carried through a loop in the place of `x`."""
    axes = tuple(varying(x))
    zeros = jnp.zeros(x.shape, x.dtype)
    return jax.lax.pcast(zeros, axes, to="varying") if axes else zeros
