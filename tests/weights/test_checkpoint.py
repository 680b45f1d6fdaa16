"""Checkpoints: whole, on any number of devices, readable in parts."""

import jax
import numpy as np
import pytest
from selection import deep

from jaxreid.mesh import make_mesh
from jaxreid.models.model import make_model
from jaxreid.training.optim import make_optimizer
from jaxreid.training.state import (
    abstract_parts,
    abstract_state,
    checkpoint_parts,
    create_state,
    state_from_parts,
    variables_of,
)
from jaxreid.weights.checkpoint import Checkpoints

CARD = {"model": {"height": 32}}
# What a sampler remembers: arrays, also such without axes.
ORDER = {"epoch": np.array(3, np.int32), "images": np.arange(7, dtype=np.int32)}


@pytest.fixture(scope="module")
def parts():
    model = make_model(
        backbone={"name": "resnet18", "cut": "layer2", "width": 4},
        neck={"name": "map", "channels": 4},
        matcher={"name": "qaconv"},
        height=32,
        width=16,
    )
    tx = make_optimizer(lr=0.1, backbone_lr=0.1)
    state = create_state(model, tx, num_classes=5, seed=0, mesh=make_mesh(jax.devices()[:4]))
    return state, abstract_state(model, tx, num_classes=5)


def open_checkpoints(folder, **options):
    return Checkpoints(folder, CARD, every_steps=10, **options)


@pytest.mark.parametrize("devices", deep(1, 2, 8, but=[8]))
def test_a_state_of_four_devices_is_restored_on_others(parts, tmp_path, devices):
    state, abstract = parts
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoint_parts(state, ORDER), 10)
    mesh = make_mesh(jax.devices()[:devices])
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 10
        blank = {name: np.zeros_like(array) for name, array in ORDER.items()}
        target = abstract_parts(abstract, mesh, blank)
        restored, order = state_from_parts(checkpoints.restore(target))
        shapes = jax.eval_shape(lambda: variables_of(state))
        variables = checkpoints.restore_variables(shapes, mesh)
    jax.tree.map(np.testing.assert_array_equal, order, ORDER)
    assert len(restored.memory.feature.sharding.device_set) == devices
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(variables_of(state)), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_training_data_are_refused(parts, tmp_path):
    state, abstract = parts
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoint_parts(state, {}), 10)
    other = {**CARD, "trained_on": {"images": 5}}
    with (
        Checkpoints(tmp_path, other, every_steps=10) as checkpoints,
        pytest.raises(ValueError, match="same model and training data"),
    ):
        checkpoints.restore(abstract_parts(abstract, make_mesh(), {}))


def test_only_the_newest_are_kept_and_milestones(parts, tmp_path):
    state, _ = parts
    with open_checkpoints(tmp_path, keep=2, keep_every=20) as checkpoints:
        for step in (10, 20, 30, 40, 50):
            assert checkpoints.due(step)
            checkpoints.save(checkpoint_parts(state, {}), step)
        checkpoints.save(checkpoint_parts(state, {}), 50)  # again: nothing to do
        assert not checkpoints.due(51)
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
    assert kept == {20, 40, 50}


def test_an_empty_directory_says_what_to_do(parts, tmp_path):
    _, abstract = parts
    with (
        open_checkpoints(tmp_path) as checkpoints,
        pytest.raises(FileNotFoundError, match="train first"),
    ):
        checkpoints.restore(abstract_parts(abstract, make_mesh(), {}))
