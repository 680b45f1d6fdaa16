"""The average of the weights: plain loops, nothing else changed, saved with the state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_layer import ONE_LAYER

from jaxreid.mesh import AXIS, make_mesh, to_devices, to_host
from jaxreid.models.model import make_model
from jaxreid.training.averaging import updated
from jaxreid.training.objectives import make_objective
from jaxreid.training.optim import make_optimizer
from jaxreid.training.schedules import make_schedule
from jaxreid.training.state import (
    checkpoint_parts,
    create_state,
    models_of,
    state_from_parts,
    variables_of,
)
from jaxreid.training.step import make_train_step

STEPS, DECAY = 3, 0.8


@pytest.mark.parametrize("decay", [0.5, 0.999, 0.99999])
def test_the_average_is_the_weighted_mean_of_all_weights_so_far(decay):
    weights = np.random.default_rng(0).normal(3, 1, (40, 2))
    average = {"a": jnp.zeros(2)}  # these never enter
    update = jax.jit(lambda average, w, step: updated(average, {"a": w}, step, decay))
    for step in range(len(weights)):
        average = update(average, weights[step].astype(np.float32), step)
        share = decay ** np.arange(step, -1, -1)
        expected = (share[:, None] * weights[: step + 1]).sum(0) / share.sum()
        np.testing.assert_allclose(average["a"], expected, rtol=2e-5)


def model(axis_name=None):
    parts = {"neck": {"name": "linear", "channels": 4}, "matcher": {"name": "embedding"}}
    size = {"height": 32, "width": 16, "classes": 5}
    return make_model(backbone=ONE_LAYER, **parts, **size, axis_name=axis_name)


def train(ema):
    """The states after every step, on two devices."""
    mesh, tx = make_mesh(jax.devices()[:2]), make_optimizer(lr=0.5, backbone_lr=0.5)
    state = create_state(model(), tx, num_classes=None, seed=1, mesh=mesh, averaged=bool(ema))
    assert list(models_of(state)) == [""]  # nothing to average yet
    step = make_train_step(
        mesh,
        state,
        model=model(AXIS),
        objective=make_objective("softmax", num_classes=5, axis_name=AXIS),
        tx=tx,
        schedule=make_schedule(epochs=1, steps_per_epoch=STEPS),
        ema=ema,
    )
    states, generator = [], np.random.default_rng(0)
    for _ in range(STEPS):
        image = generator.integers(0, 256, (4, 32, 16, 3)).astype(np.uint8)
        state, _ = step(state, to_devices(mesh, {"image": image, "label": np.arange(4)}), 1)
        states.append(to_host(state))
    assert step._cache_size() == 1
    return states


def test_averaging_changes_nothing_else_and_is_saved_with_the_state():
    plain, averaged = train(0.0), train(DECAY)
    for a, b in zip(plain, averaged, strict=True):
        without = b.replace(average=None)
        assert jax.tree.structure(a) == jax.tree.structure(without)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(without), strict=True):
            np.testing.assert_array_equal(x, y)
    share = DECAY ** np.arange(STEPS - 1, -1, -1)
    weighted = lambda *leaves: sum(s * x for s, x in zip(share, leaves, strict=True))  # noqa: E731
    expected = jax.tree.map(weighted, *map(variables_of, averaged))
    last = averaged[-1]
    assert list(models_of(last)) == ["", "averaged"]
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(last.average), strict=True):
        np.testing.assert_allclose(b, a / share.sum(), rtol=1e-5, atol=1e-6)
    changed = jax.tree.map(
        np.array_equal, variables_of(last)["batch_stats"], dict(last.average)["batch_stats"]
    )
    assert not any(jax.tree.leaves(changed))
    parts = checkpoint_parts(last, {})
    restored, _ = state_from_parts(parts)
    assert jax.tree.structure(restored) == jax.tree.structure(last)
    # Checkpoints without averaging are those of earlier versions.
    assert parts["training"].keys() - checkpoint_parts(plain[-1], {})["training"].keys() == {
        "average"
    }
