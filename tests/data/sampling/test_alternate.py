"""Epochs of one data set each, in turn."""

import numpy as np
import pytest

from jaxreid.data.sampling import samplers

COUNTS = (5, 9, 4)  # people of three data sets, with six images each
SOURCES = np.random.default_rng(0).permutation(np.repeat(np.arange(3), 6 * np.array(COUNTS)))
LABELS = np.empty(len(SOURCES), np.int32)  # 0 to 4 in the first set, 5 to 13, and 14 to 17
LABELS[np.argsort(SOURCES, kind="stable")] = np.repeat(np.arange(sum(COUNTS)), 6)


def make(name="graph", seed=5, **change):
    options = {"batch_size": 8, "instances": 2, "sources": SOURCES, "alternate": True} | change
    return samplers.make_sampler(name, LABELS, seed=seed, cameras=SOURCES, **options)


def following(anchors, count):
    """The next classes of the same data set, and a check of the anchors."""
    assert len(set(SOURCES[anchors])) == 1
    classes = LABELS[anchors]
    assert (np.diff(classes) == 1).all()
    assert len(classes) == COUNTS[SOURCES[anchors[0]]]
    return (np.arange(len(classes))[:, None] + 1 + np.arange(count)) % len(classes)


def draw(sampler, epoch):
    anchors = sampler.anchors(epoch)
    if anchors is None:
        return sampler.order(epoch)
    return sampler.order(epoch, following(anchors, sampler.neighbour_count))


@pytest.mark.parametrize("name", samplers.NAMES)
def test_every_epoch_is_of_one_data_set_and_all_are_of_one_length(name):
    sampler = make(name)
    for epoch in range(7):
        order = draw(sampler, epoch)
        assert order.dtype == np.int32
        assert order.shape == (sampler.steps_per_epoch, 8)
        assert (SOURCES[order] == epoch % 3).all()
    longest = {"graph": 9, "random": 6 * 9 // 8, "pk": 3 * 9 // 4}
    assert sampler.steps_per_epoch == longest[name.removesuffix("_cameras")]


def test_batches_hold_a_class_and_its_neighbours_of_the_same_data_set():
    sampler = make()
    for epoch, first in enumerate((0, 5, 14)):
        order = draw(sampler, epoch)
        people = LABELS[order].reshape(-1, 4, 2)
        assert (people[..., 0] == people[..., 1]).all()
        anchors = people[:, 3, 0] - first
        expected = (anchors[:, None] + [1, 2, 3, 0]) % COUNTS[epoch] + first
        np.testing.assert_array_equal(people[..., 0], expected)
        # Of nine batches, nine classes have one each, five have one or two, four two or three.
        turns = np.bincount(anchors, minlength=COUNTS[epoch])
        assert turns.max() - turns.min() <= 1


def test_epochs_of_one_data_set_differ():
    sampler = make()
    orders = [draw(sampler, epoch) for epoch in range(4)]
    assert (orders[0] != orders[3]).any()


@pytest.mark.parametrize("stop", range(5))
def test_goes_on_from_its_state(stop):
    whole, stopped, resumed = make(), make(), make()
    expected = [draw(whole, epoch) for epoch in range(7)]
    for epoch in range(stop + 1):
        draw(stopped, epoch)
    resumed.restore(stopped.state())
    assert resumed.anchors(stop) is None
    np.testing.assert_array_equal(resumed.order(stop), expected[stop])
    for epoch in range(stop + 1, 7):
        np.testing.assert_array_equal(draw(resumed, epoch), expected[epoch])


def test_a_state_of_other_images_changes_nothing():
    sampler = make()
    expected = draw(make(), 0)
    state = sampler.state()
    damaged = state | {"images_2": state["images_2"] + 1}  # the first two are read before it
    with pytest.raises(ValueError, match="images does not list the images"):
        sampler.restore(damaged | {"pointer_0": state["pointer_0"] + 1})
    with pytest.raises(ValueError, match="expected a sampler state with .*images_0"):
        sampler.restore({})
    np.testing.assert_array_equal(draw(sampler, 0), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quota": (4, 2, 2)}, "set only one of them"),
        ({"sources": np.zeros_like(SOURCES)}, "only one data set: give several in data.train"),
        ({"sources": None}, "there is only one data set"),
        ({"sources": SOURCES * 2}, "data set 1 of 0 to 4 has no image"),
        ({"batch_size": 10}, "data set 2 of 0 to 2: there are 4 identities, but a batch of 10"),
        ({"sources": SOURCES[1:]}, "expected one per image"),
    ],
)
def test_what_cannot_be_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)
