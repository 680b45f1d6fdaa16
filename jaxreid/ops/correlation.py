"""Best local matches between feature maps: the most expensive operation of the project.

Notation: Q queries, G gallery images, r positions of a query map, s positions of a gallery map,
d channels. Positions are the h*w cells of a map in row-major order.

The correlation [Q, G, r, s] is never materialised as a whole. It is computed in tiles of pairs that
fit in the cache, and each tile is reduced to its maxima at once. Gradients only need the positions
of the maxima.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.mesh import platform
from jaxreid.names import check_name
from jaxreid.ops.device_varying import vary_alike
from jaxreid.ops.positions import first_position, gradient_of_matches, position_dtype
from jaxreid.ops.tiles import over_tiles

# Numbers in a correlation tile, for scoring and for training, where a pair needs additional memory.
# CPU: the fastest of 2^19 to 2^24 on two cores, for 192 and 32 positions. Others: not measured;
# 32 MiB fit in the cache of a large GPU.
TILE_SIZE = {"cpu": (2**22, 2**20)}
OTHER_TILE_SIZE = 2**23, 2**23
ENGINES = ("auto", "xla", "pallas")
# Environment variable: engine of calls without the `engine` argument.
ENGINE = "JAXREID_ENGINE"

Array = jax.Array


def match_pair(query: Array, gallery: Array, gate: Array | None = None) -> tuple[Array, Array]:
    """Compute the best matches of one pair of maps; defines and tests `best_matches`.

    Args:
        query: [r, d] float.
        gallery: [s, d] float.
        gate: [r, s] float, multiplies the correlation before the maxima.

    Returns:
        [r], for each query position the maximum over gallery positions, and [s], for each gallery
        position the maximum over query positions. Both are in [-1, 1] for rows of unit norm without
        a gate.

    Source: Liao and Shao, ECCV 2020, Section 3; the gate is from TransMatcher, NeurIPS 2021.
    """
    correlation = jnp.einsum("rd,sd->rs", query, gallery)
    if gate is not None:
        correlation = correlation * gate
    return correlation.max(1), correlation.max(0)


def best_matches(
    query: Array,
    gallery: Array,
    *,
    gate: Array | None = None,
    positions: bool = False,
    tile: int | None = None,
    engine: str | None = None,
) -> tuple[Array, ...]:
    """Compute the best matches of all query-gallery pairs, in both directions.

    The gradient flows through one position per maximum, the first of ties, in float32 or wider. In
    addition to the inputs, only these positions are stored for the backward pass, one byte each for
    maps of up to 256 positions. Unused gradients, such as that of a class memory, are not computed.

    Args:
        query: [Q, r, d] float.
        gallery: [G, s, d] float.
        gate: [r, s] float, multiplies the correlation of every pair before the maxima. It depends
            on both positions, so it cannot be folded into the features.
        positions: also return the positions of the best matches.
        tile: numbers in a correlation tile of "xla"; default by device. Affects results only by
            rounding.
        engine: "xla"; "pallas", a kernel that keeps the tile on the chip (TPU and Hopper GPU; on a
            CPU in Pallas' interpreter, slowly); or "auto", the faster one according to
            measurements, so far always "xla". Default: the environment variable JAXREID_ENGINE at
            trace time if that engine supports the maps, else "auto". "pallas" supports no gate.

    Returns:
        [Q, G, r] maxima over gallery positions and [Q, G, s] maxima over query positions, see
        `match_pair`, in float32 or wider for any input dtype. With `positions` also [Q, G, r], the
        gallery position that each query position matches best, and [Q, G, s], the query position
        that each gallery position matches best: the first of ties, in the smallest sufficient type
        of uint8, uint16 and uint32.

    Raises:
        ValueError: unknown engine, maps or gate that the requested kernel does not support, shape
            mismatch, or maps without positions.
    """
    _check(query, gallery, gate)
    run = _engine(engine, query, gallery, gate)
    gates = () if gate is None else (gate,)
    query, gallery, *gates = vary_alike(query, gallery, *gates)
    default = TILE_SIZE.get(platform(), OTHER_TILE_SIZE)[1]
    return _matches(query, gallery, tuple(gates), tile or default, run, positions)


def match_scores(
    query: Array,
    gallery: Array,
    query_weight: Array,
    gallery_weight: Array,
    *,
    tile: int | None = None,
    engine: str | None = None,
) -> Array:
    """Sum best matches, weighted by position; sufficient for matchers that are affine in them.

    Args:
        query: [Q, r, d] float.
        gallery: [G, s, d] float.
        query_weight: [r] float, weights of the query positions' best matches.
        gallery_weight: [s] float, weights of the gallery positions' best matches.
        tile: see `best_matches`.
        engine: see `best_matches`.

    Returns:
        [Q, G], float32 or wider.

    Raises:
        ValueError: see `best_matches`.
    """
    _check(query, gallery)
    run = _engine(engine, query, gallery)
    arrays = vary_alike(query, gallery, query_weight, gallery_weight)
    return _scores(*arrays, tile or TILE_SIZE.get(platform(), OTHER_TILE_SIZE)[0], run)


def _check(query: Array, gallery: Array, gate: Array | None = None) -> None:
    if query.ndim != 3 or gallery.ndim != 3 or query.shape[2] != gallery.shape[2]:
        raise ValueError(
            f"expected query [Q, r, d] and gallery [G, s, d], got {query.shape} and "
            f"{gallery.shape}."
        )
    if 0 in (query.shape[1], gallery.shape[1]):
        raise ValueError(
            f"query {query.shape} and gallery {gallery.shape}: maps without positions have no best "
            "match."
        )
    if gate is not None and gate.shape != (query.shape[1], gallery.shape[1]):
        raise ValueError(
            f"gate {gate.shape} for query {query.shape} and gallery {gallery.shape}; expected "
            "[r, s], query positions first."
        )


def _engine(name: str | None, query: Array, gallery: Array, gate: Array | None = None) -> str:
    """Return the engine: the named one, or that of the environment if it supports the maps."""
    engine = name or os.environ.get(ENGINE, "auto")
    check_name(engine, ENGINES, "matching engine")
    if engine == "pallas" and gate is not None:
        if name:
            raise ValueError(
                "the matching engine 'pallas' has no gate; use 'xla' or 'auto' for gated matches."
            )
        engine = "xla"
    if engine == "pallas" and not name and _kernel()[0].why_not(query, gallery, _kernel()[1]):
        engine = "xla"
    return "xla" if engine == "auto" else engine


def _kernel() -> tuple[Any, str]:
    """Import the Pallas kernels on demand; return them and their backend ("tpu" on a CPU)."""
    from jaxreid.ops import correlation_kernel

    backend = platform()
    return correlation_kernel, "tpu" if backend == "cpu" else backend


def find_matches(
    query: Array,
    gallery: Array,
    tile: int,
    engine: str,
    positions: bool,
    change: Callable[[Array], Array] = lambda correlation: correlation,
) -> tuple[Array, ...]:
    """Run `best_matches` without a gradient; "xla" applies `change` to every tile first."""
    if engine == "pallas":
        return _on_chip(query, gallery, positions)

    def reduce(correlation: Array) -> list[Array]:
        correlation = change(correlation)
        of_gallery, of_query = correlation.max(3), correlation.max(1)
        results = [of_query, of_gallery.swapaxes(1, 2)]
        if positions:
            results.append(first_position(correlation, of_query, 1))
            results.append(first_position(correlation, of_gallery, 3).swapaxes(1, 2))
        return results  # each [j, i, positions]

    def whole(blocks: Array) -> Array:
        b, a, j, i, n = blocks.shape
        blocks = blocks.transpose(1, 3, 0, 2, 4).reshape(a * i, b * j, n)
        return blocks[: query.shape[0], : gallery.shape[0]]

    return tuple(whole(x) for x in over_tiles(query, gallery, tile, reduce))


def _on_chip(query: Array, gallery: Array, positions: bool) -> tuple[Array, ...]:
    kernel, backend = _kernel()
    interpret = platform() == "cpu"
    of_gallery, of_query, *indices = kernel.best_matches_kernel(
        query, gallery, backend=backend, positions=positions, interpret=interpret
    )
    if not positions:
        return of_query, of_gallery
    in_query, in_gallery = indices
    in_gallery = in_gallery.astype(position_dtype(gallery.shape[1]))
    return of_query, of_gallery, in_gallery, in_query.astype(position_dtype(query.shape[1]))


# The gate is a tuple of at most one array, so that one VJP rule serves calls with and without it.
@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _matches(
    query: Array, gallery: Array, gate: tuple[Array, ...], tile: int, engine: str, positions: bool
) -> tuple[Array, ...]:
    if not gate:
        return find_matches(query, gallery, tile, engine, positions)
    factor = gate[0].T[:, None]  # broadcasts to a tile [j, s, i, r]
    return find_matches(query, gallery, tile, engine, positions, lambda tile: tile * factor)


def _matches_forward(
    query: Array, gallery: Array, gate: tuple[Array, ...], tile: int, engine: str, positions: bool
) -> tuple[Any, Any]:
    results = _matches(query, gallery, gate, tile, engine, True)
    return results if positions else results[:2], (query, gallery, gate, *results[2:])


_matches.defvjp(_matches_forward, gradient_of_matches)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _scores(
    query: Array, gallery: Array, query_weight: Array, gallery_weight: Array, tile: int, engine: str
) -> Array:
    if engine == "pallas":
        return _weighted(_on_chip(query, gallery, False), query_weight, gallery_weight)

    def score(correlation: Array) -> Array:
        of_gallery, of_query = correlation.max(3), correlation.max(1)
        return jnp.einsum("jsi,s->ij", of_gallery, gallery_weight) + jnp.einsum(
            "jir,r->ij", of_query, query_weight
        )

    blocks = over_tiles(query, gallery, tile, score)
    b, a, i, j = blocks.shape
    return blocks.transpose(1, 2, 0, 3).reshape(a * i, b * j)[: query.shape[0], : gallery.shape[0]]


def _weighted(matches: tuple[Array, ...], query_weight: Array, gallery_weight: Array) -> Array:
    of_query, of_gallery = matches
    return of_query @ query_weight + of_gallery @ gallery_weight


def _scores_backward(tile: int, engine: str, kept: Any, cotangent: Array) -> tuple[Array, ...]:
    """Recompute the matches and differentiate their weighted sums; scoring itself stores none."""

    def plain(query: Array, gallery: Array, query_weight: Array, gallery_weight: Array) -> Array:
        matches = _matches(query, gallery, (), tile, engine, False)
        return _weighted(matches, query_weight, gallery_weight)

    return jax.vjp(plain, *kept)[1](cotangent)


_scores.defvjp(lambda *args: (_scores(*args), args[:4]), _scores_backward)
