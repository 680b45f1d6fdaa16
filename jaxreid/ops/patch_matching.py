"""Best local matches between patches: every position stands for the cells around it.

Letters: Q queries, G gallery images, r positions of a query map, s positions of a gallery map,
d channels; h w map size, k x k patch size. At the border a patch goes on with the reflection of
the map.

A patch is a vector of k * k * d numbers, and two are compared by their inner product. That is a
sum over the cells of the patches of the correlations of single positions, so it needs no patches:
the correlation of the maps, padded and summed along its k * k parallel diagonals, is theirs.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.ops.correlation import OTHER_TILE_SIZE, TILE_SIZE, find_matches
from jaxreid.ops.device_varying import vary_alike
from jaxreid.ops.positions import gradient_of_matches

Array = jax.Array


def patches(maps: Array, size: int) -> Array:
    """Every position's patch as one vector.

    Args:
        maps: [N, h, w, d] float.
        size: rows and columns of a patch, odd.

    Returns:
        [N, h * w, size * size * d].

    Raises:
        ValueError: an even size, or maps too small to be reflected so far.
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
    """`correlation.best_matches` of patches: the same results and gradients, with less work.

    Args:
        query: [Q, h, w, d] float.
        gallery: [G, h, w, d] float, of the same size.
        size: rows and columns of a patch, odd.
        positions: as for `best_matches`.
        tile: as for `best_matches`.

    Returns:
        As `best_matches` of `patches(query, size)` and `patches(gallery, size)`.

    Raises:
        ValueError: maps of different sizes; else as for `patches`.

    Source: the patch-wise matching that QAConv-MS (TCSVT 2024) is compared with.
    """
    if query.ndim != 4 or query.shape[1:] != gallery.shape[1:]:
        raise ValueError(
            f"query {query.shape} and gallery {gallery.shape}; needed are [Q, h, w, d] and "
            "[G, h, w, d]."
        )
    _check(*query.shape[1:3], size)
    query, gallery = vary_alike(query, gallery)
    default = TILE_SIZE.get(jax.default_backend(), OTHER_TILE_SIZE)[1]
    return _matches(query, gallery, size, tile or default, positions)


def _check(h: int, w: int, size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"patches of {size}x{size}; needed is an odd size, such as 3.")
    if size // 2 >= min(h, w):
        raise ValueError(
            f"patches of {size}x{size} on maps of {h}x{w}: a map is reflected at its border, and "
            f"needs at least {size // 2 + 1} rows and columns."
        )


def _reflected(x: Array, axis: int, size: int) -> Array:
    """With size // 2 more at both ends of an axis."""
    widths = [(size // 2 * (i == axis),) * 2 for i in range(x.ndim)]
    return jnp.pad(x, widths, mode="reflect")


def diagonal_sums(correlation: Array, shape: tuple[int, int], size: int) -> Array:
    """Correlations of patches from those of positions.

    Args:
        correlation: [j, s, i, r] float, of the positions of maps.
        shape: h and w of the maps.
        size: of the patches.

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
    return maps.reshape(len(maps), -1, maps.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _matches(
    query: Array, gallery: Array, size: int, tile: int, positions: bool
) -> tuple[Array, ...]:
    sums = functools.partial(diagonal_sums, shape=query.shape[1:3], size=size)
    return find_matches(_flat(query), _flat(gallery), tile, "xla", positions, sums)


def _matches_forward(
    query: Array, gallery: Array, size: int, tile: int, positions: bool
) -> tuple[Any, Any]:
    found = _matches(query, gallery, size, tile, True)
    return found if positions else found[:2], (query, gallery, *found[2:])


def _matches_backward(
    size: int, tile: int, positions: bool, kept: Any, cotangents: Any
) -> tuple[Array, Array]:
    """Gradients of the patches, each cell's handed on to the position that it shows."""
    query, gallery, *found = kept
    whole, to_maps = jax.vjp(lambda *maps: [patches(x, size) for x in maps], query, gallery)
    kept = (*whole, (), *found)
    *of_patches, _ = gradient_of_matches(tile, "xla", positions, kept, cotangents)
    return to_maps(of_patches)


_matches.defvjp(_matches_forward, _matches_backward)
