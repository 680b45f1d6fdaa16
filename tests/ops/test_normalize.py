"""Normalisations: by hand, masked, and over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import AXIS, make_mesh
from jaxreid.ops.normalize import batch_norm, l2_normalize, moments


def test_zero_vectors_stay_zero_and_have_a_finite_gradient():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: l2_normalize(x).sum())(x)).all()


def test_running_variance_is_unbiased():
    x = jnp.array([[1.0], [2.0], [6.0]])
    y, (mean, var) = batch_norm(
        x, jnp.ones(1), jnp.zeros(1), (jnp.zeros(1), jnp.ones(1)), axes=(0,), train=True
    )
    np.testing.assert_allclose(mean, 0.1 * np.mean(x), rtol=1e-6)
    np.testing.assert_allclose(var, 0.9 + 0.1 * np.var(x, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(y, (x - np.mean(x)) / np.sqrt(np.var(x) + 1e-5), rtol=1e-5)


def test_evaluation_uses_and_keeps_the_running_statistics():
    running = (jnp.array([1.0]), jnp.array([4.0]))
    y, after = batch_norm(
        jnp.array([[5.0]]), jnp.array([3.0]), jnp.array([0.5]), running, axes=(0,), train=False
    )
    np.testing.assert_allclose(y, [[3 * 4 / np.sqrt(4 + 1e-5) + 0.5]])
    assert after is running


@pytest.mark.parametrize("devices", [1, 4])
def test_moments_ignore_masked_elements_on_any_number_of_devices(devices):
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    mask = np.arange(8) < 7  # the last device holds fewer elements that count
    mesh = make_mesh(jax.devices()[:devices])
    body = lambda x, mask: moments(x, axes=(0,), mask=mask[:, None], axis_name=AXIS)  # noqa: E731
    sharded = jax.shard_map(body, mesh=mesh, in_specs=(P(AXIS), P(AXIS)), out_specs=P())
    mean, variance, count = jax.jit(sharded)(x, mask)
    np.testing.assert_allclose(mean, x[:7].mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, x[:7].var(0), rtol=1e-5)
    np.testing.assert_allclose(count, 7)
