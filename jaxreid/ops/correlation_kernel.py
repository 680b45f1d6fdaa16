"""Best local matches as one accelerator kernel: the correlation never leaves the chip.

Letters: Q queries, G gallery images, r positions of a query map, s positions of a gallery map,
d channels. XLA writes a correlation tile to memory and reads it once for each of the two maxima;
a kernel here multiplies two maps, takes both maxima of the product where it lies and writes
r + s numbers for r * s * d products.

Maps are padded to the hardware's tiles with copies of their last position: a copy can tie with a
maximum but not raise it, and the first of equals is never a copy. So nothing has to be masked.
Nobody has timed these kernels on an accelerator; the same numbers come from `correlation`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxreid.ops.device_varying import vary_alike
from jaxreid.ops.positions import position_dtype

# TPU: a vector register holds 8 x 128 numbers, and a matrix unit is 128 (or 256) wide.
LANES, SUBLANES = 128, 8
# Bytes a TPU kernel plans with: a core's default share is 16 MiB, the rest is the compiler's.
VMEM = 11 * 2**20
# Numbers in a TPU correlation tile: 16 maps of 192 positions with one of 256. The compiler
# unrolls a tile, so this bounds its work too.
TPU_TILE = 16 * 192 * 256
# GPU: bytes of shared memory of a Hopper block, less 8 KiB for the compiler's own uses.
SHARED_MEMORY = (227 - 8) * 2**10
# GPU: rows of a warpgroup's product, which is also the swizzled row of two-byte numbers.
WARPGROUP = 64
# GPU: gallery maps in a block; its query map is fetched once for so many.
GPU_MAPS = 8


def why_not(query: jax.Array, gallery: jax.Array, backend: str) -> str | None:
    """Why `best_matches_kernel` cannot take these maps.

    | backend | chips               | types             | what has to fit on the chip         |
    |---------|---------------------|-------------------|-------------------------------------|
    | "tpu"   | v5e, v5p, v6e, 7x   | float32, bfloat16 | 8 gallery maps, a query, their      |
    |         |                     |                   | correlation and results: 11 MiB     |
    | "gpu"   | compute capab. 9.0  | bfloat16          | a pair of maps, results: 219 KiB    |

    The chip is not looked at. A TPU v4 lacks an instruction, other GPUs lack Hopper's.

    Args:
        query: [Q, r, d], or anything with a shape and a dtype.
        gallery: [G, s, d], the same.
        backend: "tpu" or "gpu".

    Returns:
        The reason, or None where the kernel works.
    """
    types = {"tpu": (jnp.float32, jnp.bfloat16), "gpu": (jnp.bfloat16,)}.get(backend)
    if types is None:
        return f"backend {backend!r} has no kernel; there is one for 'tpu' and one for 'gpu'."
    if query.dtype != gallery.dtype or query.dtype not in types:
        names = " or ".join(jnp.dtype(t).name for t in types)
        return f"{query.dtype} queries with {gallery.dtype} gallery maps; both must be {names}."
    if query.shape[2:] != gallery.shape[2:] or not math.prod((*query.shape, *gallery.shape)):
        return f"query {query.shape} and gallery {gallery.shape} must be [n, positions, d]."
    if not {"tpu": _tpu_maps, "gpu": _gpu_maps}[backend](query, gallery):
        return f"maps {query.shape[1:]} and {gallery.shape[1:]} are too large for on-chip memory."
    return None


def best_matches_kernel(
    query: jax.Array,
    gallery: jax.Array,
    *,
    backend: str,
    positions: bool = False,
    precision: lax.Precision | str | None = None,
    interpret: Any = False,
) -> tuple[jax.Array, ...]:
    """Best matches of every query with every gallery map, both ways, in one kernel.

    It has no gradient, as `correlation.best_matches` has. Inside `jax.shard_map` it works on the
    device's own maps.

    Args:
        query: [Q, r, d] float32 or bfloat16.
        gallery: [G, s, d] of the same type.
        backend: "tpu" or "gpu"; `why_not` lists what each can take.
        positions: whether to return the positions of the matches too.
        precision: of a float32 product; default `jax.default_matmul_precision`. Products of
            bfloat16 numbers are exact in float32.
        interpret: run without the accelerator, slowly: True for "tpu", and for "gpu" Pallas's
            `InterpretGPUParams()`.

    Returns:
        over_gallery [Q, G, s] float32, the best query match of each gallery position;
        over_query [Q, G, r] float32, the best gallery match of each query position;
        with `positions` also [Q, G, s], the query position that each gallery position matches
        best, and [Q, G, r], the gallery position that each query position matches best: the first
        of equals, uint8 where it can count all positions of both maps, else uint16. Where a map
        holds a NaN they are valid positions, and no more.

    Raises:
        ValueError: if the kernel cannot take these maps; with the reason.

    Source: Liao and Shao, ECCV 2020, Section 3 (the matches); the kernel is this project's.
    """
    if reason := why_not(query, gallery, backend):
        raise ValueError(f"{reason} The engine 'xla' of correlation.best_matches takes any.")
    query, gallery = vary_alike(query, gallery)
    on = {"tpu": functools.partial(_on_tpu, precision=precision), "gpu": _on_gpu}[backend]
    out = on(query, gallery, positions, interpret)
    index = position_dtype(max(query.shape[1], gallery.shape[1]))
    return *out[:2], *(place.astype(index) for place in out[2:])


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _padded(maps: jax.Array, positions: int, channels: int) -> jax.Array:
    """[n, positions, channels]: the last position again and again, and channels of zeros."""
    _, p, d = maps.shape
    maps = jnp.pad(maps, ((0, 0), (0, positions - p), (0, 0)), mode="edge")
    return jnp.pad(maps, ((0, 0), (0, 0), (0, channels - d)))


def _tpu_precision(dtype: jnp.dtype, precision: lax.Precision | str | None) -> lax.Precision:
    """What Mosaic has for the precision asked for: one bfloat16 pass, or six and float32."""
    if dtype == jnp.bfloat16:
        return lax.Precision.DEFAULT
    asked = lax.Precision(precision or jax.config.jax_default_matmul_precision or "default")
    return asked if asked == lax.Precision.DEFAULT else lax.Precision.HIGHEST


def _tpu_shape(query: jax.Array, gallery: jax.Array) -> tuple[int, int, int]:
    """Positions of a query map (in lanes), of a gallery map (in sublanes) and channels, padded."""
    packed = SUBLANES * 4 // query.dtype.itemsize
    return _up(query.shape[1], LANES), _up(gallery.shape[1], packed), _up(query.shape[2], LANES)


def _tpu_maps(query: jax.Array, gallery: jax.Array) -> int:
    """Gallery maps per block; 0 if too few of them fit."""
    r, s, d = _tpu_shape(query, gallery)
    # A position: twice, since the next block moves in meanwhile; float32 is also split in parts.
    size = 2 * d * query.dtype.itemsize * (1 if query.dtype == jnp.bfloat16 else 2)
    results = 2 * 4 * 2 * (r + _up(s, LANES))
    most = (VMEM - r * size) // (s * size + 4 * r * s + results)
    n = gallery.shape[0]
    # A block of results has a multiple of eight rows, or all of them.
    few = min(n, SUBLANES)
    fit = max(few, min(most, TPU_TILE // (r * s), LANES) // SUBLANES * SUBLANES)
    return 0 if most < few else min(n, _up(pl.cdiv(n, pl.cdiv(n, fit)), SUBLANES))


def _on_tpu(query, gallery, positions: bool, interpret: Any, precision) -> list[jax.Array]:
    (q, r, _), (g, s, _) = query.shape, gallery.shape
    maps = _tpu_maps(query, gallery)
    lanes, sublanes, channels = _tpu_shape(query, gallery)
    out = [(s, jnp.float32), (r, jnp.float32), (s, jnp.int32), (r, jnp.int32)]
    out = out[: 4 if positions else 2]
    varying = jax.typeof(query).manual_axis_type
    out_specs = [pl.BlockSpec((None, maps, n), lambda j, i: (i, j, 0)) for n, _ in out]
    # Pallas's interpreter makes results that do not vary over a mesh, unless it is given them.
    given = [jnp.zeros((q, g, n), dtype) for n, dtype in out] if interpret else []
    given = vary_alike(query, *given)[1:]
    return pl.pallas_call(
        functools.partial(_tpu_body, len(given), _tpu_precision(query.dtype, precision)),
        # Queries inside: gallery maps stay on the chip for all of them. The last block may reach
        # past the maps; what it reads there only gives what it drops.
        grid=(pl.cdiv(g, maps), q),
        in_specs=[
            pl.BlockSpec((None, lanes, channels), lambda j, i: (i, 0, 0)),
            pl.BlockSpec((maps, sublanes, channels), lambda j, i: (j, 0, 0)),
            *out_specs[: len(given)],
        ],
        out_specs=out_specs,
        out_shape=[
            jax.ShapeDtypeStruct((q, g, n), dtype, manual_axis_type=varying) for n, dtype in out
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        input_output_aliases={2 + k: k for k in range(len(given))},
        interpret=interpret,
    )(_padded(query, lanes, channels), _padded(gallery, sublanes, channels), *given)


def _tpu_body(given: int, precision: lax.Precision, query, gallery, *refs) -> None:
    """One query map [r, d] with some gallery maps [., s, d]."""
    out = refs[given:]
    maps, s, d = gallery.shape
    # Gallery positions of all maps as rows of one product: one long stream past the query.
    tile = lax.dot_general(
        gallery[...].reshape(maps * s, d),
        query[...],
        (((1,), (1,)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    ).reshape(maps, s, -1)
    for k, axis in enumerate((2, 1)):
        here, there = (over.shape[1] for over in (out[k], out[1 - k]))
        best = tile.max(axis)
        out[k][...] = best[:, :here]
        if len(out) == 4:
            out[k + 2][...] = _first(tile, best, axis, there)[:, :here]


def _first(tile: jax.Array, best: jax.Array, axis: int, count: int) -> jax.Array:
    """The first position of `best` along an axis of the tile, of which `count` are no copies."""
    # In float32, which the chips compare across lanes; integers cost them half as much again.
    place = lax.broadcasted_iota(jnp.int32, tile.shape, axis).astype(jnp.float32)
    place = jnp.where(tile == jnp.expand_dims(best, axis), place, count - 1.0)
    return place.min(axis).astype(jnp.int32)


def _gpu_shape(query: jax.Array, gallery: jax.Array) -> tuple[int, int, int]:
    """Positions of a query map, of a gallery map and channels, padded."""
    return tuple(_up(n, WARPGROUP) for n in (query.shape[1], gallery.shape[1], query.shape[2]))


def _gpu_maps(query: jax.Array, gallery: jax.Array) -> int:
    """Gallery maps that a block can hold beside its query map: one is enough."""
    r, s, d = _gpu_shape(query, gallery)
    size = d * query.dtype.itemsize + 2 * 4  # of a position and its results
    return max(0, SHARED_MEMORY - r * size) // (s * size)


def _on_gpu(query, gallery, positions: bool, interpret: Any) -> list[jax.Array]:
    # Here, since it loads the CUDA dialect and sets environment variables.
    from jax.experimental.pallas import mosaic_gpu as plgpu

    (q, r, _), (g, s, _) = query.shape, gallery.shape
    columns, rows, channels = _gpu_shape(query, gallery)
    out = [(rows, jnp.float32), (columns, jnp.float32), (rows, jnp.int32), (columns, jnp.int32)]
    out = out[: 4 if positions else 2]
    swizzled = plgpu.TilingTransform((8, WARPGROUP)), plgpu.SwizzleTransform(128)
    # The query is the second factor, which has its channels as rows.
    query_map = plgpu.SMEM((channels, columns), query.dtype, transforms=swizzled)
    gallery_map = plgpu.SMEM((rows, channels), query.dtype, transforms=swizzled)
    results = plgpu.kernel(
        functools.partial(_gpu_body, plgpu, r, s),
        out_type=[jax.ShapeDtypeStruct((q, g, n), dtype) for n, dtype in out],
        scratch_types=[
            (query_map, gallery_map, *(plgpu.SMEM((n,), dtype) for n, dtype in out)),
            (plgpu.Barrier(), plgpu.Barrier()),
        ],
        # Queries inside: blocks that run together read the same gallery maps from the L2 cache.
        grid=(pl.cdiv(g, GPU_MAPS), q),
        grid_names=("gallery", "query"),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        interpret=interpret or None,
    )(_padded(query, columns, channels).swapaxes(1, 2), _padded(gallery, rows, channels))
    # The kernel does not say over which mesh axes its results vary.
    results = vary_alike(query, *results)[1:]
    return [x[..., :n] for x, n in zip(results, (s, r) * 2, strict=False)]


def _gpu_body(plgpu, r: int, s: int, query_maps, gallery_maps, *refs) -> None:
    """One query with `GPU_MAPS` gallery maps by one warpgroup, map by map.

    Shared memory holds a pair of maps and its results: 100 KiB at 192 positions and 128 channels,
    so that a processor has two blocks, of which one can copy or search while the other multiplies.
    """
    *out, (query, gallery, *best), (query_there, gallery_there) = refs
    i, start = lax.axis_index("query"), lax.axis_index("gallery") * GPU_MAPS
    plgpu.copy_gmem_to_smem(query_maps.at[i], query, query_there)
    plgpu.barrier_wait(query_there)

    @pl.loop(start, jnp.minimum(start + GPU_MAPS, gallery_maps.shape[0]))
    def _(j):
        plgpu.copy_gmem_to_smem(gallery_maps.at[j], gallery, gallery_there)
        plgpu.barrier_wait(gallery_there)
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # the results of the map before
        # Columns at a time, so that a product, the best of each cell over all products above it
        # and where that was fit in a thread's 255 registers.
        widths = (64,) if len(out) == 4 else (192, 128, 64)
        width = next(w for w in widths if query.shape[1] % w == 0)
        for k in range(0, query.shape[1], width):
            _gpu_columns(plgpu, r, s, query.at[:, pl.ds(k, width)], gallery, best, k)
        plgpu.commit_smem()
        for here, there in zip(best, out, strict=True):
            plgpu.copy_smem_to_gmem(here, there.at[i, j])

    plgpu.wait_smem_to_gmem(0)


def _gpu_columns(plgpu, r: int, s: int, query, gallery, best, k: int) -> None:
    """A gallery map [s, d] with some columns, from k, of a query map [d, r]."""
    over_gallery, over_query, *places = best
    shape = WARPGROUP, query.shape[1]
    row, column = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    columns = pl.ds(k, shape[1])

    def multiply(step, cells):
        """64 rows of the product: their maxima, and the maximum of each cell so far."""
        highest, when = cells
        rows = pl.ds(step * WARPGROUP, WARPGROUP)

        def product(total):
            plgpu.wgmma(total, gallery.at[rows], query)
            return total[...]

        tile = pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))
        top, before = tile.max(axis=1), over_gallery[rows] if k else None
        if places:
            here = tile == lax.broadcast_in_dim(top, shape, (0,))
            place = jnp.where(here, column + k, r - 1).min(axis=1)
            if k:  # an earlier column keeps a tie
                place = jnp.where(top > before, place, places[0][rows])
            places[0][rows] = place
            when = jnp.where(tile > highest, step, when)
        over_gallery[rows] = jnp.maximum(top, before) if k else top
        return jnp.maximum(highest, tile), when

    cells = jnp.full(shape, -jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32) if places else 0
    highest, when = lax.fori_loop(0, gallery.shape[0] // WARPGROUP, multiply, cells)
    top = highest.max(axis=0)
    over_query[columns] = top
    if places:
        here = highest == lax.broadcast_in_dim(top, shape, (1,))
        places[1][columns] = jnp.where(here, when * WARPGROUP + row, s - 1).min(axis=0)
