"""Optimizers and schedules against PyTorch's rules, written plainly."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import make_mesh, shardings
from jaxreid.training.first_phase import FirstPhase, groups
from jaxreid.training.optim import make_optimizer, parameter_groups
from jaxreid.training.schedules import make_schedule
from jaxreid.training.state import (
    History,
    TrainState,
    abstract_parts,
    checkpoint_parts,
    state_from_parts,
)
from jaxreid.weights.checkpoint import Checkpoints


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


def wave(step, tree):
    """Gradients that shrink, so that the largest mean square is not the newest."""
    return jax.tree.map(lambda x: jnp.sin(x + step) / (1 + step), tree)


def updated(tx, tree, state, grads):
    updates, state = tx.update(grads, state, tree)
    return optax.apply_updates(tree, updates), state


@pytest.mark.parametrize("name", ["adam", "amsgrad"])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.6), (0.0, 0.0)])
def test_adam_equals_pytorchs_rule(name, betas):
    rule = {"weight_decay": 0.05, "betas": betas, "eps": 1e-3}
    with jax.enable_x64(True):
        tx = make_optimizer(name, lr=0.1, backbone_lr=0.01, **rule)
        tree = jax.tree.map(lambda x: jnp.asarray(x, float), params())
        weights = {part: float(jax.tree.leaves(x)[0][0]) for part, x in tree.items()}
        memory = {part: (0.0, 0.0, 0.0) for part in weights}
        state = tx.init(tree)
        for step in range(8):
            tree, state = updated(tx, tree, state, wave(step, tree))
            for part, weight in weights.items():
                mean, square, largest = memory[part]
                g = np.sin(weight + step) / (1 + step) + 0.05 * weight
                mean = betas[0] * mean + (1 - betas[0]) * g
                square = betas[1] * square + (1 - betas[1]) * g * g
                largest = max(largest, square)
                memory[part] = mean, square, largest
                top = largest if name == "amsgrad" else square
                root = (top / (1 - betas[1] ** (step + 1))) ** 0.5
                lr = 0.01 if part == "backbone" else 0.1
                weights[part] -= lr * mean / (1 - betas[0] ** (step + 1)) / (root + 1e-3)
        if betas[1] < 0.9:  # else the mean hardly falls: the two must not be the same thing
            assert any(largest > square for _, square, largest in memory.values())
    for part, weight in weights.items():
        np.testing.assert_allclose(jax.tree.leaves(tree[part])[0], weight, rtol=1e-12)


@pytest.mark.parametrize("name", ["adam", "amsgrad"])
def test_the_first_step_is_the_learning_rate_also_in_float32(name):
    tx = make_optimizer(name, lr=0.5, backbone_lr=0.5, weight_decay=0.0)
    updates, _ = tx.update(params(), tx.init(params()), params())
    expected = jax.tree.map(lambda g: -0.5 * jnp.sign(g), params())
    # With 1 - beta^count in float32 they would differ by 1e-5.
    jax.tree.map(lambda u, e: np.testing.assert_allclose(u, e, rtol=3e-7), updates, expected)


def with_classifier():
    return params() | {"classifier": {"kernel": jnp.array([0.5, -1.5])}}


def test_the_first_phase_trains_the_classifier():
    found = groups(parameter_groups(with_classifier()))
    waiting = {"backbone": "backbone", "neck": "waiting", "matcher": "waiting"}
    assert {part: jax.tree.leaves(x)[0] for part, x in found.items()} == waiting | {
        "classifier": "new"
    }


def test_the_first_phase_has_a_step_of_its_own_and_says_where_it_rests_on_random_weights():
    phase = FirstPhase(epochs=2, steps_per_epoch=5)
    step_of = phase.step_of(lambda *, frozen: frozen)
    assert [step_of(epoch) for epoch in range(4)] == [True, True, False, False]
    assert phase.steps == 10
    (sentence,) = phase.warnings(pretrained=False)
    assert "on a network of random weights" in sentence
    none = FirstPhase(epochs=0, steps_per_epoch=5)
    assert phase.warnings(pretrained=True) == none.warnings(pretrained=False) == []
    assert not none.step_of(lambda *, frozen: frozen)(0)


@pytest.mark.parametrize("name", ["sgd", "adam", "amsgrad", "adamw"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_the_rest_is_held_and_then_begins(name, clip_norm):
    tree, open_parts = with_classifier(), {"classifier"}
    rule = {"lr": 0.1, "backbone_lr": 0.01, "clip_norm": clip_norm}
    tx = make_optimizer(name, **rule, freeze_steps=3)
    begun, before, initial = tree, tx.init(tree), tx.init(tree)
    for step in range(3):
        grads = wave(step, tree)
        grads["backbone"]["conv1"]["kernel"] = jnp.array([jnp.nan])  # not even looked at
        tree, state = updated(tx, tree, before, grads)
        for part in tree:
            same = jax.tree.map(np.array_equal, tree[part], begun[part])
            assert all(jax.tree.leaves(same)) == (part not in open_parts)
        assert count_of(state) == step + 1
        held, blank = moments(state), moments(initial)
        assert jax.tree.structure(held) == jax.tree.structure(blank)
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, held, blank)))
        before = state
    # From here on as an optimizer that has just been made, for those that were held.
    fresh = make_optimizer(name, **rule)
    other, fresh_state = tree, fresh.init(tree)
    for step in range(3, 6):
        grads = wave(step, tree)
        moved, state = updated(tx, tree, state, grads)
        other, fresh_state = updated(fresh, other, fresh_state, grads)
        for part in set(tree) - open_parts:
            jax.tree.map(np.testing.assert_array_equal, moved[part], other[part])
            assert not np.array_equal(jax.tree.leaves(moved[part])[0], begun[part])
        other |= {part: moved[part] for part in open_parts}  # the gradients depend on all of it
        tree = moved
        assert count_of(state) == 3


def groups_of(state):
    """The states of the groups, without that of the clipping before them."""
    return (state if hasattr(state, "inner_states") else state[-1]).inner_states


def count_of(state):
    groups = groups_of(state)
    (count,) = {int(groups[name].inner_state[0]) for name in ("waiting", "backbone")}
    return count


def moments(state):
    return [groups_of(state)[name].inner_state[1] for name in ("waiting", "backbone")]


def test_what_is_held_has_no_part_in_the_norm():
    tree = with_classifier()
    rule = {"lr": 1.0, "backbone_lr": 1.0, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    tx = make_optimizer(**rule, clip_norm=2.0, freeze_steps=1)
    grads = jax.tree.map(lambda x: 100 * jnp.ones_like(x), tree)
    grads["classifier"]["kernel"] = jnp.array([0.6, 0.8])
    updates, state = tx.update(grads, tx.init(tree), tree)
    np.testing.assert_array_equal(updates["classifier"]["kernel"], -grads["classifier"]["kernel"])
    updates, _ = tx.update(grads, state, tree)
    expected = [-0.6 * 2 / 20001**0.5, -0.8 * 2 / 20001**0.5]  # of two of 100, and 1
    np.testing.assert_allclose(updates["classifier"]["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "amsgrad"])
@pytest.mark.parametrize("stop", [2, 4])  # in the first phase, and after it
def test_a_restart_changes_nothing(name, stop, tmp_path):
    tx = make_optimizer(name, lr=0.1, backbone_lr=0.01, clip_norm=0.5, freeze_steps=3)
    compiled = []

    @jax.jit
    def step(state):
        compiled.append(state)
        tree, opt = updated(tx, state.params, state.opt_state, wave(state.step, state.params))
        return state.replace(step=state.step + 1, params=tree, opt_state=opt)

    def new():
        tree, zero = with_classifier(), jnp.zeros((), jnp.int32)
        return TrainState(zero, tree, {}, tx.init(tree), History.create(1), None)

    mesh = make_mesh(jax.devices()[:1])
    state = jax.device_put(new(), shardings(mesh, P()))
    for _ in range(stop):
        state = step(state)
    with Checkpoints(tmp_path, {}, every_steps=1) as checkpoints:
        checkpoints.save(checkpoint_parts(state, {}), stop)
    with Checkpoints(tmp_path, {}, every_steps=1) as checkpoints:
        parts = checkpoints.restore(abstract_parts(jax.eval_shape(new), mesh, {}))
        again, _ = state_from_parts(parts)
    for _ in range(6 - stop):
        state, again = step(state), step(again)
    assert len(compiled) == 1
    assert jax.tree.structure(state) == jax.tree.structure(again)
    jax.tree.map(np.testing.assert_array_equal, state, again)


def shares(steps, **options):
    schedule = make_schedule(**options)
    return [float(schedule.share(step, None)) for step in steps]


def test_schedules_by_hand():
    step = {"epochs": 10, "steps_per_epoch": 10, "step_epochs": 3, "factor": 0.5}
    assert shares((0, 29, 30, 59, 60), **step) == [1, 1, 0.5, 0.5, 0.25]
    warm = shares((0, 2, 4, 29, 30), **step, warmup_steps=4)
    np.testing.assert_allclose(warm, [0.25, 0.625, 1, 1, 0.5])
    in_steps, in_epochs = ({"warmup_steps": 20}, {"warmup_epochs": 2})
    warm = [shares(range(0, 40, 3), **step, **rise) for rise in (in_steps, in_epochs)]
    assert warm[0] == warm[1] != shares(range(0, 40, 3), **step)
    with pytest.raises(ValueError, match="warmup_steps is 4 and warmup_epochs 2"):
        make_schedule(**step, warmup_steps=4, warmup_epochs=2)
    late = shares((4, 5, 6), epochs=9, steps_per_epoch=1, step_epochs=2, warmup_steps=4)
    np.testing.assert_allclose(late, [0.01, 0.01, 0.001], rtol=1e-5)
    cosine = shares((20, 60, 100), name="cosine", epochs=10, steps_per_epoch=10, warmup_steps=20)
    np.testing.assert_allclose(cosine, [1, 0.5, 0], atol=1e-6)
    rule = {"name": "cosine", "epochs": 4, "steps_per_epoch": 10, "per_epoch": True}
    cosine = shares((0, 9, 10, 19, 20, 29, 39), **rule)
    np.testing.assert_allclose(cosine, [1, 1, 0.853553, 0.853553, 0.5, 0.5, 0.146447], atol=1e-6)
    # The rise ends within the second epoch; the cosine then runs over the 24 steps that are left.
    cosine = shares((8, 16, 18, 19, 20, 29, 30), **rule, warmup_steps=16)
    expected = [(1 + np.cos(np.pi * x)) / 2 for x in (0, 0, 0, 4 / 24, 4 / 24, 14 / 24)]
    np.testing.assert_allclose(cosine, [1 / 16 + 15 / 16 / 2, *expected], atol=1e-6)


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
    with pytest.raises(ValueError, match="'amsgrd'; valid: amsgrad, (adam|sgd)"):
        make_optimizer("amsgrd", lr=1, backbone_lr=1)
    with pytest.raises(ValueError, match="'linear'; valid: "):
        make_schedule("linear", epochs=1, steps_per_epoch=1)


def test_wrong_numbers_are_refused():
    rule = {"lr": 0.1, "backbone_lr": 0.1}
    for betas in ((0.9, 1.0), (-0.1, 0.9), (0.9,)):
        with pytest.raises(ValueError, match=r"betas is .*expected two numbers in \[0, 1\)"):
            make_optimizer("adam", **rule, betas=betas)
    with pytest.raises(ValueError, match="freeze_steps is -1; expected 0"):
        make_optimizer(**rule, freeze_steps=-1)
    with pytest.raises(ValueError, match=r"nothing would learn.*freeze_epochs to 0"):
        make_optimizer(**rule, freeze_steps=2).init({"backbone": jnp.zeros(3)})
    for epochs in ((30, 20), (0, 20), (20, 20)):
        with pytest.raises(ValueError, match=r"drop_epochs is .*expected increasing epochs"):
            make_schedule(epochs=40, steps_per_epoch=2, drop_epochs=epochs)
    for more in ({"epochs": 10**6}, {"warmup_epochs": 10**6}, {"drop_epochs": (10**6,)}):
        with pytest.raises(ValueError, match=r"beyond 2\^31 steps, at 3000 steps per epoch"):
            make_schedule(**{"epochs": 40, "steps_per_epoch": 3000} | more)


@pytest.mark.golden
@pytest.mark.parametrize("entry", [
    "sgd", "sgd_nesterov", "adam_default_beta2_0.99", "adam_beta2_0.999", "amsgrad",
    "amsgrad_beta2_0.9", "amsgrad_staged",
])  # fmt: skip
def test_torchreids_optimizers_equal_pytorch(golden_dir, entry):
    golden = np.load(golden_dir / "optimizers.npz")
    meta = json.loads((golden_dir / "optimizers.json").read_text())[entry]
    rule = meta["kwargs"]
    with jax.enable_x64(True):
        tx = make_optimizer(
            rule["optim"],
            lr=rule["lr"],
            backbone_lr=rule["lr"] * rule.get("base_lr_mult", 1.0),
            momentum=rule.get("momentum", 0.9),
            nesterov=rule.get("sgd_nesterov", False),
            betas=(0.9, rule.get("adam_beta2", 0.99)),  # the default of its `build_optimizer`
            weight_decay=meta["weight_decay"],
        )
        tree = {part: jnp.asarray(golden["p0"], float) for part in ("backbone", "classifier")}
        state = tx.init(tree)
        expected = golden[f"{entry}/params_base_classifier"]
        for grad, after in zip(golden["grads"], expected, strict=True):
            grads = {part: jnp.asarray(grad, float) for part in tree}
            tree, state = updated(tx, tree, state, grads)
            # Both in float64.
            np.testing.assert_allclose(tree["backbone"], after[0], rtol=0, atol=1e-14)
            np.testing.assert_allclose(tree["classifier"], after[1], rtol=0, atol=1e-14)


@pytest.mark.golden
def test_cosine_schedule_equals_pytorch(golden_dir):
    meta = json.loads((golden_dir / "optimizers.json").read_text())["lr_cosine"]
    rates = np.asarray(meta["lr_by_epoch"])
    rule = {"epochs": meta["kwargs"]["max_epoch"], "steps_per_epoch": 3, "per_epoch": True}
    assert len(rates) == rule["epochs"]
    with jax.enable_x64(True):
        ours = shares(range(3 * len(rates)), name="cosine", **rule)
    np.testing.assert_allclose(meta["base_lr"] * np.array(ours), rates.repeat(3), atol=1e-15)
    ours = shares(range(3 * len(rates)), name="cosine", **rule)  # 1 + cos, in float32
    np.testing.assert_allclose(ours, rates.repeat(3) / meta["base_lr"], atol=2e-7)


@pytest.mark.golden
def test_sgd_equals_pytorch(golden_dir):
    golden = np.load(golden_dir / "optimizers.npz")
    meta = json.loads((golden_dir / "optimizers.json").read_text())["sgd_nesterov_qaconv"]["kwargs"]
    rule = {k: float(v) for k, v in re.findall(r"(lr|momentum|weight_decay)=([-.e0-9]+)", meta)}
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
@pytest.mark.parametrize("entry", ["lr_single_step", "lr_multi_step"])
def test_step_schedule_equals_pytorch(golden_dir, entry):
    meta = json.loads((golden_dir / "optimizers.json").read_text())[entry]
    rule, rates = meta["kwargs"], meta["lr_by_epoch"]
    single = {"step_epochs": rule["stepsize"][0]}
    drops = {"drop_epochs": rule["stepsize"]} if entry == "lr_multi_step" else single
    schedule = make_schedule(epochs=len(rates), steps_per_epoch=3, **drops, factor=rule["gamma"])
    ours = [meta["base_lr"] * float(schedule.share(3 * epoch, None)) for epoch in range(len(rates))]
    np.testing.assert_allclose(ours, rates, rtol=1e-6)
