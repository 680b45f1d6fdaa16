"""Batches with a fixed number of images from each of several data sets."""

import functools
import hashlib

import numpy as np
import pytest

from jaxreid.data.sampling import samplers
from jaxreid.data.sampling.quota import source_seed

SIZES = (100, 23, 40)  # images of three data sets; with the quota below 12, 5 and 20 steps a pass
QUOTA = (8, 4, 2)
random = np.random.default_rng(0)
SOURCES = random.permutation(np.repeat(np.arange(3, dtype=np.int32), SIZES))
# Every data set has its own classes, and most classes more than four images.
LABELS = np.where(SOURCES == 0, random.integers(0, 9, 163), random.integers(0, 3, 163))
LABELS = (LABELS + 9 * SOURCES).astype(np.int32)


def make(name="random", seed=5, **change):
    options = {"batch_size": 14, "instances": 2, "sources": SOURCES, "quota": QUOTA} | change
    return samplers.make_sampler(name, LABELS, seed=seed, **options)


@pytest.mark.parametrize("name", ["random", "pk"])
def test_every_batch_holds_the_quota(name):
    sampler = make(name)
    order = sampler.order(3)
    assert order.dtype == np.int32
    assert order.shape == (sampler.steps_per_epoch, 14)
    assert (SOURCES[order] == np.repeat([0, 1, 2], QUOTA)).all()
    if name == "pk":
        pairs = LABELS[order].reshape(len(order), 7, 2)
        assert (pairs[..., 0] == pairs[..., 1]).all()


def test_an_epoch_is_one_pass_of_the_data_set_that_needs_most_steps():
    sampler = make()
    assert sampler.steps_per_epoch == 20  # of the third set, not of the largest one
    for epoch in range(3):
        order = sampler.order(epoch)
        assert sorted(order[:, 12:].ravel()) == np.flatnonzero(SOURCES == 2).tolist()
        for columns, steps in ((slice(0, 8), 12), (slice(8, 12), 5)):
            part = order[:, columns]
            passes = [part[i : i + steps] for i in range(0, 20, steps)]
            assert len(passes) > 1
            for one in passes:
                assert len(np.unique(one)) == one.size  # no image twice in a pass
            sets = {tuple(one.ravel()) for one in passes if len(one) == steps}
            assert len(sets) == 20 // steps  # and each in a new order


@pytest.mark.parametrize("name", ["random", "pk"])
def test_the_orders_are_those_of_each_data_set_alone(name):
    draw = {"random": samplers.random_order, "pk": samplers.pk_order}[name]
    options = {"instances": 2} if name == "pk" else {}
    sampler = make(name)
    steps = sampler.steps_per_epoch
    parts = np.split(np.arange(14), np.cumsum(QUOTA)[:-1])
    for source, (count, columns) in enumerate(zip(QUOTA, parts, strict=True)):
        rows = np.flatnonzero(np.isin(SOURCES, source))
        seed = source_seed(5, source)
        alone = functools.partial(draw, LABELS[rows], batch_size=count, seed=seed, **options)
        passes = -(-steps // len(alone(epoch=0)))
        for epoch in (0, 2):
            numbers = range(epoch * passes, (epoch + 1) * passes)
            expected = np.concatenate([rows[alone(epoch=number)] for number in numbers])[:steps]
            np.testing.assert_array_equal(sampler.order(epoch)[:, columns], expected)


@pytest.mark.parametrize("name", ["random", "pk"])
def test_orders_are_functions_of_seed_and_epoch(name):
    sampler = make(name)
    later = sampler.order(7)
    sampler.order(2)
    np.testing.assert_array_equal(sampler.order(7), later)
    np.testing.assert_array_equal(make(name).order(7), later)
    assert (sampler.order(6) != later).any()
    assert (make(name, seed=6).order(7) != later).any()
    assert sampler.state() == {}


def test_data_sets_of_one_size_are_not_shuffled_alike():
    sources = np.repeat([0, 1], 80)
    sampler = samplers.make_sampler(
        "random",
        np.zeros(160, np.int32),
        batch_size=8,
        instances=1,
        seed=0,
        sources=sources,
        quota=(4, 4),
    )
    first, second = np.split(sampler.order(0), 2, axis=1)
    assert (first == second - 80).mean() < 0.1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("random", "527002c9615fb6f9"),
        ("pk", "64f3f1075b9ea557"),
    ],
)
def test_without_a_quota_orders_are_those_of_the_first_release(name, expected):
    order = make(name, quota=()).order(4)
    assert hashlib.sha256(order.astype("<i4").tobytes()).hexdigest()[:16] == expected
    options = {"batch_size": 14, "instances": 2, "seed": 5}
    np.testing.assert_array_equal(order, samplers.make_sampler(name, LABELS, **options).order(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "graph"}, "the graph sampler cannot keep: .*Use quota="),
        ({"quota": (8, 6)}, r"quota is \(8, 6\), for 2 data sets, but the images come from 3"),
        ({"sources": None}, "for 3 data sets, but the images come from 1"),
        ({"quota": (8, 4, 4)}, "16 images in total, but batch_size is 14"),
        ({"quota": (10, 4, 0)}, "a whole number of at least 1"),
        ({"quota": (12, 4, -2)}, "a whole number of at least 1"),
        ({"quota": (8.0, 4.0, 2.0)}, "a whole number of at least 1"),
        ({"name": "pk", "quota": (8, 3, 3)}, "expected multiples of instances, 2"),
        ({"name": "pk", "instances": 0}, "expected multiples of instances, 0"),
        ({"sources": SOURCES[1:]}, r"sources have shape \(162,\); expected one per image: 163"),
        ({"sources": SOURCES * 2, "quota": (8, 4, 1, 1, 0)}, "at least 1"),
        (
            {"quota": (4, 50, 2), "batch_size": 56},
            "data set 1 of 0 to 2, with a quota of 50: 23 images do not fill one batch of 50",
        ),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_a_quota_that_cannot_be_kept_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)
