"""Matches of patches by sums along diagonals against patches written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from selection import deep

from jaxreid.mesh import AXIS, make_mesh
from jaxreid.ops import patch_matching as module
from jaxreid.ops.correlation import best_matches
from jaxreid.ops.patch_matching import diagonal_sums, patch_matches, patches


def maps(seed, count, h=5, w=4, d=3):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((count, h, w, d)), jnp.float32)


def reflected(i, count):
    """The cell that stands for cell i, which may lie outside."""
    i = abs(i)
    return i if i < count else 2 * (count - 1) - i


def patch_by_hand(x, row, column, size):
    """The patch around a cell of a map [h, w, d], cell by cell."""
    around = range(-(size // 2), size // 2 + 1)
    h, w = x.shape[:2]
    cells = [x[reflected(row + i, h), reflected(column + j, w)] for i in around for j in around]
    return np.concatenate(cells)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_patches_are_what_surrounds_a_cell_reflected_at_the_border(size):
    x = maps(0, 2)
    got = patches(x, size)
    assert got.shape == (2, 20, size**2 * 3)
    for n, i, j in np.ndindex(2, 5, 4):
        expected = patch_by_hand(np.asarray(x[n]), i, j, size)
        np.testing.assert_array_equal(got[n, 4 * i + j], expected)


@pytest.mark.parametrize("size", deep(1, 3, 5, but=[3]))
def test_sums_along_diagonals_are_the_products_of_patches(size):
    query, gallery = maps(0, 2), maps(1, 3)
    correlation = jnp.einsum("ihwd,jyxd->jyxihw", query, gallery).reshape(3, 20, 2, 20)
    expected = jnp.einsum("ird,jsd->jsir", patches(query, size), patches(gallery, size))
    got = diagonal_sums(correlation, (5, 4), size)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert size == 1 or np.abs(got - correlation).max() > 1


@pytest.mark.parametrize(
    ("size", "tile"),  # 500: tiles of a single pair
    deep((3, None), (5, None), (3, 500), (5, 500), but=[(5, None), (3, 500)]),
)
def test_matches_positions_and_gradients_equal_those_of_patches(size, tile):
    query, gallery = maps(0, 3), maps(1, 4)
    rng = np.random.default_rng(2)
    weights = [rng.standard_normal((3, 4, 20)).astype(np.float32) for _ in range(2)]

    def of_patches(query, gallery, positions=False):
        return best_matches(patches(query, size), patches(gallery, size), positions=positions)

    def of_maps(query, gallery, positions=False):
        return patch_matches(query, gallery, size=size, positions=positions, tile=tile)

    def everything(matches):
        def total(query, gallery):
            found = matches(query, gallery)
            return sum(jnp.sum(w * m) for w, m in zip(weights, found, strict=True))

        run = jax.jit(lambda *x: (matches(*x, positions=True), jax.grad(total, (0, 1))(*x)))
        return run(query, gallery)

    (got, got_gradients), (found, gradients) = everything(of_maps), everything(of_patches)
    for a, b in zip(got[:2], found[:2], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    for a, b in zip(got[2:], found[2:], strict=True):
        assert a.dtype == jnp.uint8
        np.testing.assert_array_equal(a, b)
    for a, b in zip(got_gradients, gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_patches_are_not_written_out_for_scores(monkeypatch):
    monkeypatch.setattr(module, "patches", None)
    of_query, of_gallery = patch_matches(maps(0, 2), maps(1, 3), size=3)
    assert of_query.shape == of_gallery.shape == (2, 3, 20)


def test_gradients_over_a_mesh_equal_those_of_one_device():
    query, gallery = maps(0, 2), maps(1, 8)

    def total(query, gallery):  # queries are whole on every device
        return jax.lax.psum(sum(jnp.sum(m) for m in patch_matches(query, gallery, size=3)), AXIS)

    def over(devices):
        mesh = make_mesh(jax.devices()[:devices])
        sharded = jax.shard_map(total, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P())
        return jax.jit(jax.grad(sharded, (0, 1)))(query, gallery)

    for a, b in zip(over(4), over(1), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("query", "gallery", "size", "message"),
    [
        ((2, 5, 4, 3), (2, 5, 4, 3), 2, "2x2; expected an odd size"),
        ((2, 5, 4, 3), (2, 5, 4, 3), 9, "9x9 on maps of 5x4.*at least 5 rows and columns"),
        ((2, 5, 4, 3), (2, 4, 5, 3), 3, r"expected query \[Q, h, w, d\]"),
        ((2, 20, 3), (2, 20, 3), 3, r"expected query \[Q, h, w, d\]"),
    ],
)
def test_what_has_no_patches_is_refused(query, gallery, size, message):
    with pytest.raises(ValueError, match=message):
        patch_matches(jnp.zeros(query), jnp.zeros(gallery), size=size)
