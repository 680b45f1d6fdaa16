"""What the tests of every matcher do with one: score, train, compare, spread over devices."""

import functools

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import AXIS, make_mesh


def scored(matcher, variables, query, gallery):
    return jax.jit(matcher.apply)(variables, query, gallery)


def in_training(matcher, variables, *given, mask=None, method=None):
    """Scores with the statistics of these pairs, and the running statistics after them."""
    options = {"method": method} if method else {"train": True}
    run = jax.jit(functools.partial(matcher.apply, mutable=["batch_stats"], **options))
    scores, updates = run(variables, *given, mask=mask)
    return scores, updates["batch_stats"]


def assert_close(got, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, expected)


def over_devices(devices, matcher, variables, query, gallery):
    """Loss, gradients and statistics of a step, the queries spread over devices."""
    shape = len(query), len(gallery)
    weight = np.random.default_rng(2).standard_normal(shape).astype(np.float32)

    def loss_fn(params, query, gallery, weight, stats):
        held = {"params": params, "batch_stats": stats}
        scores, stats = in_training(matcher, held, query, gallery)
        return jax.lax.psum((weight * scores).sum(), AXIS), stats

    sharded = jax.shard_map(  # the output is checked to be the same on every device
        jax.value_and_grad(loss_fn, argnums=(0, 2), has_aux=True),
        mesh=make_mesh(jax.devices()[:devices]),
        in_specs=(P(), P(AXIS), P(), P(AXIS), P()),
        out_specs=P(),
    )
    return jax.jit(sharded)(variables["params"], query, gallery, weight, variables["batch_stats"])
