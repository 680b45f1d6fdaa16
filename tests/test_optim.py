"""Optimizers and schedules against PyTorch's rules, written plainly."""

import json
import re

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
    tx = make_optimizer(lr=0.1, backbone_lr=0.01, weight_decay=0.05)
    schedule = make_schedule("step", epochs=3, steps_per_epoch=2, step_epochs=2)
    tree = params()
    state = tx.init(tree)
    weights = {"backbone": 1.0, "neck": 2.0, "matcher": -3.0}
    velocity = dict.fromkeys(weights, 0.0)
    for step in range(6):
        grads = jax.tree.map(lambda x, s=step + 1: jnp.sin(x * s), tree)
        updates, state = tx.update(grads, state, tree)
        share = schedule.share(step, None)
        tree = optax.apply_updates(tree, jax.tree.map(lambda u, share=share: share * u, updates))
        decay = 0.1 if step >= 4 else 1.0  # after two epochs of two steps
        assert share == pytest.approx(decay)
        for name, lr in (("backbone", 0.01), ("neck", 0.1), ("matcher", 0.1)):
            g = np.sin(weights[name] * (step + 1)) + 0.05 * weights[name]
            velocity[name] = 0.9 * velocity[name] + g
            weights[name] -= lr * decay * (g + 0.9 * velocity[name])
    np.testing.assert_allclose(tree["backbone"]["conv1"]["kernel"], weights["backbone"], rtol=1e-5)
    np.testing.assert_allclose(tree["neck"]["conv"]["kernel"], weights["neck"], rtol=1e-5)
    np.testing.assert_allclose(tree["matcher"]["weight"], weights["matcher"], rtol=1e-5)


def shares(steps, **options):
    schedule = make_schedule(**options)
    return [float(schedule.share(step, None)) for step in steps]


def test_schedules_by_hand():
    step = {"epochs": 10, "steps_per_epoch": 10, "step_epochs": 3, "factor": 0.5}
    assert shares((0, 29, 30, 59, 60), **step) == [1, 1, 0.5, 0.5, 0.25]
    warm = shares((0, 2, 4, 29, 30), **step, warmup_steps=4)
    np.testing.assert_allclose(warm, [0.25, 0.625, 1, 1, 0.5])
    late = shares((4, 5, 6), epochs=9, steps_per_epoch=1, step_epochs=2, warmup_steps=4)
    np.testing.assert_allclose(late, [0.01, 0.01, 0.001], rtol=1e-5)
    cosine = shares((20, 60, 100), name="cosine", epochs=10, steps_per_epoch=10, warmup_steps=20)
    np.testing.assert_allclose(cosine, [1, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("losses", "last", "dropped"),
    [
        # Below 7 for the first time in epoch 4: a tenth from epoch 5 on, end after 4 + 2.
        ([20, 10, 8, 6.9, 6, 6, 6, 6], 6, 4),
        ([20, 10, 6.9, 6, 6, 6, 6, 6], 4, 3),
        ([20, 10, 9, 9, 8, 6, 6, 6], 8, 6),  # at most the epochs there are
        ([1, 10, 8, 8, 8, 8, 8, 8], 8, None),  # the first epoch is no reason
    ],
)
def test_adaptive_schedule_drops_once_and_ends(losses, last, dropped):
    schedule = make_schedule("adaptive", epochs=8, steps_per_epoch=2)
    known = np.zeros(8, np.float32)
    for done in range(9):
        known[:done] = losses[:done]
        known[done : done + 1] = 0.01  # the epoch under way does not count
        after = dropped is not None and done >= dropped
        assert schedule.last_epoch(done, known) == (last if after else 8)
        for step in (2 * done, 2 * done + 1):
            assert float(schedule.share(step, known)) == pytest.approx(0.1 if after else 1)


def test_clipping_limits_two_norms():
    tree = params()
    rule = {"lr": 1.0, "backbone_lr": 1.0, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    tx = make_optimizer(**rule, clip_norm=2.5)
    updates, _ = tx.update(jax.tree.map(lambda x: 2 * x, tree), tx.init(tree), tree)
    # Backbone and neck: (2, 4), of norm 4.47; matcher: 6. PyTorch divides by the norm + 1e-6.
    share = 2.5 / 20**0.5
    expected = {"backbone": -2 * share, "neck": -4 * share, "matcher": 2.5}
    for part, value in expected.items():
        np.testing.assert_allclose(jax.tree.leaves(updates[part])[0], value, rtol=1e-6)
    small = jax.tree.map(lambda x: 0.1 * x, tree)
    updates, _ = tx.update(small, tx.init(tree), tree)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -g, rtol=1e-6), updates, small)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="unknown optimizer 'sdg'; valid: sgd"):
        make_optimizer("sdg", lr=1, backbone_lr=1)
    with pytest.raises(ValueError, match="'linear'; valid: "):
        make_schedule("linear", epochs=1, steps_per_epoch=1)


@pytest.mark.golden
def test_sgd_equals_pytorch(golden_dir):
    golden = np.load(golden_dir / "optimizers.npz")
    told = json.loads((golden_dir / "optimizers.json").read_text())["sgd_nesterov_qaconv"]["kwargs"]
    rule = {k: float(v) for k, v in re.findall(r"(lr|momentum|weight_decay)=([-.e0-9]+)", told)}
    assert len(rule) == 3
    with jax.enable_x64(True):
        tx = make_optimizer(**rule, backbone_lr=rule["lr"])
        tree = {"matcher": jnp.asarray(golden["p0"], float)}
        state = tx.init(tree)
        expected = golden["sgd_nesterov_qaconv/params_base_classifier"][:, 0]
        for grad, after in zip(golden["grads"], expected, strict=True):
            updates, state = tx.update({"matcher": jnp.asarray(grad, float)}, state, tree)
            tree = optax.apply_updates(tree, updates)
            np.testing.assert_allclose(tree["matcher"], after, rtol=1e-8)


@pytest.mark.golden
def test_step_schedule_equals_pytorch(golden_dir):
    told = json.loads((golden_dir / "optimizers.json").read_text())["lr_single_step"]
    rule, rates = told["kwargs"], told["lr_by_epoch"]
    schedule = make_schedule(
        epochs=len(rates), steps_per_epoch=3, step_epochs=rule["stepsize"][0], factor=rule["gamma"]
    )
    ours = [told["base_lr"] * float(schedule.share(3 * epoch, None)) for epoch in range(len(rates))]
    np.testing.assert_allclose(ours, rates, rtol=1e-6)
