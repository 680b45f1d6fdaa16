"""Optimizers and schedules against PyTorch's rules, written plainly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxreid.optim import make_optimizer, make_schedule, parameter_groups


def params():
    return {
        "backbone": {"conv1": {"kernel": jnp.array([1.0])}},
        "neck": {"conv": {"kernel": jnp.array([2.0])}},
        "matcher": {"weight": jnp.array([-3.0])},
    }


def test_backbone_and_new_layers_are_told_apart():
    groups = parameter_groups(params())
    assert groups["backbone"]["conv1"]["kernel"] == "backbone"
    assert groups["neck"]["conv"]["kernel"] == "new"
    assert groups["matcher"]["weight"] == "new"


def test_sgd_equals_pytorchs_rule():
    tx, rate = make_optimizer(
        lr=0.1, backbone_lr=0.01, weight_decay=0.05, steps=6, steps_per_epoch=2, step_epochs=2
    )
    tree = params()
    state = tx.init(tree)
    weights = {"backbone": 1.0, "neck": 2.0, "matcher": -3.0}
    velocity = dict.fromkeys(weights, 0.0)
    for step in range(6):
        grads = jax.tree.map(lambda x, s=step + 1: jnp.sin(x * s), tree)
        updates, state = tx.update(grads, state, tree)
        tree = optax.apply_updates(tree, updates)
        decay = 0.1 if step >= 4 else 1.0  # after two epochs of two steps
        assert rate(step) == pytest.approx(0.1 * decay)
        for name, lr in (("backbone", 0.01), ("neck", 0.1), ("matcher", 0.1)):
            g = np.sin(weights[name] * (step + 1)) + 0.05 * weights[name]
            velocity[name] = 0.9 * velocity[name] + g
            weights[name] -= lr * decay * (g + 0.9 * velocity[name])
    np.testing.assert_allclose(tree["backbone"]["conv1"]["kernel"], weights["backbone"], rtol=1e-5)
    np.testing.assert_allclose(tree["neck"]["conv"]["kernel"], weights["neck"], rtol=1e-5)
    np.testing.assert_allclose(tree["matcher"]["weight"], weights["matcher"], rtol=1e-5)


def test_schedules_by_hand():
    step = make_schedule("step", steps=100, steps_per_epoch=10, step_epochs=3, factor=0.5)
    assert [float(step(s)) for s in (0, 29, 30, 59, 60)] == [1, 1, 0.5, 0.5, 0.25]
    warm = make_schedule(
        "step", steps=100, steps_per_epoch=10, step_epochs=3, factor=0.5, warmup_steps=4
    )
    np.testing.assert_allclose([warm(s) for s in (0, 2, 4, 29, 30)], [0.25, 0.625, 1, 1, 0.5])
    late = make_schedule("step", steps=9, steps_per_epoch=1, step_epochs=2, warmup_steps=4)
    np.testing.assert_allclose([late(s) for s in (4, 5, 6)], [0.01, 0.01, 0.001], rtol=1e-5)
    cosine = make_schedule("cosine", steps=100, steps_per_epoch=10, warmup_steps=20)
    np.testing.assert_allclose([cosine(s) for s in (20, 60, 100)], [1, 0.5, 0], atol=1e-6)


def test_clipping_limits_the_norm_over_all_parameters():
    tx, _ = make_optimizer(
        lr=1.0,
        backbone_lr=1.0,
        weight_decay=0.0,
        momentum=0.0,
        nesterov=False,
        clip_norm=0.5,
        steps=1,
        steps_per_epoch=1,
    )
    tree = params()
    updates, _ = tx.update(jax.tree.map(lambda x: 100 * x, tree), tx.init(tree), tree)
    np.testing.assert_allclose(optax.tree.norm(updates), 0.5, rtol=1e-5)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="unknown optimizer 'sdg'; valid: sgd"):
        make_optimizer("sdg", lr=1, backbone_lr=1, steps=1, steps_per_epoch=1)
    with pytest.raises(ValueError, match="'linear'; valid: "):
        make_optimizer(lr=1, backbone_lr=1, schedule="linear", steps=1, steps_per_epoch=1)
