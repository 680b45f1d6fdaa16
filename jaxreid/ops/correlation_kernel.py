"""Best local matches as one accelerator kernel: the correlation never leaves the chip.

Notation: Q queries, G gallery images, r positions of a query map, s positions of a gallery map,
d channels.

XLA writes a correlation tile to memory and reads it once for each of the two maxima. These kernels
multiply two maps, take both maxima of the product on the chip and write r + s numbers for r * s * d
products.

Maps are padded to the hardware's tile sizes with copies of their last position. A copy can tie with
a maximum but not raise it, and the first of ties is never a copy, so no masking is needed. These
kernels have not been timed on an accelerator; `correlation` computes the same numbers.
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
# TPU: byte budget of a kernel. A core's default limit is 16 MiB; the rest is left to the compiler.
VMEM = 11 * 2**20
# TPU: numbers in a correlation tile, 16 maps of 192 positions with one of 256. The compiler unrolls
# a tile, so this also bounds compilation work.
TPU_TILE = 16 * 192 * 256
# GPU: bytes of shared memory of a Hopper block, less 8 KiB for the compiler's own use.
SHARED_MEMORY = (227 - 8) * 2**10
# GPU: rows of a warpgroup's product, and also the length of a swizzled row of two-byte numbers.
WARPGROUP = 64
# GPU: gallery maps per block; the block fetches its query map once for all of them.
GPU_MAPS = 8


def why_not(query: jax.Array, gallery: jax.Array, backend: str) -> str | None:
    """Return the reason why `best_matches_kernel` does not support these maps, or None.

    | backend | chips               | dtypes            | must fit on the chip                |
    |---------|---------------------|-------------------|-------------------------------------|
    | "tpu"   | v5e, v5p, v6e, 7x   | float32, bfloat16 | 8 gallery maps, a query, their      |
    |         |                     |                   | correlation and results: 11 MiB     |
    | "gpu"   | compute capab. 9.0  | bfloat16          | a pair of maps, results: 219 KiB    |

    The chip itself is not checked. A TPU v4 lacks an instruction, other GPUs lack Hopper's.

    Args:
        query: [Q, r, d], or anything with a shape and a dtype.
        gallery: [G, s, d], or anything with a shape and a dtype.
        backend: "tpu" or "gpu".
    """
    types = {"tpu": (jnp.float32, jnp.bfloat16), "gpu": (jnp.bfloat16,)}.get(backend)
    if types is None:
        return f"backend {backend!r} has no kernel; expected 'tpu' or 'gpu'."
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
    """Compute the best matches of all query-gallery pairs, in both directions, in one kernel.

    Unlike `correlation.best_matches`, it has no gradient. Inside `jax.shard_map` it processes the
    device's own maps.

    Args:
        query: [Q, r, d] float32 or bfloat16.
        gallery: [G, s, d], same dtype.
        backend: "tpu" or "gpu"; `why_not` lists what each supports.
        positions: also return the positions of the matches.
        precision: precision of a float32 product; default `jax.default_matmul_precision`. Products
            of bfloat16 numbers are exact in float32.
        interpret: run without the accelerator, slowly: True for "tpu", Pallas's
            `InterpretGPUParams()` for "gpu".

    Returns:
        over_gallery [Q, G, s] float32, the best query match of each gallery position;
        over_query [Q, G, r] float32, the best gallery match of each query position;
        with `positions` also [Q, G, s], the query position that each gallery position matches
        best, and [Q, G, r], the gallery position that each query position matches best: the first
        of ties, uint8 if it can index all positions of both maps, else uint16. If a map contains a
        NaN, these are valid positions but otherwise arbitrary.

    Raises:
        ValueError: if the kernel does not support these maps, with the reason.

    Source: Liao and Shao, ECCV 2020, Section 3 (the matches); the kernel is this project's.
    """
    if reason := why_not(query, gallery, backend):
        raise ValueError(f"{reason} The engine 'xla' of correlation.best_matches takes any maps.")
    query, gallery = vary_alike(query, gallery)
    run = {"tpu": functools.partial(_on_tpu, precision=precision), "gpu": _on_gpu}[backend]
    out = run(query, gallery, positions, interpret)
    index = position_dtype(max(query.shape[1], gallery.shape[1]))
    return *out[:2], *(place.astype(index) for place in out[2:])


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _padded(maps: jax.Array, positions: int, channels: int) -> jax.Array:
    """Pad maps to [n, positions, channels] with copies of the last position and zero channels."""
    _, p, d = maps.shape
    maps = jnp.pad(maps, ((0, 0), (0, positions - p), (0, 0)), mode="edge")
    return jnp.pad(maps, ((0, 0), (0, 0), (0, channels - d)))


def _tpu_precision(dtype: jnp.dtype, precision: lax.Precision | str | None) -> lax.Precision:
    """Return Mosaic's precision: DEFAULT (one bfloat16 pass) or HIGHEST (six passes, float32)."""
    if dtype == jnp.bfloat16:
        return lax.Precision.DEFAULT
    requested = lax.Precision(precision or jax.config.jax_default_matmul_precision or "default")
    return requested if requested == lax.Precision.DEFAULT else lax.Precision.HIGHEST


def _tpu_shape(query: jax.Array, gallery: jax.Array) -> tuple[int, int, int]:
    """Return padded positions of a query map (lanes) and gallery map (sublanes), and channels."""
    packed = SUBLANES * 4 // query.dtype.itemsize
    return _up(query.shape[1], LANES), _up(gallery.shape[1], packed), _up(query.shape[2], LANES)


def _tpu_maps(query: jax.Array, gallery: jax.Array) -> int:
    """Return the number of gallery maps per block; 0 if too few of them fit."""
    r, s, d = _tpu_shape(query, gallery)
    # Bytes per position: twice for double buffering, and twice again for float32, which is split
    # into parts.
    size = 2 * d * query.dtype.itemsize * (1 if query.dtype == jnp.bfloat16 else 2)
    results = 2 * 4 * 2 * (r + _up(s, LANES))
    most = (VMEM - r * size) // (s * size + 4 * r * s + results)
    n = gallery.shape[0]
    # A block of results needs a multiple of eight rows, or all of them.
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
    # Results of Pallas's interpreter do not vary over a mesh unless their buffers are passed in.
    buffers = [jnp.zeros((q, g, n), dtype) for n, dtype in out] if interpret else []
    buffers = vary_alike(query, *buffers)[1:]
    return pl.pallas_call(
        functools.partial(_tpu_body, len(buffers), _tpu_precision(query.dtype, precision)),
        # Queries are the inner grid axis, so gallery maps stay on the chip for all of them. The
        # last block may read past the maps, but the results of those rows are dropped.
        grid=(pl.cdiv(g, maps), q),
        in_specs=[
            pl.BlockSpec((None, lanes, channels), lambda j, i: (i, 0, 0)),
            pl.BlockSpec((maps, sublanes, channels), lambda j, i: (j, 0, 0)),
            *out_specs[: len(buffers)],
        ],
        out_specs=out_specs,
        out_shape=[
            jax.ShapeDtypeStruct((q, g, n), dtype, manual_axis_type=varying) for n, dtype in out
        ],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        input_output_aliases={2 + k: k for k in range(len(buffers))},
        interpret=interpret,
    )(_padded(query, lanes, channels), _padded(gallery, sublanes, channels), *buffers)


def _tpu_body(buffers: int, precision: lax.Precision, query, gallery, *refs) -> None:
    """Match one query map [r, d] with a block of gallery maps [., s, d]."""
    out = refs[buffers:]
    maps, s, d = gallery.shape
    # All gallery positions as rows of one product: one long stream past the query.
    tile = lax.dot_general(
        gallery[...].reshape(maps * s, d),
        query[...],
        (((1,), (1,)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    ).reshape(maps, s, -1)
    for k, axis in enumerate((2, 1)):
        count, other_count = (over.shape[1] for over in (out[k], out[1 - k]))
        best = tile.max(axis)
        out[k][...] = best[:, :count]
        if len(out) == 4:
            out[k + 2][...] = _first(tile, best, axis, other_count)[:, :count]


def _first(tile: jax.Array, best: jax.Array, axis: int, count: int) -> jax.Array:
    """Return the first position of `best` along an axis of the tile with `count` real positions."""
    # In float32, which the chips compare across lanes; integers take half as long again.
    place = lax.broadcasted_iota(jnp.int32, tile.shape, axis).astype(jnp.float32)
    place = jnp.where(tile == jnp.expand_dims(best, axis), place, count - 1.0)
    return place.min(axis).astype(jnp.int32)


def _gpu_shape(query: jax.Array, gallery: jax.Array) -> tuple[int, int, int]:
    """Return padded positions of a query map and of a gallery map, and padded channels."""
    return tuple(_up(n, WARPGROUP) for n in (query.shape[1], gallery.shape[1], query.shape[2]))


def _gpu_maps(query: jax.Array, gallery: jax.Array) -> int:
    """Return how many gallery maps fit in a block next to its query map; one is enough."""
    r, s, d = _gpu_shape(query, gallery)
    # Bytes of a position and its results.
    size = d * query.dtype.itemsize + 2 * 4
    return max(0, SHARED_MEMORY - r * size) // (s * size)


def _on_gpu(query, gallery, positions: bool, interpret: Any) -> list[jax.Array]:
    # Imported on demand, because it loads the CUDA dialect and sets environment variables.
    from jax.experimental.pallas import mosaic_gpu as plgpu

    (q, r, _), (g, s, _) = query.shape, gallery.shape
    columns, rows, channels = _gpu_shape(query, gallery)
    out = [(rows, jnp.float32), (columns, jnp.float32), (rows, jnp.int32), (columns, jnp.int32)]
    out = out[: 4 if positions else 2]
    swizzled = plgpu.TilingTransform((8, WARPGROUP)), plgpu.SwizzleTransform(128)
    # The query is the second factor of the product, with channels as rows.
    query_map = plgpu.SMEM((channels, columns), query.dtype, transforms=swizzled)
    gallery_map = plgpu.SMEM((rows, channels), query.dtype, transforms=swizzled)
    results = plgpu.kernel(
        functools.partial(_gpu_body, plgpu, r, s),
        out_type=[jax.ShapeDtypeStruct((q, g, n), dtype) for n, dtype in out],
        scratch_types=[
            (query_map, gallery_map, *(plgpu.SMEM((n,), dtype) for n, dtype in out)),
            (plgpu.Barrier(), plgpu.Barrier()),
        ],
        # Queries are the inner grid axis: concurrent blocks read the same gallery maps from L2.
        grid=(pl.cdiv(g, GPU_MAPS), q),
        grid_names=("gallery", "query"),
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        interpret=interpret or None,
    )(_padded(query, columns, channels).swapaxes(1, 2), _padded(gallery, rows, channels))
    # The kernel does not declare over which mesh axes its results vary.
    results = vary_alike(query, *results)[1:]
    return [x[..., :n] for x, n in zip(results, (s, r) * 2, strict=False)]


def _gpu_body(plgpu, r: int, s: int, query_maps, gallery_maps, *refs) -> None:
    """Match one query with `GPU_MAPS` gallery maps in one warpgroup, map by map.

    Shared memory holds a pair of maps and its results: 100 KiB at 192 positions and 128 channels.
    A multiprocessor then runs two blocks, and one can copy or reduce while the other multiplies.
    """
    *out, (query, gallery, *best), (query_barrier, gallery_barrier) = refs
    i, start = lax.axis_index("query"), lax.axis_index("gallery") * GPU_MAPS
    plgpu.copy_gmem_to_smem(query_maps.at[i], query, query_barrier)
    plgpu.barrier_wait(query_barrier)

    @pl.loop(start, jnp.minimum(start + GPU_MAPS, gallery_maps.shape[0]))
    def _(j):
        plgpu.copy_gmem_to_smem(gallery_maps.at[j], gallery, gallery_barrier)
        plgpu.barrier_wait(gallery_barrier)
        # The results of the previous map must be written before `best` is reused.
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        # Process columns in groups, so that a product, the running maximum of each cell over the
        # row blocks and its position fit in a thread's 255 registers.
        widths = (64,) if len(out) == 4 else (192, 128, 64)
        width = next(w for w in widths if query.shape[1] % w == 0)
        for k in range(0, query.shape[1], width):
            _gpu_columns(plgpu, r, s, query.at[:, pl.ds(k, width)], gallery, best, k)
        plgpu.commit_smem()
        for source, target in zip(best, out, strict=True):
            plgpu.copy_smem_to_gmem(source, target.at[i, j])

    plgpu.wait_smem_to_gmem(0)


def _gpu_columns(plgpu, r: int, s: int, query, gallery, best, k: int) -> None:
    """Match a gallery map [s, d] with a group of columns, from k on, of a query map [d, r]."""
    over_gallery, over_query, *places = best
    shape = WARPGROUP, query.shape[1]
    row, column = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    columns = pl.ds(k, shape[1])

    def multiply(step, cells):
        """Multiply 64 rows; store their maxima and update the running maximum of each cell."""
        highest, when = cells
        rows = pl.ds(step * WARPGROUP, WARPGROUP)

        def product(total):
            plgpu.wgmma(total, gallery.at[rows], query)
            return total[...]

        tile = pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))
        top, before = tile.max(axis=1), over_gallery[rows] if k else None
        if places:
            is_top = tile == lax.broadcast_in_dim(top, shape, (0,))
            place = jnp.where(is_top, column + k, r - 1).min(axis=1)
            if k:  # an earlier column wins a tie
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
        is_top = highest == lax.broadcast_in_dim(top, shape, (1,))
        places[1][columns] = jnp.where(is_top, when * WARPGROUP + row, s - 1).min(axis=0)
