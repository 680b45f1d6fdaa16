"""Best local matches between feature maps: the one expensive operation of the project.

Letters: Q queries, G gallery images, r positions of a query map, s positions of a gallery map,
d channels. Positions are the h*w cells of a map, row by row.
"""

import jax
import jax.numpy as jnp

# Numbers in a correlation tile. Measured on two CPU cores with 32 queries and 128 gallery maps:
# forward is fastest at eight times as many, forward and backward at this.
TILE_SIZE = 2**18


def match_pair(query: jax.Array, gallery: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Best matches of one pair of maps: the definition, and the oracle of `best_matches`.

    Args:
        query: [r, d] float.
        gallery: [s, d] float.

    Returns:
        [s] the best query match of each gallery position and
        [r] the best gallery match of each query position; in [-1, 1] where rows have unit norm.

    Source: Liao and Shao, ECCV 2020, Section 3.
    """
    correlation = jnp.einsum("rd,sd->rs", query, gallery)
    return correlation.max(0), correlation.max(1)


def best_matches(
    query: jax.Array, gallery: jax.Array, *, tile: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Best matches of every query with every gallery map, both ways.

    The correlation [Q, G, r, s] never exists as a whole: the gallery is taken `tile` maps at a
    time, and the gradient computes each tile's correlation again instead of keeping it.

    Args:
        query: [Q, r, d] float.
        gallery: [G, s, d] float.
        tile: gallery maps per step; default so that a tile holds about `TILE_SIZE` numbers.

    Returns:
        [Q, G, s] over gallery positions and [Q, G, r] over query positions, as `match_pair`;
        float32 or wider, whatever the features' type.
    """
    tile = tile or max(1, TILE_SIZE // (query.shape[0] * query.shape[1] * gallery.shape[1]))
    dtype = jnp.promote_types(query.dtype, jnp.float32)

    @jax.checkpoint
    def one(gallery_map: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Gallery positions as rows: both maxima then read the tile along its own axes.
        correlation = jnp.einsum("sd,qrd->sqr", gallery_map, query, preferred_element_type=dtype)
        return correlation.max(2).T, correlation.max(0)

    over_gallery, over_query = jax.lax.map(one, gallery, batch_size=min(tile, gallery.shape[0]))
    return over_gallery.swapaxes(0, 1), over_query.swapaxes(0, 1)


def matched_positions(query: jax.Array, gallery: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the best matches of `best_matches` are; for few pairs, since it keeps the correlation.

    Args:
        query: [Q, r, d] float.
        gallery: [G, s, d] float.

    Returns:
        [Q, G, s] int32 query position that each gallery position matches best, and
        [Q, G, r] int32 gallery position that each query position matches best; the first of equals.
    """
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    correlation = jnp.einsum("qrd,gsd->qgrs", query, gallery, preferred_element_type=dtype)
    return correlation.argmax(2).astype(jnp.int32), correlation.argmax(3).astype(jnp.int32)
