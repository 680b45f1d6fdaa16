"""Normalisations: by hand, masked, and over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from selection import deep

from jaxreid.mesh import AXIS, make_mesh
from jaxreid.ops.normalize import batch_norm, chunked_batch_norm, l2_normalize, moments


def test_zero_vectors_stay_zero_and_have_a_finite_gradient():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(l2_normalize(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert np.isfinite(jax.jit(jax.grad(lambda x: l2_normalize(x).sum()))(x)).all()


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


def plain_batch_norm(x, scale, bias):
    """The definition, over all axes but the last."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    return (x - mean) / jnp.sqrt(jnp.square(x - mean).mean(axes) + 1e-5) * scale + bias


def of_weighted_sum(function, weight):
    return jax.grad(lambda *a: (jnp.sin(function(*a)) * weight).sum(), argnums=(0, 1, 2))


STATISTICS = jnp.zeros(5), jnp.ones(5)
# What devices share, and whether statistics are over all of them: as in a model, with parameters of
# each device, with the same images on all, and with statistics of each device alone.
SHARED = {
    "parameters": (P(AXIS), P(), AXIS),
    "nothing": (P(AXIS), P(AXIS), AXIS),
    "everything": (P(), P(), AXIS),
    "no statistics": (P(AXIS), P(), None),
}


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("devices", deep(1, 4, but=[4]))
def test_gradient_over_the_batch_is_that_of_the_definition(devices, shared):
    of_images, of_parameters, axis_name = SHARED[shared]
    generator = np.random.default_rng(0)
    x, weight = generator.normal(3, 0.5, (2, 8, 3, 5)).astype(np.float32)
    rows = devices if of_parameters == P(AXIS) else 1
    scale, bias = generator.normal(1, 0.5, (2, rows, 5)).astype(np.float32)
    mesh = make_mesh(jax.devices()[:devices])
    options = {"axes": (0, 1), "train": True, "axis_name": axis_name}

    def ours(x, scale, bias):
        return batch_norm(x, scale[0], bias[0], STATISTICS, **options)[0]

    def definition(x, scale, bias):
        moment = lambda x: x.mean((0, 1)) if axis_name is None else everywhere(x)  # noqa: E731
        everywhere = lambda x: jax.lax.pmean(x.mean((0, 1)), AXIS)  # noqa: E731
        mean = moment(x)
        deviation = x - mean
        return deviation / jnp.sqrt(moment(jnp.square(deviation)) + 1e-5) * scale[0] + bias[0]

    def gradients(function, x, weight, scale, bias):
        def loss(x, scale, bias):
            return jax.lax.psum((jnp.sin(function(x, scale, bias)) * weight).sum(), AXIS)

        return jax.grad(loss, argnums=(0, 1, 2))(x, scale, bias)

    specs = {
        "in_specs": (of_images, of_images, of_parameters, of_parameters),
        "out_specs": (of_images, of_parameters, of_parameters),
    }
    got, expected = (
        jax.jit(jax.shard_map(functools.partial(gradients, f), mesh=mesh, **specs))(
            x, weight, scale, bias
        )
        for f in (ours, definition)
    )
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5)


def test_gradients_have_gradients():
    x, weight = np.random.default_rng(2).normal(1, 2, (2, 6, 5)).astype(np.float32)
    scale, bias = jnp.full(5, 1.5), jnp.full(5, 0.5)
    options = {"axes": (0,), "train": True}
    ours = lambda x, scale, bias: batch_norm(x, scale, bias, STATISTICS, **options)[0]  # noqa: E731

    def second(function):
        first = of_weighted_sum(function, weight)
        squared = lambda *a: sum(jnp.square(g).sum() for g in first(*a))  # noqa: E731
        return jax.jit(jax.grad(squared, argnums=(0, 1, 2)))(x, scale, bias)

    for mine, theirs in zip(second(ours), second(plain_batch_norm), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def test_gradient_without_scale_and_bias():
    x, weight = np.random.default_rng(1).normal(0, 1, (2, 6, 4)).astype(np.float32)
    running = jnp.zeros(4), jnp.ones(4)
    options = {"axes": (0,), "train": True}
    ours = lambda x, scale, bias: batch_norm(x, scale, bias, running, **options)[0]  # noqa: E731
    got = jax.jit(of_weighted_sum(ours, weight))(x, 1.0, 0.0)
    expected = jax.jit(of_weighted_sum(plain_batch_norm, weight))(x, 1.0, 0.0)
    assert [np.shape(gradient) for gradient in got] == [x.shape, (), ()]
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


RUNNING = (jnp.float32(0.5), jnp.float32(2.0))
SCALE, BIAS = jnp.float32(1.5), jnp.float32(0.25)


def by_loop(x, chunk, mask):
    """Chunks of rows (the second axis) one after the other, without the masked ones."""
    running, parts = RUNNING, []
    for first in range(0, x.shape[1], chunk):
        part = x[:, first : first + chunk][:, mask[first : first + chunk]]
        if part.size:
            axes = tuple(range(x.ndim))
            normalize = jax.jit(functools.partial(batch_norm, axes=axes, train=True))
            part, running = normalize(part, SCALE, BIAS, running)
        parts.append(part)
    return np.concatenate(parts, axis=1), running


@pytest.mark.parametrize("chunk", deep(1, 3, 4, 5, 12, 99, but=[1, 5]))
@pytest.mark.parametrize("count", [12, 7])
def test_chunks_are_normalised_one_after_the_other(chunk, count):
    x = np.random.default_rng(0).standard_normal((3, 12, 2)).astype(np.float32)
    mask = np.arange(12) < count  # with 7: some chunks are padding in part, some alone
    expected, (mean, var) = by_loop(x, chunk, mask)
    normalize = jax.jit(functools.partial(chunked_batch_norm, axis=1, chunk=chunk, mask=mask))
    y, running = normalize(x, SCALE, BIAS, RUNNING)
    assert y.shape == x.shape
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y[:, mask], expected, atol=2e-5)
    np.testing.assert_allclose(running, (mean, var), rtol=1e-5)


def test_one_chunk_is_the_whole():
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    expected = batch_norm(x, SCALE, BIAS, RUNNING, axes=(0, 1), train=True)
    got = chunked_batch_norm(x, SCALE, BIAS, RUNNING, axis=0, chunk=5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected)


@pytest.mark.parametrize("devices", deep(1, 2, 4, but=[1, 4]))
@pytest.mark.parametrize("count", deep(16, 9, 4, but=[9, 4]))
def test_chunks_in_order_over_devices(devices, count):
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    mask = np.arange(16) < count
    expected, running = by_loop(x, 4, mask)

    def body(x, mask):
        options = {"axis": 1, "chunk": 4, "mask": mask, "axis_name": AXIS}
        return chunked_batch_norm(x, SCALE, BIAS, RUNNING, **options)

    sharded = jax.shard_map(  # P() is checked: every device has the same running statistics
        body,
        mesh=make_mesh(jax.devices()[:devices]),
        in_specs=(P(None, AXIS), P(AXIS)),
        out_specs=(P(None, AXIS), P()),
    )
    y, got = jax.jit(sharded)(x, mask)
    np.testing.assert_allclose(y[:, mask], expected, atol=2e-5)
    np.testing.assert_allclose(got, running, rtol=1e-5)


@pytest.mark.parametrize(("devices", "chunk"), [(2, 3), (1, 0), (1, -4)])
def test_chunks_across_devices_or_of_nothing_are_refused(devices, chunk):
    body = lambda x: chunked_batch_norm(  # noqa: E731
        x, SCALE, BIAS, RUNNING, axis=0, chunk=chunk, axis_name=AXIS
    )
    mesh = make_mesh(jax.devices()[:devices])
    sharded = jax.shard_map(body, mesh=mesh, in_specs=P(AXIS), out_specs=(P(AXIS), P()))
    with pytest.raises(ValueError, match=f"chunks of {chunk} rows.*holds {8 // devices}"):
        sharded(jnp.ones(8))
