"""Tiled best matches against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreid.ops.correlation import best_matches, match_pair, matched_positions


def maps(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_a_pair_by_hand():
    query, gallery = (
        jnp.array([[1.0, 0.0], [0.0, 1.0]]),
        jnp.array([[0.6, 0.8], [1.0, 0.0], [-1.0, 0.0]]),
    )
    over_gallery, over_query = match_pair(query, gallery)
    np.testing.assert_allclose(over_gallery, [0.8, 1.0, 0.0])
    np.testing.assert_allclose(over_query, [1.0, 0.8])


sizes = st.integers(1, 5)


@settings(max_examples=15, deadline=None)
@given(q=sizes, g=sizes, r=sizes, s=sizes, d=sizes, tile=st.one_of(st.none(), sizes))
def test_tiles_equal_the_vmapped_pair(q, g, r, s, d, tile):
    query, gallery = maps(0, q, r, d), maps(1, g, s, d)
    expected = jax.vmap(jax.vmap(match_pair, (None, 0)), (0, None))(query, gallery)
    got = best_matches(query, gallery, tile=tile)
    assert got[0].shape == (q, g, s)
    assert got[1].shape == (q, g, r)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_gradient_equals_that_of_the_vmapped_pair():
    query, gallery = maps(0, 3, 4, 5), maps(1, 6, 2, 5)
    weights = maps(2, 3, 6, 2), maps(3, 3, 6, 4)

    def total(matches):
        return sum(jnp.sum(w * m) for w, m in zip(weights, matches, strict=True))

    def plain(query, gallery):
        return total(jax.vmap(jax.vmap(match_pair, (None, 0)), (0, None))(query, gallery))

    expected = jax.grad(plain, (0, 1))(query, gallery)
    got = jax.grad(lambda q, g: total(best_matches(q, g, tile=4)), (0, 1))(query, gallery)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_matches_are_at_least_float32(dtype):
    over_gallery, _ = best_matches(maps(0, 2, 3, 4).astype(dtype), maps(1, 2, 3, 4).astype(dtype))
    assert over_gallery.dtype == jnp.float32


def test_matched_positions_by_hand():
    query = jnp.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    gallery = jnp.array([[[0.6, 0.8], [1.0, 0.0]], [[-1.0, 0.0], [0.0, -1.0]]])
    in_query, in_gallery = matched_positions(query, gallery)
    np.testing.assert_array_equal(in_query, [[[1, 0], [1, 0]]])  # the first of equals
    np.testing.assert_array_equal(in_gallery, [[[1, 0, 0], [1, 0, 0]]])
    assert in_query.dtype == in_gallery.dtype == jnp.int32


@settings(max_examples=15, deadline=None)
@given(q=sizes, g=sizes, r=sizes, s=sizes, d=sizes)
def test_matched_positions_hold_the_best_matches(q, g, r, s, d):
    query, gallery = maps(0, q, r, d), maps(1, g, s, d)
    in_query, in_gallery = matched_positions(query, gallery)
    over_gallery, over_query = best_matches(query, gallery)
    for i, j in np.ndindex(q, g):
        there = np.einsum("sd,sd->s", query[i][in_query[i, j]], gallery[j])
        np.testing.assert_allclose(there, over_gallery[i, j], atol=1e-5)
        back = np.einsum("rd,rd->r", query[i], gallery[j][in_gallery[i, j]])
        np.testing.assert_allclose(back, over_query[i, j], atol=1e-5)
