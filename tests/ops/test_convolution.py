"""The forms for CPUs against XLA's convolutions and pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import AXIS, make_mesh
from jaxreid.ops import convolution as module
from jaxreid.ops.convolution import average_pool, convolve, max_pool

KERNELS = {
    "pointwise": ((1, 1, 6, 5), 1),
    "strided pointwise": ((1, 1, 6, 5), 2),
    "depthwise": ((3, 3, 1, 6), 1),
    "dense": ((3, 3, 6, 5), 1),
    "strided dense": ((3, 3, 6, 5), 2),
    "stem": ((7, 7, 6, 5), 2),
}


def inputs(shape, kernel):
    generator = np.random.default_rng(0)
    return [jnp.array(generator.standard_normal(s), jnp.float32) for s in (shape, kernel)]


def value_and_gradients(function, *arrays):
    loss = lambda *arrays: jnp.sum(jnp.sin(function(*arrays)))  # noqa: E731
    gradients = jax.grad(loss, argnums=tuple(range(len(arrays))))
    return jax.jit(lambda *arrays: (function(*arrays), *gradients(*arrays)))(*arrays)


SHAPES = [(2, 8, 4, 6), (3, 7, 5, 6), (1, 1, 1, 6), (8, 16, 2, 6)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KERNELS)
def test_both_forms_of_a_convolution_are_equal(kind, shape):
    kernel, stride = KERNELS[kind]
    x, k = inputs(shape, kernel)
    results = [
        value_and_gradients(lambda x, k, n=n: convolve(x, k, stride=stride, native=n), x, k)
        for n in (True, False)
    ]
    for ours, native in zip(*results, strict=True):
        np.testing.assert_allclose(ours, native, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 4, 3), (3, 7, 5, 2), (1, 1, 1, 1)])
def test_both_forms_of_the_maximum_are_equal(shape):
    x, _ = inputs(shape, (1,))
    results = [value_and_gradients(lambda x, n=n: max_pool(x, native=n), x) for n in (True, False)]
    for ours, native in zip(*results, strict=True):
        np.testing.assert_allclose(ours, native, rtol=1e-6)
    assert results[0][0].shape[1:3] == ((shape[1] + 1) // 2, (shape[2] + 1) // 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_kernels_from_parts_of_a_batch_add_up(monkeypatch, stride):
    x, k = inputs((6, 7, 5, 4), (3, 3, 4, 2))
    ours = lambda x, k: convolve(x, k, stride=stride, native=False)  # noqa: E731
    together = value_and_gradients(ours, x, k)
    monkeypatch.setattr(module, "RUN", 10)  # two images of five columns, or three of three
    for a, b in zip(together, value_and_gradients(ours, x, k), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


def test_equal_maxima_share_the_gradient():
    x = jnp.ones((1, 4, 4, 1))
    gradient = jax.grad(lambda x: max_pool(x, native=False).sum())(x)
    assert float(gradient.sum()) == pytest.approx(4)


def test_mean_of_two_by_two_leaves_out_an_odd_row():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    np.testing.assert_allclose(average_pool(x)[0, :, :, 0], [[3, 5]])


@pytest.mark.parametrize("kernel", [(3, 3, 1, 6), (3, 3, 6, 5)], ids=["depthwise", "dense"])
def test_gradients_of_kernels_are_summed_over_devices(kernel):
    mesh = make_mesh(jax.devices()[:4])
    x, k = inputs((8, 5, 4, 6), kernel)

    def loss(k, x, native):
        return jax.lax.psum(jnp.sum(jnp.sin(convolve(x, k, native=native))), AXIS)

    def gradients(native):
        def per_device(k, x):
            return jax.grad(loss, argnums=(0, 1))(k, x, native)

        specs = {"in_specs": (P(), P(AXIS)), "out_specs": (P(), P(AXIS))}
        return jax.jit(jax.shard_map(per_device, mesh=mesh, **specs))(k, x)

    for ours, native in zip(gradients(False), gradients(True), strict=True):
        np.testing.assert_allclose(ours, native, rtol=1e-5, atol=1e-5)


def test_forms_keep_the_type_of_the_images():
    for kernel, stride in KERNELS.values():
        x, k = (array.astype(jnp.bfloat16) for array in inputs((2, 8, 4, 6), kernel))
        assert convolve(x, k, stride=stride, native=False).dtype == jnp.bfloat16
        assert (
            jax.grad(lambda k, x=x, s=stride: convolve(x, k, stride=s, native=False).sum())(k).dtype
            == jnp.bfloat16
        )


@pytest.mark.parametrize("size", [(7, 6), (4, 9)])
def test_max_pool_without_padding_begins_at_the_first_pixel(size):
    x = np.random.default_rng(0).standard_normal((1, *size, 1)).astype(np.float32)
    (h, w), y = size, np.asarray(max_pool(x, padding=0))
    # An even size leaves one pixel less to the last window.
    assert y.shape == (1, h // 2, w // 2, 1)
    for i, j in np.ndindex(h // 2, w // 2):
        assert y[0, i, j, 0] == x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, 0].max()
