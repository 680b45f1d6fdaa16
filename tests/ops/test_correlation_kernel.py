"""The fused kernels against the plain product and its maxima: interpreted, and lowered."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxreid.ops.correlation_kernel import best_matches_kernel, why_not

P = jax.sharding.PartitionSpec
NAMES = {"tpu": "tpu", "gpu": "cuda"}  # the kernel's backend and JAX's platform


def interpreter(backend):
    if backend == "tpu":
        return True
    if hasattr(plgpu, "InterpretGPUParams"):  # since jax 0.11
        return plgpu.InterpretGPUParams()
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams()


def interpreted(query, gallery, backend, **options):
    kernel = functools.partial(best_matches_kernel, backend=backend, **options)
    return jax.jit(functools.partial(kernel, interpret=interpreter(backend)))(query, gallery)


def plain(query, gallery):
    """The definition, from the whole correlation."""
    correlation = jnp.einsum("qrd,gsd->qgrs", query, gallery, preferred_element_type=jnp.float32)
    return (f(axis) for f in (correlation.max, correlation.argmax) for axis in (2, 3))


def integers(seed, *shape, dtype=jnp.float32):
    """Few values, so that many correlations tie and all are exact in any type."""
    return jnp.asarray(np.random.default_rng(seed).integers(-2, 3, shape), dtype)


def assert_equal(got, query, gallery):
    for a, b in zip(got, plain(query, gallery), strict=True):
        assert a.shape == b.shape
        np.testing.assert_array_equal(a, b)


maps, places = st.integers(1, 20), st.sampled_from([1, 3, 8, 25, 130])


@settings(max_examples=6, deadline=None)
@given(q=st.integers(1, 3), g=maps, r=places, s=places, d=places, bfloat16=st.booleans())
def test_tpu_kernel_equals_the_definition(q, g, r, s, d, bfloat16):
    dtype = jnp.bfloat16 if bfloat16 else jnp.float32
    query, gallery = integers(0, q, r, d, dtype=dtype), integers(1, g, s, d, dtype=dtype)
    got = interpreted(query, gallery, "tpu", positions=True)
    assert_equal(got, query, gallery)
    assert [x.dtype for x in got] == [jnp.float32] * 2 + [jnp.uint8] * 2


@settings(max_examples=3, deadline=None)
@given(q=st.integers(1, 2), g=st.integers(1, 10), r=places, s=places, d=places)
def test_gpu_kernel_equals_the_definition(q, g, r, s, d):
    query, gallery = (
        integers(i, n, p, d, dtype=jnp.bfloat16) for i, n, p in ((0, q, r), (1, g, s))
    )
    assert_equal(interpreted(query, gallery, "gpu", positions=True), query, gallery)


@pytest.mark.parametrize("backend", ["tpu", "gpu"])
def test_values_alone_are_the_same(backend):
    query, gallery = (
        integers(0, 2, 70, 9, dtype=jnp.bfloat16),
        integers(1, 3, 192, 9, dtype=jnp.bfloat16),
    )
    got = interpreted(query, gallery, backend)
    assert len(got) == 2
    for a, b in zip(got, plain(query, gallery), strict=False):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", ["tpu", "gpu"])
def test_padding_never_wins(backend):
    """All correlations are negative: a zero from padding would be the best of them."""
    query = 1 + jnp.abs(integers(0, 2, 5, 3, dtype=jnp.bfloat16))
    gallery = -1 - jnp.abs(integers(1, 3, 7, 3, dtype=jnp.bfloat16))
    got = interpreted(query, gallery, backend, positions=True)
    assert max(got[0].max(), got[1].max()) < 0
    assert_equal(got, query, gallery)


@pytest.mark.parametrize("backend", ["tpu", "gpu"])
def test_the_first_of_equals_is_returned(backend):
    """Every position of a map is the same, beyond one tile of either kernel too."""
    ones = jnp.ones((1, 200, 2), jnp.bfloat16)
    for place in interpreted(ones, ones, backend, positions=True)[2:]:
        np.testing.assert_array_equal(place, np.zeros_like(place))


@pytest.mark.parametrize(("backend", "r", "s"), [("tpu", 257, 6), ("tpu", 6, 257), ("gpu", 257, 6)])
def test_more_positions_than_a_byte_counts(backend, r, s):
    query, gallery = (jnp.zeros((1, n, 2), jnp.bfloat16).at[0, -1].set(1) for n in (r, s))
    got = interpreted(query, gallery, backend, positions=True)
    assert got[2].dtype == got[3].dtype == jnp.uint16
    assert got[2][0, 0, -1] == r - 1
    assert got[3][0, 0, -1] == s - 1
    assert_equal(got, query, gallery)


def test_real_numbers_to_rounding():
    query, gallery = (jax.random.normal(jax.random.key(n), (n, 9, 33)) for n in (2, 3))
    for a, b in zip(interpreted(query, gallery, "tpu"), plain(query, gallery), strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # sums in another order


@pytest.mark.parametrize("specs", [(P("n"), P()), (P(), P("n"))])
def test_each_device_of_a_mesh_matches_its_own_maps(specs):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), "n")
    query, gallery = integers(0, 4, 3, 8), integers(1, 6, 5, 8)
    kernel = functools.partial(best_matches_kernel, backend="tpu", positions=True, interpret=True)
    out = P(*(spec[0] if spec else None for spec in specs))
    sharded = jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=out)
    assert_equal(jax.jit(sharded)(query, gallery), query, gallery)


def lowered(backend, query, gallery, dtype, wrap=lambda kernel: kernel, **options):
    """The kernel's program for an accelerator, which making it does not need."""
    kernel = functools.partial(best_matches_kernel, backend=backend, positions=True, **options)
    shapes = (jax.ShapeDtypeStruct(shape, dtype) for shape in (query, gallery))
    export = jax.export.export(jax.jit(wrap(kernel)), platforms=[NAMES[backend]])
    return export(*shapes).mlir_module()


@pytest.mark.parametrize(
    ("backend", "dtype", "r"),
    [
        ("tpu", jnp.float32, 192),
        ("tpu", jnp.bfloat16, 192),
        ("tpu", jnp.float32, 32),
        ("tpu", jnp.bfloat16, 200),
        ("gpu", jnp.bfloat16, 192),
        ("gpu", jnp.bfloat16, 32),
    ],
)
def test_lowers_without_a_correlation_in_memory(backend, dtype, r):
    text = lowered(backend, (30, r, 128), (50, r, 128), dtype)
    assert {"tpu": "tpu_custom_call", "gpu": "mosaic_gpu"}[backend] in text
    tensors = re.findall(r"tensor<((?:\d+x)+)", text)
    largest = max(math.prod(map(int, t.rstrip("x").split("x"))) for t in tensors)
    assert largest < 30 * 50 * max(r * r, 64 * 64)  # padded, there are 128 x 32 or 64 x 64 at least


@pytest.mark.parametrize("precision", ["high", "default", None])
def test_lowers_at_any_precision(precision):
    """Mosaic has the least and the greatest only."""
    with jax.default_matmul_precision("high"):
        lowered("tpu", (2, 8, 8), (3, 8, 8), jnp.float32, precision=precision)


@pytest.mark.parametrize(("backend", "dtype"), [("tpu", jnp.float32), ("gpu", jnp.bfloat16)])
def test_lowers_for_a_mesh(backend, dtype):
    mesh = jax.sharding.AbstractMesh((2,), ("n",), axis_types=(jax.sharding.AxisType.Auto,))

    def on_mesh(kernel):
        def own(*maps):
            out = kernel(*maps)
            assert all(jax.typeof(x).manual_axis_type.varying == {"n"} for x in out)
            return out

        return jax.shard_map(own, mesh=mesh, in_specs=(P("n"), P()), out_specs=P("n"))

    lowered(backend, (4, 64, 64), (3, 64, 64), dtype, on_mesh)


def test_what_no_kernel_takes_is_explained():
    query = jax.ShapeDtypeStruct((2, 192, 128), jnp.float32)
    half = jax.ShapeDtypeStruct((2, 192, 128), jnp.bfloat16)
    large = jax.ShapeDtypeStruct((8, 192, 8192), jnp.bfloat16)
    assert why_not(query, query, "tpu") is None
    assert why_not(half, half, "gpu") is None
    assert "must be bfloat16" in why_not(query, query, "gpu")
    assert "both must be float32 or bfloat16" in why_not(query, half, "tpu")
    assert "too large" in why_not(large, large, "tpu")
    assert "too large" in why_not(large, large, "gpu")
    assert "must be [n, positions, d]" in why_not(half, large, "tpu")
    with pytest.raises(ValueError, match="no kernel.*engine 'xla'"):
        best_matches_kernel(jnp.zeros((1, 1, 1)), jnp.zeros((1, 1, 1)), backend="cpu")
