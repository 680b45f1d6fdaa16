"""Tiled correlation: pairs of maps are processed in tiles, as the whole does not fit in memory.

Notation: Q queries, G gallery images, i queries and j gallery maps per tile, r positions of a query
map, s positions of a gallery map, d channels.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.mesh import ANY, platform

Array = jax.Array


def tile_shape(query: Array, gallery: Array, size: int) -> tuple[int, int]:
    """Return queries and gallery maps per tile of `size` numbers, with minimal padding."""
    pairs = max(1, size // (query.shape[1] * gallery.shape[1]))
    # Matrix products are faster if the sizes are powers of 2.
    power = round(math.log2(pairs))
    columns = min(2 ** (power // 2), max(1, len(query)))
    rows = min(2**power // columns, max(1, len(gallery)))
    columns = min(max(columns, 2**power // rows), max(1, len(query)))

    def evenly(count: int, at_most: int) -> int:
        return -(-count // -(-count // at_most)) if count else 1

    return evenly(len(query), columns), evenly(len(gallery), rows)


def cut(x: Array, size: int) -> Array:
    """Reshape [N, ...] to [tiles, size, ...], padded with zeros."""
    tiles = -(-len(x) // size)
    padded = jnp.pad(x, [(0, tiles * size - len(x))] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(tiles, size, *x.shape[1:])


def map_rows(function: Callable[[Any], Any], rows: Any, *, at_once: int) -> Any:
    """Run `jax.lax.map` over rows, `at_once` together; all together in an exported program."""
    if platform() == ANY:
        return jax.vmap(function)(rows)
    return jax.lax.map(function, rows, batch_size=at_once)


def over_tiles(query: Array, gallery: Array, tile: int, reduce: Callable[[Array], Any]) -> Any:
    """Reduce the correlation tile by tile.

    Args:
        query: [Q, r, d] float.
        gallery: [G, s, d] float.
        tile: numbers in a tile.
        reduce: takes a tile [j, s, i, r], float32 or wider.

    Returns:
        The results of `reduce`, stacked as [b, a, ...] for b gallery tiles and a query tiles. An
        exported program has one tile.
    """
    whole = platform() == ANY
    i, j = (query.shape[0], gallery.shape[0]) if whole else tile_shape(query, gallery, tile)
    dtype = jnp.promote_types(jnp.promote_types(query.dtype, gallery.dtype), jnp.float32)
    (r, d), s = query.shape[1:], gallery.shape[1]

    def reduce_tile(gallery_maps: Array, query_maps: Array) -> Any:
        # Gallery positions as rows, query positions as columns: one plain matrix product, along
        # whose axes both maxima are taken.
        rows, columns = gallery_maps.reshape(j * s, d), query_maps.reshape(i * r, d)
        product = jnp.einsum("nd,md->nm", rows, columns, preferred_element_type=dtype)
        return reduce(product.reshape(j, s, i, r))

    if whole:
        return jax.tree.map(lambda x: x[None, None], reduce_tile(gallery, query))
    queries = cut(query, i)
    return jax.lax.map(
        lambda maps: jax.lax.map(functools.partial(reduce_tile, maps), queries), cut(gallery, j)
    )
