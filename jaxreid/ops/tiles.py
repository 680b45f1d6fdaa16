"""Pairs of maps in tiles: a correlation too large to exist as a whole is computed piece by piece.

Letters: Q queries, G gallery images, i and j of them in a tile, r positions of a query map,
s positions of a gallery map, d channels.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def tile_shape(query: Array, gallery: Array, size: int) -> tuple[int, int]:
    """Queries and gallery maps per tile of `size` numbers, with as little padding as possible."""
    pairs = max(1, size // (query.shape[1] * gallery.shape[1]))
    power = round(math.log2(pairs))  # products of round sizes are faster
    columns = min(2 ** (power // 2), max(1, len(query)))
    rows = min(2**power // columns, max(1, len(gallery)))
    columns = min(max(columns, 2**power // rows), max(1, len(query)))

    def evenly(count: int, at_most: int) -> int:
        return -(-count // -(-count // at_most)) if count else 1

    return evenly(len(query), columns), evenly(len(gallery), rows)


def cut(x: Array, size: int) -> Array:
    """[N, ...] as [tiles, size, ...], padded with zeros."""
    tiles = -(-len(x) // size)
    padded = jnp.pad(x, [(0, tiles * size - len(x))] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(tiles, size, *x.shape[1:])


def over_tiles(query: Array, gallery: Array, tile: int, reduce: Callable[[Array], Any]) -> Any:
    """Reduces the correlation tile by tile.

    Args:
        query: [Q, r, d] float.
        gallery: [G, s, d] float.
        tile: numbers in a tile.
        reduce: takes a tile [j, s, i, r], float32 or wider.

    Returns:
        The results of `reduce`, stacked as [b, a, ...], for a tiles of i queries and b tiles of j
        gallery maps.
    """
    i, j = tile_shape(query, gallery, tile)
    dtype = jnp.promote_types(jnp.promote_types(query.dtype, gallery.dtype), jnp.float32)
    (r, d), s = query.shape[1:], gallery.shape[1]

    def one(gallery_maps: Array, query_maps: Array) -> Any:
        # Gallery positions as rows, query positions as columns: one plain product, and both maxima
        # read it along its own axes.
        rows, columns = gallery_maps.reshape(j * s, d), query_maps.reshape(i * r, d)
        product = jnp.einsum("nd,md->nm", rows, columns, preferred_element_type=dtype)
        return reduce(product.reshape(j, s, i, r))

    queries = cut(query, i)
    return jax.lax.map(
        lambda maps: jax.lax.map(functools.partial(one, maps), queries), cut(gallery, j)
    )
