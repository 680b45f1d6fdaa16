"""Where best matches are, and the gradient of best matches, which needs to know nothing else.

Letters: i queries and j gallery maps of a tile, r and s positions of theirs, d channels.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.ops.device_varying import zeros_like
from jaxreid.ops.tiles import cut, tile_shape

Array = jax.Array


def first_position(x: Array, best: Array, axis: int) -> Array:
    """Where along an axis the maximum is. Four times as fast as `argmax` on a CPU."""
    dtype = position_dtype(x.shape[axis])
    index = jax.lax.broadcasted_iota(dtype, x.shape, axis)
    last = dtype(x.shape[axis] - 1)  # of NaN, which equals nothing
    return jnp.where(x == jnp.expand_dims(best, axis), index, last).min(axis)


def position_dtype(count: int) -> Any:
    """The smallest type that numbers `count` positions."""
    return jnp.uint8 if count <= 2**8 else jnp.uint16 if count <= 2**16 else jnp.uint32


def gathered(
    query: Array,
    gallery: Array,
    to_query: Array,
    to_gallery: Array,
    in_gallery: Array,
    in_query: Array,
    gate: Array | None = None,
) -> tuple[Array, ...]:
    """Gradients of a tile by looking the matched features up: the fewest operations.

    Args:
        query: [i, r, d] float.
        gallery: [j, s, d] float.
        to_query: [j, i, r] float, what arrives at the query positions' best matches.
        to_gallery: [j, i, s] float, at the gallery positions'.
        in_gallery: [j, i, r] int, where the query positions' best matches are.
        in_query: [j, i, s] int, where the gallery positions' are.
        gate: [r, s] float, by which the correlation was multiplied.

    Returns:
        [i, r, d] and [j, s, d] float, and with a gate the [r, s] of the gate.
    """
    (i, r, d), (j, s, _) = query.shape, gallery.shape
    rows, columns = gallery.reshape(j * s, d), query.reshape(i * r, d)
    row = (in_gallery.astype(jnp.int32) + s * jnp.arange(j)[:, None, None]).reshape(j, i * r)
    column = in_query.astype(jnp.int32) + r * jnp.arange(i)[:, None]
    column = column.swapaxes(1, 2).reshape(j * s, i)
    inside = {"mode": "promise_in_bounds"}
    matched_rows = rows.at[row].get(**inside)
    matched_columns = columns.at[column].get(**inside)
    of_gate = ()
    if gate is not None:
        for_query, for_gallery = (jnp.arange(r), in_gallery), (in_query, jnp.arange(s))
        product = jnp.einsum("jmd,md->jm", matched_rows, columns).reshape(j, i, r)
        total = zeros_like(gate).at[for_query].add(to_query * product, **inside)
        product = jnp.einsum("nid,nd->ni", matched_columns, rows).reshape(j, s, i)
        total = total.at[for_gallery].add(to_gallery * product.swapaxes(1, 2), **inside)
        to_query = to_query * gate.at[for_query].get(**inside)
        to_gallery = to_gallery * gate.at[for_gallery].get(**inside)
        of_gate = (total,)
    to_columns, to_rows = to_query.reshape(j, i * r), to_gallery.swapaxes(1, 2).reshape(j * s, i)
    of_columns = jnp.einsum("jm,jmd->md", to_columns, matched_rows)
    of_columns = of_columns.at[column].add(to_rows[..., None] * rows[:, None], **inside)
    of_rows = jnp.einsum("ni,nid->nd", to_rows, matched_columns)
    of_rows = of_rows.at[row].add(to_columns[..., None] * columns, **inside)
    return of_columns.reshape(query.shape), of_rows.reshape(gallery.shape), *of_gate


def one_hot(
    query: Array,
    gallery: Array,
    to_query: Array,
    to_gallery: Array,
    in_gallery: Array,
    in_query: Array,
    gate: Array | None = None,
) -> tuple[Array, ...]:
    """As `gathered`, by products with the gradient of the correlation, which is mostly zeros.

    Where products are nearly free and scattered access is not: GPUs and TPUs.
    """
    s, r = gallery.shape[1], query.shape[1]
    there = in_gallery[:, None] == jnp.arange(s, dtype=in_gallery.dtype)[:, None, None]
    back = in_query.swapaxes(1, 2)[..., None] == jnp.arange(r, dtype=in_query.dtype)
    correlation = jnp.where(there, to_query[:, None], 0)  # [j, s, i, r]
    correlation += jnp.where(back, to_gallery.swapaxes(1, 2)[..., None], 0)
    of_gate = ()
    if gate is not None:
        product = jnp.einsum("jsd,ird->jsir", gallery, query)
        of_gate = (jnp.einsum("jsir,jsir->rs", correlation, product),)
        correlation = correlation * gate.T[:, None]
    return (
        jnp.einsum("jsir,jsd->ird", correlation, gallery),
        jnp.einsum("jsir,ird->jsd", correlation, query),
        *of_gate,
    )


def gradient_of_matches(
    tile: int, engine: str, positions: bool, kept: Any, cotangents: Any
) -> tuple[Array, Array, tuple[Array, ...]]:
    """Gradients of both maps and of the gate, a tile of pairs at a time.

    What arrives at a position's best match goes on to the position, times the feature it matched
    and the gate, and to the matched one, times the feature of the position and the gate. To the
    gate goes what arrives times the correlation of the two, which is computed again.
    """
    query, gallery, gate, in_gallery, in_query = kept
    to_query, to_gallery = cotangents[:2]
    i, j = tile_shape(query, gallery, tile)
    dtype = to_query.dtype
    on_tile = gathered if jax.default_backend() == "cpu" else one_hot
    queries, galleries = cut(query.astype(dtype), i), cut(gallery.astype(dtype), j)
    wide_gate = tuple(x.astype(dtype) for x in gate)

    def pairs(x: Array) -> Array:  # [Q, G, n] as tiles [b, a, j, i, n]
        return cut(cut(x, i).transpose(2, 0, 1, 3), j).transpose(0, 2, 1, 3, 4)

    def gallery_tile(total: Any, given: Any) -> tuple[Any, Array]:
        gallery_maps, *parts = given

        def query_tile(total: Any, given: Any) -> tuple[Any, Array]:
            query_maps, *pair = given
            of_query, *others = on_tile(query_maps, gallery_maps, *pair, *wide_gate)
            return [a + b for a, b in zip(total, others, strict=True)], of_query

        of_queries, of_gate = total
        start = [zeros_like(gallery_maps), *of_gate]
        (of_gallery, *of_gate), found = jax.lax.scan(query_tile, start, (queries, *parts))
        return (of_queries + found, of_gate), of_gallery

    given = (galleries, *map(pairs, (to_query, to_gallery, in_gallery, in_query)))
    start = zeros_like(queries), [zeros_like(x) for x in wide_gate]
    (of_query, of_gate), of_gallery = jax.lax.scan(gallery_tile, start, given)
    of_query, of_gallery = (
        gradient.reshape(-1, *x.shape[1:])[: len(x)].astype(x.dtype)
        for gradient, x in ((of_query, query), (of_gallery, gallery))
    )
    of_gate = tuple(total.astype(x.dtype) for total, x in zip(of_gate, gate, strict=True))
    return of_query, of_gallery, of_gate
