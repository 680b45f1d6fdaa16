"""Best local matches between patches: every position is described by the cells around it.

Notation: Q queries, G gallery images, r positions of a query map, s positions of a gallery map,
d channels; h w map size, k x k patch size. Maps are padded by reflection.

A patch is a vector of k * k * d numbers, and two patches are compared by their inner product. It is
the sum of k * k correlations of single positions, so patches need not be built: their correlation
is that of the maps, padded and summed along its k * k parallel diagonals.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.mesh import platform
from jaxreid.ops.correlation import OTHER_TILE_SIZE, TILE_SIZE, find_matches
from jaxreid.ops.device_varying import vary_alike
from jaxreid.ops.positions import gradient_of_matches

Array = jax.Array


def patches(maps: Array, size: int) -> Array:
    """Return the patch around every position as a vector.

    Args:
        maps: [N, h, w, d] float.
        size: patch size, odd.

    Returns:
        [N, h * w, size * size * d].

    Raises:
        ValueError: if the size is even, or the maps are too small for the reflection.
    """
    n, h, w, d = maps.shape
    _check(h, w, size)
    padded = _reflected(_reflected(maps, 1, size), 2, size)
    cells = [padded[:, i : i + h, j : j + w] for i in range(size) for j in range(size)]
    return jnp.stack(cells, axis=3).reshape(n, h * w, size * size * d)


def patch_matches(
    query: Array,
    gallery: Array,
    *,
    size: int,
    positions: bool = False,
    tile: int | None = None,
) -> tuple[Array, ...]:
    """Run `correlation.best_matches` on patches: same results and gradients, with less work.

    Args:
        query: [Q, h, w, d] float.
        gallery: [G, h, w, d] float.
        size: patch size, odd.
        positions: see `best_matches`.
        tile: see `best_matches`.

    Returns:
        The result of `best_matches` on `patches(query, size)` and `patches(gallery, size)`.

    Raises:
        ValueError: if the map sizes differ; see also `patches`.

    Source: the patch-wise matching that QAConv-MS (TCSVT 2024) is compared with.
    """
    if query.ndim != 4 or query.shape[1:] != gallery.shape[1:]:
        raise ValueError(
            f"expected query [Q, h, w, d] and gallery [G, h, w, d], got {query.shape} and "
            f"{gallery.shape}."
        )
    _check(*query.shape[1:3], size)
    query, gallery = vary_alike(query, gallery)
    default = TILE_SIZE.get(platform(), OTHER_TILE_SIZE)[1]
    return _matches(query, gallery, size, tile or default, positions)


def _check(h: int, w: int, size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"patches of {size}x{size}; expected an odd size, such as 3.")
    if size // 2 >= min(h, w):
        raise ValueError(
            f"patches of {size}x{size} on maps of {h}x{w}: the reflection at the border needs at "
            f"least {size // 2 + 1} rows and columns."
        )


def _reflected(x: Array, axis: int, size: int) -> Array:
    """Pad both ends of an axis by size // 2, by reflection."""
    widths = [(size // 2 * (i == axis),) * 2 for i in range(x.ndim)]
    return jnp.pad(x, widths, mode="reflect")


def diagonal_sums(correlation: Array, shape: tuple[int, int], size: int) -> Array:
    """Compute the correlation of patches from that of positions.

    Args:
        correlation: [j, s, i, r] float, of single positions.
        shape: h and w of the maps.
        size: patch size.

    Returns:
        [j, s, i, r].
    """
    (j, s, i, r), (h, w) = correlation.shape, shape
    x = correlation.reshape(j, h, w, i, h, w)
    for gallery_axis, query_axis, count in ((1, 4, h), (2, 5, w)):  # rows, then columns
        x = _reflected(_reflected(x, gallery_axis, size), query_axis, size)
        diagonals = [
            jax.lax.slice_in_dim(
                jax.lax.slice_in_dim(x, k, k + count, axis=gallery_axis),
                k,
                k + count,
                axis=query_axis,
            )
            for k in range(size)
        ]
        x = sum(diagonals)
    return x.reshape(j, s, i, r)


def _flat(maps: Array) -> Array:
    return maps.reshape(maps.shape[0], -1, maps.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _matches(
    query: Array, gallery: Array, size: int, tile: int, positions: bool
) -> tuple[Array, ...]:
    sums = functools.partial(diagonal_sums, shape=query.shape[1:3], size=size)
    return find_matches(_flat(query), _flat(gallery), tile, "xla", positions, sums)


def _matches_forward(
    query: Array, gallery: Array, size: int, tile: int, positions: bool
) -> tuple[Any, Any]:
    results = _matches(query, gallery, size, tile, True)
    return results if positions else results[:2], (query, gallery, *results[2:])


def _matches_backward(
    size: int, tile: int, positions: bool, kept: Any, cotangents: Any
) -> tuple[Array, Array]:
    """Compute the gradients of the patches and accumulate each cell's at its map position."""
    query, gallery, *indices = kept
    whole, to_maps = jax.vjp(lambda *maps: [patches(x, size) for x in maps], query, gallery)
    kept = (*whole, (), *indices)
    *of_patches, _ = gradient_of_matches(tile, "xla", positions, kept, cotangents)
    return to_maps(of_patches)


_matches.defvjp(_matches_forward, _matches_backward)
