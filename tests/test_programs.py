"""Options of the compiler for programs with networks."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid.mesh import make_mesh
from jaxreid.ops.convolution import convolve
from jaxreid.programs import network_options


def test_convolutions_stay_in_the_compiler_on_a_cpu():
    options = network_options(make_mesh(jax.devices()[:1]))
    x, kernel = jnp.ones((2, 8, 8, 32)), jnp.ones((3, 3, 32, 32))
    text = jax.jit(convolve, compiler_options=options).lower(x, kernel).compile().as_text()
    assert "convolution(" in text
    assert "ynn_fusion" not in text


def test_other_devices_keep_the_options_of_their_compiler():
    device = types.SimpleNamespace(platform="tpu")
    assert network_options(types.SimpleNamespace(devices=np.array([device]))) is None
