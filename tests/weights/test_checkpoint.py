"""Checkpoints: whole, on any number of devices, readable in parts."""

import resource
import shutil

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
from jaxreid.weights.checkpoint import Checkpoints, check_finite, run_of

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
    mesh = make_mesh(jax.devices()[:4])
    state = create_state(model, tx, num_classes=5, seed=0, mesh=mesh, averaged=True)
    state = state.replace(average=jax.tree.map(lambda x: x + 1, variables_of(state)))
    return state, abstract_state(model, tx, num_classes=5, averaged=True)


def open_checkpoints(folder, **options):
    return Checkpoints(folder, CARD, every_steps=10, **options)


def save_at(folder, state, *steps):
    with open_checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.save(checkpoint_parts(state, ORDER), step)


@pytest.mark.parametrize("devices", deep(1, 2, 8, but=[8]))
def test_a_state_of_four_devices_is_restored_on_others(parts, tmp_path, devices):
    state, abstract = parts
    save_at(tmp_path, state, 10)
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


def steps_of(folder):
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    return sorted(int(name) for name in names if name.isdigit())


def spoiled(tree, index, value):
    """A copy of a tree with one entry of one of its arrays replaced."""
    leaves, shape = jax.tree.flatten(tree)
    leaves[index] = leaves[index].at[(0,) * leaves[index].ndim].set(value)
    return jax.tree.unflatten(shape, leaves)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["params", "batch_stats", "opt_state", "history", "memory"])
def test_no_array_of_a_checkpoint_is_not_finite(parts, tmp_path, part, value):
    state, _ = parts
    leaves = jax.tree.leaves(getattr(state, part))
    index = [i for i, x in enumerate(leaves) if x.dtype == np.float32][-1]
    state = state.replace(**{part: spoiled(getattr(state, part), index, value)})
    message = rf"values of (variables|training)/{part}/.* are not finite after step 10"
    with (
        open_checkpoints(tmp_path) as checkpoints,
        pytest.raises(FloatingPointError, match=message),
    ):
        checkpoints.save(checkpoint_parts(state, ORDER), 10)
    assert not steps_of(tmp_path)
    check_finite({"order": ORDER}, 10)


def test_what_cannot_be_read_back_ends_the_run(parts, tmp_path):
    state, _ = parts
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoint_parts(state, ORDER), 10)
        checkpoints._manager.wait_until_finished()
        for path in (tmp_path / "checkpoints" / "10" / "training").rglob("d/*"):
            path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(OSError, match=f"{tmp_path}/checkpoints cannot be written or read back"):
            checkpoints.save(checkpoint_parts(state, ORDER), 20)
    assert steps_of(tmp_path) == [10]


def test_a_full_disk_leaves_the_checkpoint_before(parts, tmp_path):
    state, _ = parts
    save_at(tmp_path, state, 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match="cannot be written.*Make room"):  # noqa: PT012
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            with open_checkpoints(tmp_path) as checkpoints:
                checkpoints.save(checkpoint_parts(state, ORDER), 20)
                checkpoints.check_saved()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert steps_of(tmp_path) == [10]


def test_a_damaged_checkpoint_is_named_and_an_older_one_offered(parts, tmp_path):
    state, abstract = parts
    save_at(tmp_path, state, 10, 20)
    shutil.rmtree(tmp_path / "checkpoints" / "20" / "training" / "d")
    message = "checkpoints/20 cannot be read .*to use that of step 10, delete this folder"
    with open_checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(abstract_parts(abstract, make_mesh(), ORDER))


def test_a_run_may_be_named_by_its_checkpoints(tmp_path):
    run = tmp_path / "checkpoints"  # a name that a work directory may have, too
    (run / "checkpoints" / "7").mkdir(parents=True)
    assert run_of(run) == (run, None)
    assert run_of(run / "checkpoints") == (run, None)
    assert run_of(run / "checkpoints" / "7") == (run, 7)
