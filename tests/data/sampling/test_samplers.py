import subprocess
import sys

import numpy as np
import pytest

from jaxreid.data.sampling import samplers

LABELS = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 30, 40)).astype(np.int32)


def pk(labels=LABELS, batch_size=16, instances=4, seed=3, epoch=0):
    return samplers.pk_order(
        labels, batch_size=batch_size, instances=instances, seed=seed, epoch=epoch
    )


def test_random_order_is_a_permutation_less_the_incomplete_batch():
    order = samplers.random_order(LABELS, batch_size=7, seed=0, epoch=0)
    assert order.dtype == np.int32
    assert order.shape == (len(LABELS) // 7, 7)
    assert len(np.unique(order)) == order.size
    assert order.min() >= 0
    assert order.max() < len(LABELS)


@pytest.mark.parametrize(
    ("name", "options"), [("random", {"instances": 1}), ("pk", {"instances": 4})]
)
def test_orders_are_functions_of_seed_and_epoch(name, options):
    def make(seed, epoch):
        sampler = samplers.make_sampler(name, LABELS, batch_size=16, seed=seed, **options)
        order = sampler.order(epoch)
        assert len(order) == sampler.steps_per_epoch
        assert sampler.state() == {}
        return order

    np.testing.assert_array_equal(make(1, 2), make(1, 2))
    assert (make(1, 2) != make(1, 3)).any()
    assert (make(1, 2) != make(2, 1)).any()


def test_samplers_do_not_touch_the_global_generator():
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    pk()
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("seed", range(5))
def test_pk_groups_and_identities(seed):
    order = pk(seed=seed)
    _, counts = np.unique(LABELS, return_counts=True)
    assert order.shape == (np.maximum(counts // 4, 1).sum() // 4, 16)
    assert order.dtype == np.int32
    label = LABELS[order].reshape(-1, 4, 4)
    assert (label == label[:, :, :1]).all(), "a group holds one identity"
    for batch in label[:, :, 0]:
        assert len(set(batch)) == 4, "an identity is twice in a batch"
    index, uses = np.unique(order, return_counts=True)
    few = counts[LABELS[index]] < 4
    assert (uses[~few] == 1).all(), "only identities with fewer than K images repeat some"
    for group in order.reshape(-1, 4):
        size = counts[LABELS[group[0]]]
        assert len(set(group)) == min(size, 4), "topping up keeps all the images there are"


def test_pk_finds_the_only_arrangement_without_repeats():
    # Identity 0 has as many groups as there are batches: it must be in each of them.
    labels = np.repeat(np.arange(13), [12] + [2] * 12)
    order = pk(labels, batch_size=6, instances=2)
    label = labels[order].reshape(-1, 3, 2)[:, :, 0]
    assert len(label) == 6
    assert (np.sort(label, 1)[:, 0] == 0).all()
    assert all(len(set(batch)) == 3 for batch in label)


def test_pk_repeats_an_identity_only_where_it_must():
    labels = np.repeat([0, 1, 2], [8, 2, 2])
    order = pk(labels, batch_size=4, instances=2)
    label = labels[order].reshape(-1, 2, 2)[:, :, 0]
    distinct = sum(len(set(batch)) == 2 for batch in label)
    assert len(label) == 3
    assert distinct == 2, "each of the two small groups has its own batch"
    assert len(np.unique(order)) == 12, "no image twice"


def test_pk_batches_mix_identities_differently():
    # Were the groups dealt out in rows, the same four people would meet in batch after batch.
    labels = np.repeat(np.arange(32), 16)
    label = labels[pk(labels)].reshape(-1, 4, 4)[:, :, 0]
    pairs = [tuple(sorted((a, b))) for batch in label for a in batch for b in batch if a < b]
    assert len(label) == 32
    assert len(set(pairs)) > 0.6 * len(pairs)
    assert np.bincount(label.ravel()).tolist() == [4] * 32


def test_pk_caps_the_groups_of_one_identity():
    labels = np.repeat([0, 1, 2, 3], [100, 8, 8, 8])
    order = pk(labels, batch_size=8, instances=4)
    assert order.shape == ((8 + 2 + 2 + 2) // 2, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 10}, "batch_size 10 must be a multiple of instances 4"),
        ({"instances": 0}, "instances 0"),
        ({"batch_size": 4096}, "images give .* groups .* needs 1024"),
        ({"labels": np.zeros((3, 2), np.int32)}, "shape"),
        ({"labels": np.zeros(3)}, "float64"),
        ({"epoch": -1}, "epoch -1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        pk(**change)


def test_too_few_images():
    with pytest.raises(ValueError, match="5 images do not fill one batch of 6"):
        samplers.random_order(np.zeros(5, np.int32), batch_size=6, seed=0, epoch=0)


@pytest.mark.parametrize("name", ["pk", "graph"])
def test_batches_of_one_person_are_refused(name):
    with pytest.raises(ValueError, match="are both 4: every batch would hold one person.* Raise"):
        samplers.make_sampler(name, np.repeat(np.arange(8), 8), batch_size=4, instances=4, seed=0)


@pytest.mark.parametrize(("batch_size", "instances"), [(2, 1), (4, 2), (4, 1), (12, 4)])
def test_pk_has_two_people_in_every_batch_of_every_epoch_or_is_refused(batch_size, instances):
    size = {"batch_size": batch_size, "instances": instances}
    for seed in range(60):
        random = np.random.default_rng(seed)
        # One person with many images, and few others.
        counts = [random.integers(1, 60), *random.integers(1, 9, random.integers(1, 8))]
        labels = random.permutation(np.repeat(np.arange(len(counts)), counts))
        if sum(max(count // instances, 1) for count in counts) < batch_size // instances:
            continue
        orders = [samplers.pk_order(labels, **size, seed=seed, epoch=e) for e in range(4)]
        if all(len(set(labels[batch])) > 1 for order in orders for batch in order):
            samplers.make_sampler("pk", labels, **size, seed=seed)
        else:
            with pytest.raises(ValueError, match="batches of an epoch would hold one person"):
                samplers.make_sampler("pk", labels, **size, seed=seed)


def test_one_person_with_most_of_the_images_is_counted():
    labels = np.repeat([0, 1, 2], [32, 2, 2])
    message = r"3 of 5 batches of an epoch .*: 32 of 36 images are of one of 3 people; .* Remove"
    given = {"batch_size": 8, "instances": 4, "seed": 0}
    for more in ({}, {"alternate": True, "sources": np.repeat([0, 1], [36, 36])}):
        held = np.concatenate([labels, labels + 3]) if more else labels
        with pytest.raises(ValueError, match=message):
            samplers.make_sampler("pk", held, **given, **more)
    # With a quota, every batch has people of the other data set.
    held, sources = np.concatenate([labels, labels + 3]), np.repeat([0, 1], [36, 36])
    samplers.make_sampler("pk", held, **given, sources=sources, quota=(4, 4))


def test_unknown_sampler_lists_the_nearest_first():
    with pytest.raises(ValueError, match="unknown sampler 'randon'; valid: random"):
        samplers.make_sampler("randon", LABELS, batch_size=4, instances=1, seed=0)


def test_samplers_need_no_tensorflow():
    code = "import sys, jaxreid.data.sampling.samplers; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
