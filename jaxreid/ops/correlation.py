"""Best local matches between feature maps: the one expensive operation of the project.

Letters: Q queries, G gallery images, r positions of a query map, s positions of a gallery map,
d channels. Positions are the h*w cells of a map, row by row.

The correlation [Q, G, r, s] never exists as a whole. It is computed a tile of pairs at a time,
small enough to stay in the cache, reduced to its maxima and forgotten. Gradients need only know
where the maxima were.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.names import check_name
from jaxreid.ops.device_varying import vary_alike
from jaxreid.ops.positions import first_position, gradient_of_matches, position_dtype
from jaxreid.ops.tiles import over_tiles

# Numbers in a correlation tile, in scoring and in training, where a pair needs more beside them.
# CPU: the fastest of 2^19 to 2^24 on two cores, for 192 and 32 positions. Others: not measured;
# 32 MiB fit the cache of a large GPU.
TILE_SIZE = {"cpu": (2**22, 2**20)}
OTHER_TILE_SIZE = 2**23, 2**23
ENGINES = ("auto", "xla", "pallas")
ENGINE = "JAXREID_ENGINE"  # environment variable: the engine for the calls that name none

Array = jax.Array


def match_pair(query: Array, gallery: Array, gate: Array | None = None) -> tuple[Array, Array]:
    """Best matches of one pair of maps: the definition, and the oracle of `best_matches`.

    Args:
        query: [r, d] float.
        gallery: [s, d] float.
        gate: [r, s] float, multiplies the correlation before the maxima are taken.

    Returns:
        [r] the best over gallery positions, of each query position, and
        [s] the best over query positions, of each gallery position; in [-1, 1] where rows have
        unit norm and there is no gate.

    Source: Liao and Shao, ECCV 2020, Section 3; the gate is that of TransMatcher, NeurIPS 2021.
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
    """Best matches of every query with every gallery map, both ways.

    The gradient is that of the plain formulation with one position for each maximum, the first of
    equals, in float32 or wider. Between the passes it keeps the positions, a byte each for maps of
    up to 256; what nothing depends on, such as the gradient of a class memory, is not computed.

    Args:
        query: [Q, r, d] float.
        gallery: [G, s, d] float.
        gate: [r, s] float, multiplies the correlation of every pair before the maxima are taken.
            It depends on both positions, so no factor of the features does the same.
        positions: return where the best matches are, too.
        tile: numbers in a correlation tile of "xla"; default by device. It changes no result but
            by rounding.
        engine: "xla"; "pallas", a kernel that keeps the tile on the chip (TPU and Hopper GPU; on a
            CPU in Pallas' interpreter, slowly); "auto", the faster one where that has been
            measured, which so far is "xla" everywhere. Default: the environment variable
            JAXREID_ENGINE when this is traced, where that engine can take such maps; else "auto".
            "pallas" has no gate.

    Returns:
        [Q, G, r] over gallery positions and [Q, G, s] over query positions, as `match_pair`,
        float32 or wider, whatever the features' type. With `positions` also [Q, G, r] the gallery
        position that each query position matches best and [Q, G, s] the query position that each
        gallery position matches best, the first of equals; uint8 where that suffices, else uint16
        or uint32.

    Raises:
        ValueError: an unknown engine, maps or a gate that the kernel asked for cannot take, shapes
            that do not fit, or maps without positions.
    """
    _check(query, gallery, gate)
    run = _engine(engine, query, gallery, gate)
    gates = () if gate is None else (gate,)
    query, gallery, *gates = vary_alike(query, gallery, *gates)
    default = TILE_SIZE.get(jax.default_backend(), OTHER_TILE_SIZE)[1]
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
    """Sums of best matches, weighted by position: all a matcher that is affine in them needs.

    Args:
        query: [Q, r, d] float.
        gallery: [G, s, d] float.
        query_weight: [r] float, of the query positions' best matches over the gallery positions.
        gallery_weight: [s] float, of the gallery positions'.
        tile: as for `best_matches`.
        engine: as for `best_matches`.

    Returns:
        [Q, G], float32 or wider.

    Raises:
        ValueError: as for `best_matches`.
    """
    _check(query, gallery)
    run = _engine(engine, query, gallery)
    arrays = vary_alike(query, gallery, query_weight, gallery_weight)
    return _scores(*arrays, tile or TILE_SIZE.get(jax.default_backend(), OTHER_TILE_SIZE)[0], run)


def _check(query: Array, gallery: Array, gate: Array | None = None) -> None:
    if query.ndim != 3 or gallery.ndim != 3 or query.shape[2] != gallery.shape[2]:
        raise ValueError(
            f"query {query.shape} and gallery {gallery.shape}; needed are [Q, r, d] and [G, s, d]."
        )
    if 0 in (query.shape[1], gallery.shape[1]):
        raise ValueError(
            f"query {query.shape} and gallery {gallery.shape}: a map without positions has no best "
            "match."
        )
    if gate is not None and gate.shape != (query.shape[1], gallery.shape[1]):
        raise ValueError(
            f"gate {gate.shape} for query {query.shape} and gallery {gallery.shape}; expected "
            "[r, s], query positions first."
        )


def _engine(name: str | None, query: Array, gallery: Array, gate: Array | None = None) -> str:
    """The engine by its name, or as the environment prefers where it can be had."""
    engine = name or os.environ.get(ENGINE, "auto")
    check_name(engine, ENGINES, "matching engine")
    if engine == "pallas" and gate is not None:
        if name:
            raise ValueError(
                "the matching engine 'pallas' has no gate; use 'xla' or 'auto' with one."
            )
        engine = "xla"
    if engine == "pallas" and not name and _kernel()[0].why_not(query, gallery, _kernel()[1]):
        engine = "xla"
    return "xla" if engine == "auto" else engine


def _kernel() -> tuple[Any, str]:
    """The module, which only those who ask for it load, and its backend: on a CPU the TPU's."""
    from jaxreid.ops import correlation_kernel

    backend = jax.default_backend()
    return correlation_kernel, "tpu" if backend == "cpu" else backend


def find_matches(
    query: Array,
    gallery: Array,
    tile: int,
    engine: str,
    positions: bool,
    change: Callable[[Array], Array] = lambda correlation: correlation,
) -> tuple[Array, ...]:
    """As `best_matches`, without a gradient; `change` is made to every tile of "xla" first."""
    if engine == "pallas":
        return _on_chip(query, gallery, positions)

    def reduce(correlation: Array) -> list[Array]:
        correlation = change(correlation)
        of_gallery, of_query = correlation.max(3), correlation.max(1)
        found = [of_query, of_gallery.swapaxes(1, 2)]
        if positions:
            found.append(first_position(correlation, of_query, 1))
            found.append(first_position(correlation, of_gallery, 3).swapaxes(1, 2))
        return found  # each [j, i, positions]

    def whole(blocks: Array) -> Array:
        b, a, j, i, n = blocks.shape
        blocks = blocks.transpose(1, 3, 0, 2, 4).reshape(a * i, b * j, n)
        return blocks[: len(query), : len(gallery)]

    return tuple(whole(x) for x in over_tiles(query, gallery, tile, reduce))


def _on_chip(query: Array, gallery: Array, positions: bool) -> tuple[Array, ...]:
    kernel, backend = _kernel()
    interpret = jax.default_backend() == "cpu"
    of_gallery, of_query, *found = kernel.best_matches_kernel(
        query, gallery, backend=backend, positions=positions, interpret=interpret
    )
    if not positions:
        return of_query, of_gallery
    in_query, in_gallery = found
    in_gallery = in_gallery.astype(position_dtype(gallery.shape[1]))
    return of_query, of_gallery, in_gallery, in_query.astype(position_dtype(query.shape[1]))


# A gate is a tuple of at most one array, so that there is one rule with and without it.
@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _matches(
    query: Array, gallery: Array, gate: tuple[Array, ...], tile: int, engine: str, positions: bool
) -> tuple[Array, ...]:
    if not gate:
        return find_matches(query, gallery, tile, engine, positions)
    factor = gate[0].T[:, None]  # of a tile [j, s, i, r]
    return find_matches(query, gallery, tile, engine, positions, lambda tile: tile * factor)


def _matches_forward(
    query: Array, gallery: Array, gate: tuple[Array, ...], tile: int, engine: str, positions: bool
) -> tuple[Any, Any]:
    found = _matches(query, gallery, gate, tile, engine, True)
    return found if positions else found[:2], (query, gallery, gate, *found[2:])


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
    return blocks.transpose(1, 2, 0, 3).reshape(a * i, b * j)[: len(query), : len(gallery)]


def _weighted(matches: tuple[Array, ...], query_weight: Array, gallery_weight: Array) -> Array:
    of_query, of_gallery = matches
    return of_query @ query_weight + of_gallery @ gallery_weight


def _scores_backward(tile: int, engine: str, kept: Any, cotangent: Array) -> tuple[Array, ...]:
    """That of the sums of the matches, which are computed now: scoring alone need not keep them."""

    def plain(query: Array, gallery: Array, query_weight: Array, gallery_weight: Array) -> Array:
        matches = _matches(query, gallery, (), tile, engine, False)
        return _weighted(matches, query_weight, gallery_weight)

    return jax.vjp(plain, *kept)[1](cotangent)


_scores.defvjp(lambda *given: (_scores(*given), given[:4]), _scores_backward)
