"""The sampler of many cameras: brute force, fairness, and the batches of P x K otherwise."""

import itertools

import numpy as np
import pytest

from jaxreid.data.sampling import samplers
from jaxreid.data.sampling.cameras import camera_groups

GENERATOR = np.random.default_rng(0)
LABELS = np.repeat(np.arange(20), GENERATOR.integers(1, 24, 20)).astype(np.int32)
CAMERAS = GENERATOR.integers(0, 5, len(LABELS)).astype(np.int32)


def different(groups):
    return sum(len(set(group)) for group in groups)


def best_by_force(cameras, groups, instances):
    """The largest number of different cameras, over all choices and divisions."""
    found = 0
    for order in set(itertools.permutations(cameras, groups * instances)):
        found = max(found, different(np.reshape(order, (groups, instances))))
    return found


@pytest.mark.parametrize(
    "cameras",
    [(0, 0, 0, 0, 1, 1), (0, 0, 0, 1, 1, 2, 3), (2, 2, 2, 2, 2, 2), (0, 1, 2, 3, 4, 5), (0, 0, 1)],
)
@pytest.mark.parametrize("instances", [1, 2, 3])
def test_groups_have_as_many_cameras_as_any_division(cameras, instances):
    groups = len(cameras) // instances
    expected = best_by_force(cameras, groups, instances)
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(cameras)
        chosen = camera_groups(shuffled, groups, instances)
        assert chosen.shape == (groups, instances)
        assert len(np.unique(chosen)) == chosen.size
        assert different(shuffled[chosen]) == expected


def test_every_image_has_its_turn_and_cameras_of_few_images_come_first():
    cameras, uses = np.array([0] * 6 + [1]), np.zeros(7, int)
    for seed in range(200):
        order = np.random.default_rng(seed).permutation(7)
        uses[order[camera_groups(cameras[order], 1, 4)]] += 1
    assert uses[6] == 200  # the only image of its camera
    assert np.ptp(uses[:6]) < 50  # 100 each; five standard deviations


def order_of(name, seed=0, epoch=0, **options):
    given = {"batch_size": 16, "instances": 4, "seed": seed, "cameras": CAMERAS}
    return samplers.make_sampler(name, LABELS, **given | options).order(epoch)


def test_batches_hold_identities_as_before_and_images_of_many_cameras():
    spread, plain = order_of("pk_cameras"), order_of("pk")
    assert spread.dtype == np.int32
    np.testing.assert_array_equal(LABELS[spread], LABELS[plain])
    assert different(CAMERAS[spread].reshape(-1, 4)) > 1.1 * different(
        CAMERAS[plain].reshape(-1, 4)
    )
    index, uses = np.unique(spread, return_counts=True)
    counts = np.bincount(LABELS)
    assert (uses[counts[LABELS[index]] >= 4] == 1).all()


def test_orders_are_functions_of_seed_and_epoch_and_of_each_set():
    np.testing.assert_array_equal(order_of("pk_cameras", 1, 2), order_of("pk_cameras", 1, 2))
    assert (order_of("pk_cameras", 1, 2) != order_of("pk_cameras", 1, 3)).any()
    sources = (LABELS >= 10).astype(np.int32)
    mixed = order_of("pk_cameras", sources=sources, quota=(8, 8))
    assert (sources[mixed] == np.repeat([0, 1], 8)).all()
    rows = np.flatnonzero(sources)
    own = {"batch_size": 8, "instances": 4, "seed": samplers.source_seed(0, 1)}
    second = samplers.make_sampler(
        "pk_cameras", LABELS[rows] - 10, **own, cameras=CAMERAS[rows]
    ).order(0)
    steps = min(len(mixed), len(second))
    np.testing.assert_array_equal(mixed[:steps, 8:], rows[second[:steps]])
    with pytest.raises(ValueError, match="expected multiples of instances, 4"):
        order_of("pk_cameras", sources=sources, quota=(10, 6))


@pytest.mark.parametrize("cameras", [None, np.full(len(LABELS), -1)])
def test_cameras_that_are_not_known_are_refused(cameras):
    with pytest.raises(ValueError, match="no camera of the training images is known; use sampler"):
        order_of("pk_cameras", cameras=cameras)
    with pytest.raises(ValueError, match="expected one per image"):
        order_of("pk_cameras", cameras=CAMERAS[1:])
