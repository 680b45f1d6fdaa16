"""Tiled best matches, their positions and their gradient against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import AXIS, make_mesh
from jaxreid.ops import correlation, positions
from jaxreid.ops.correlation import best_matches, match_pair, match_scores
from jaxreid.ops.tiles import tile_shape

matched = jax.jit(best_matches, static_argnames=("tile", "positions"))


def every_pair(query, gallery, gate=None):
    one_query = jax.vmap(match_pair, (None, 0, None))
    return jax.vmap(one_query, (0, None, None))(query, gallery, gate)


def maps(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_a_pair_by_hand():
    query = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    gallery = jnp.array([[0.6, 0.8], [1.0, 0.0], [-1.0, 0.0]])
    of_query, of_gallery = match_pair(query, gallery)
    np.testing.assert_allclose(of_query, [1.0, 0.8])
    np.testing.assert_allclose(of_gallery, [0.8, 1.0, 0.0])


def test_a_gate_weighs_a_pair_of_positions_before_the_maxima():
    query = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    gallery = jnp.array([[0.6, 0.8], [1.0, 0.0], [-1.0, 0.0]])  # correlation 0.6 1 -1, 0.8 0 0
    gate = jnp.array([[1.0, 0.5, 0.1], [0.25, 1.0, 1.0]])  # a row for each query position
    of_query, of_gallery = match_pair(query, gallery, gate)
    np.testing.assert_allclose(of_query, [0.6, 0.2])
    np.testing.assert_allclose(of_gallery, [0.6, 0.5, 0.0])


sizes = st.integers(1, 5)
shapes = {"q": sizes, "g": sizes, "r": sizes, "s": sizes, "d": sizes}
tiles = st.one_of(st.none(), st.integers(1, 200))
few = settings(max_examples=5, deadline=None)  # each is compiled


@few
@given(**shapes, tile=tiles, gated=st.booleans())
def test_any_shape_and_tile_equals_the_vmapped_pair(q, g, r, s, d, tile, gated):
    query, gallery, gate = maps(0, q, r, d), maps(1, g, s, d), maps(2, r, s) if gated else None
    *got, in_gallery, in_query = matched(query, gallery, gate=gate, tile=tile, positions=True)
    assert got[0].shape == in_gallery.shape == (q, g, r)
    assert got[1].shape == in_query.shape == (q, g, s)
    for a, b in zip(got, every_pair(query, gallery, gate), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    gate = np.ones((r, s)) if gate is None else np.asarray(gate)
    for i, j in np.ndindex(q, g):
        product = gate * np.asarray(query[i] @ gallery[j].T)
        there = product[np.arange(r), in_gallery[i, j]]
        np.testing.assert_allclose(there, got[0][i, j], atol=1e-5)
        back = product[in_query[i, j], np.arange(s)]
        np.testing.assert_allclose(back, got[1][i, j], atol=1e-5)


@few
@given(**shapes, tile=tiles)
def test_weighted_sums_are_those_of_the_matches(q, g, r, s, d, tile):
    query, gallery, weights = maps(0, q, r, d), maps(1, g, s, d), (maps(2, r), maps(3, s))
    expected = sum(m @ w for m, w in zip(every_pair(query, gallery), weights, strict=True))
    got = jax.jit(match_scores, static_argnames="tile")(query, gallery, *weights, tile=tile)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def gradients(matches, query, gallery, weights, *gate):
    def total(query, gallery, *gate):
        found = matches(query, gallery, *gate)
        return sum(jnp.sum(w * m) for w, m in zip(weights, found, strict=True))

    return jax.jit(jax.grad(total, range(2 + len(gate))))(query, gallery, *gate)


def tiled(tile=None):
    def matches(query, gallery, gate=None):
        return best_matches(query, gallery, gate=gate, tile=tile)

    return matches


@few
@given(**shapes, tile=tiles, scattered=st.booleans(), gated=st.booleans())
def test_gradients_equal_those_of_the_vmapped_pair(q, g, r, s, d, tile, scattered, gated):
    given = maps(0, q, r, d), maps(1, g, s, d), (maps(2, q, g, r), maps(3, q, g, s))
    given = (*given, maps(4, r, s)) if gated else given
    expected = gradients(every_pair, *given)
    with pytest.MonkeyPatch.context() as patch:  # the form for accelerators, here
        if not scattered:
            patch.setattr(positions, "gathered", positions.one_hot)
        got = gradients(tiled(tile), *given)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(q=st.integers(1, 70), g=st.integers(1, 300), n=st.integers(1, 200), power=st.integers(0, 22))
def test_tiles_cover_all_with_little_padding(q, g, n, power):
    maps = [jax.ShapeDtypeStruct((count, n, 3), jnp.float32) for count in (q, g)]
    i, j = tile_shape(*maps, 2**power)
    assert 1 <= i <= q
    assert 1 <= j <= g
    assert i * j * n * n <= max(1.5 * 2**power, n * n)
    for count, size in ((q, i), (g, j)):
        tiles = -(-count // size)
        assert tiles * size - count < tiles  # less than one in each


def test_positions_and_scores_have_the_same_gradient():
    query, gallery = maps(0, 3, 4, 5), maps(1, 6, 7, 5)
    weights = maps(2, 4), maps(3, 7)
    spread = tuple(jnp.broadcast_to(w, (3, 6, len(w))) for w in weights)
    expected = gradients(every_pair, query, gallery, spread)
    both = gradients(lambda *x: best_matches(*x, positions=True)[:2], query, gallery, spread)
    total = jax.grad(lambda *x: match_scores(*x).sum(), (0, 1, 2, 3))
    scores = jax.jit(total)(query, gallery, *weights)
    for a, b, c in zip(both, scores[:2], expected, strict=True):
        np.testing.assert_allclose(a, c, atol=1e-5)
        np.testing.assert_allclose(b, c, atol=1e-5)
    for a, m in zip(scores[2:], every_pair(query, gallery), strict=True):
        np.testing.assert_allclose(a, m.sum((0, 1)), atol=1e-4)


def test_a_tie_is_the_first_position_and_takes_the_gradient_alone():
    query = jnp.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    gallery = jnp.array([[[0.6, 0.8], [1.0, 0.0]], [[-1.0, 0.0], [0.0, -1.0]]])
    *_, in_gallery, in_query = best_matches(query, gallery, positions=True)
    np.testing.assert_array_equal(in_query, [[[1, 0], [1, 0]]])
    np.testing.assert_array_equal(in_gallery, [[[1, 0, 0], [1, 0, 0]]])
    weights = jnp.zeros((1, 2, 3)), jnp.ones((1, 2, 2))  # of gallery positions alone
    of_query, _ = gradients(best_matches, query, gallery, weights)
    np.testing.assert_allclose(of_query[0], [[1.0, -1.0], [-0.4, 0.8], [0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize(("count", "dtype"), [(256, jnp.uint8), (257, jnp.uint16)])
def test_positions_take_one_byte_where_that_suffices(count, dtype):
    query, gallery = maps(0, 1, count, 2), maps(1, 1, 2, 2)
    *_, in_gallery, in_query = best_matches(query, gallery, positions=True)
    assert in_query.dtype == dtype
    assert in_gallery.dtype == jnp.uint8
    correlation = np.einsum("qrd,gsd->qgrs", query, gallery)
    np.testing.assert_array_equal(in_query, correlation.argmax(2))


def test_bfloat16_is_compared_and_differentiated_in_float32():
    query, gallery = maps(0, 2, 6, 4).astype(jnp.bfloat16), maps(1, 3, 5, 4).astype(jnp.bfloat16)
    wide = query.astype(jnp.float32), gallery.astype(jnp.float32)
    matches = best_matches(query, gallery)
    assert {m.dtype for m in matches} == {jnp.dtype(jnp.float32)}
    for a, b in zip(matches, every_pair(*wide), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    weights = maps(2, 2, 3, 6), maps(3, 2, 3, 5)
    expected = gradients(every_pair, *wide, weights)
    for a, b in zip(gradients(best_matches, query, gallery, weights), expected, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-8)  # rounded once


@pytest.mark.parametrize("scattered", [True, False])
def test_gradients_over_a_mesh_equal_those_of_one_device(scattered, monkeypatch):
    if not scattered:
        monkeypatch.setattr(positions, "gathered", positions.one_hot)
    query, gallery, gate = maps(0, 3, 4, 5), maps(1, 8, 6, 5), maps(4, 4, 6)
    weights = maps(2, 3, 8, 4), maps(3, 3, 8, 6)
    expected = gradients(every_pair, query, gallery, weights, gate)

    def total(query, gallery, gate, *weights):  # queries and gate are whole on every device
        found = best_matches(query, gallery, gate=gate, tile=100)
        return jax.lax.psum(sum(jnp.sum(w * m) for w, m in zip(weights, found, strict=True)), AXIS)

    cut = P(None, AXIS)
    mesh = make_mesh(jax.devices()[:4])
    in_specs = P(), P(AXIS), P(), cut, cut
    sharded = jax.shard_map(total, mesh=mesh, in_specs=in_specs, out_specs=P())
    got = jax.jit(jax.grad(sharded, (0, 1, 2)))(query, gallery, gate, *weights)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_kernel_gives_the_same_matches_scores_and_gradients(monkeypatch):
    query, gallery = maps(0, 2, 5, 4), maps(1, 3, 6, 4)
    weights = maps(2, 2, 3, 5), maps(3, 2, 3, 6)
    per_position = maps(4, 5), maps(5, 6)

    def everything():
        return (
            *best_matches(query, gallery, positions=True),
            match_scores(query, gallery, *per_position),
            *gradients(best_matches, query, gallery, weights),
        )

    expected = everything()
    monkeypatch.setenv("JAXREID_ENGINE", "pallas")
    too_large = maps(0, 1, 9000, 4)
    assert best_matches(too_large, query)[0].shape == (1, 2, 9000)  # preferred, where it can be had
    monkeypatch.setattr(correlation, "over_tiles", None)  # not the other one again
    for a, b in zip(everything(), expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_gate_takes_the_engine_that_has_one(monkeypatch):
    query, gallery, gate = maps(0, 2, 5, 4), maps(1, 3, 6, 4), maps(2, 5, 6)
    expected = best_matches(query, gallery, gate=gate)
    monkeypatch.setenv("JAXREID_ENGINE", "pallas")
    for a, b in zip(best_matches(query, gallery, gate=gate), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("gated", [False, True])
def test_training_keeps_no_correlation(gated):
    n, count = 64, 16  # the correlation: 4 MiB
    shapes = [(count, n, 8), (count, n, 8), *[(n, n)] * gated]
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def memory(matches):
        def total(*given):
            return sum(jnp.sum(jnp.square(m)) for m in matches(*given))

        gradient = jax.grad(total, range(len(shapes)))
        compiled = jax.jit(gradient).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = count * count * n * n * 4
    assert memory(every_pair) > whole
    assert memory(tiled(2**14)) < whole / 3


@pytest.mark.parametrize(
    ("query", "gallery", "options", "message"),
    [
        ((2, 3, 4), (2, 3, 5), {}, r"expected query \[Q, r, d\] and gallery \[G, s, d\]"),
        ((2, 0, 4), (2, 3, 4), {}, "without positions"),
        ((2, 3, 4), (2, 3, 4), {"engine": "xls"}, "unknown matching engine 'xls'.*xla"),
        ((2, 9000, 4), (2, 3, 4), {"engine": "pallas"}, "too large for on-chip memory"),
        ((2, 3, 4), (2, 5, 4), {"gate": np.ones((5, 3))}, r"gate \(5, 3\).*query positions first"),
        (
            (2, 3, 4),
            (2, 5, 4),
            {"gate": np.ones((3, 5)), "engine": "pallas"},
            "'pallas' has no gate; use 'xla'",
        ),
    ],
)
def test_what_cannot_be_matched_is_refused(query, gallery, options, message):
    with pytest.raises(ValueError, match=message):
        best_matches(maps(0, *query), maps(1, *gallery), **options)


def test_no_queries_or_no_gallery_have_no_matches():
    of_query, of_gallery = best_matches(maps(0, 0, 3, 4), maps(1, 2, 5, 4))
    assert of_query.shape == (0, 2, 3)
    assert of_gallery.shape == (0, 2, 5)
    assert match_scores(maps(0, 2, 3, 4), maps(1, 0, 5, 4), maps(2, 3), maps(3, 5)).shape == (2, 0)
