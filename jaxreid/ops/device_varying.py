"""Varying axes of arrays in `jax.shard_map`: mesh axes along which devices hold other values."""

import jax
import jax.numpy as jnp


def varying(x: jax.Array) -> frozenset[str]:
    """Return the mesh axes along which `x` varies; empty outside `shard_map`."""
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def vary_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Mark each array as varying along every mesh axis along which any of them varies.

    The transpose of this cast sums the gradient of an array that is the same on all devices over
    the devices, as required.
    """
    axes = [varying(x) for x in arrays]
    union = frozenset().union(*axes)
    return [
        jax.lax.pcast(x, tuple(union - have), to="varying") if union - have else x
        for x, have in zip(arrays, axes, strict=True)
    ]


def zeros_like(x: jax.Array) -> jax.Array:
    """Return zeros with the varying axes of `x`, so that a loop can carry them in its place."""
    axes = tuple(varying(x))
    zeros = jnp.zeros(x.shape, x.dtype)
    return jax.lax.pcast(zeros, axes, to="varying") if axes else zeros
