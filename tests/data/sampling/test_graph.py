import json
import random
import subprocess
import sys

import numpy as np
import pytest

from jaxreid.data.sampling.graph import GraphSampler, draw_batches

COUNTS = np.array([1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 20, 31])
LABELS = np.random.default_rng(0).permutation(
    np.repeat(np.arange(len(COUNTS), dtype=np.uint8), COUNTS)
)
CLASSES = len(COUNTS)
GOLDEN = ("dist", "anchor_index", "topk_index", "sam_index")


def sampler(labels=LABELS, batch_size=16, instances=4, seed=3):
    return GraphSampler(labels, batch_size=batch_size, instances=instances, seed=seed)


def nearest_classes(scores, count):
    """The classes most like each, not itself, of equals the lower one."""
    scores = np.where(np.eye(len(scores), dtype=bool), -np.inf, scores)
    return np.argsort(-scores, axis=1, kind="stable")[:, :count].astype(np.int32)


def graph(anchors, count):
    """Stands for a model: scores that depend on the anchors."""
    return nearest_classes(np.sin(np.multiply.outer(anchors + 1.0, anchors + 2.0)), count)


def draw(sampler, epoch):
    """The order of an epoch, with a graph where it needs one."""
    anchors = sampler.anchors(epoch)
    if anchors is None:
        return sampler.order(epoch)
    return sampler.order(epoch, graph(anchors, sampler.neighbour_count))


def assert_same_state(left, right):
    assert set(left) == set(right)
    for key in left:
        assert left[key].dtype == right[key].dtype == np.int32
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


class OriginalNumbers(GraphSampler):
    """Draws as the original code does: lists with Python's generator, the rest with NumPy's."""

    def __init__(self, labels, case):
        self.python = random.Random(case["python_random_seed"])
        self.numpy = np.random.RandomState(case["numpy_random_seed"])  # noqa: NPY002
        sizes = {"batch_size": case["batch_size"], "instances": case["num_instance"]}
        super().__init__(labels, **sizes, seed=0)

    def _random(self, epoch, stream):
        return self

    def integers(self, low, highs):
        return np.array([self.numpy.choice(np.arange(low, high)) for high in highs])

    def shuffle(self, x):
        (self.python if isinstance(x, list) else self.numpy).shuffle(x)


@pytest.mark.golden
def test_epochs_equal_golden(golden_dir):
    arrays = np.load(golden_dir / "graph_sampler.npz")
    for name, case in json.loads((golden_dir / "graph_sampler.json").read_text()).items():
        # The original numbers its classes by first appearance.
        labels = np.array([case["pid_order"].index(pid) for pid in case["pids_of_samples"]])
        ours = OriginalNumbers(labels, case)
        assert ours.steps_per_epoch == case["len_before"]
        lists, pointer = case["index_dic_after_init"], [0] * case["len_before"]
        for epoch, after in enumerate(case["epochs"]):
            golden = {key: arrays[f"{name}/{key}{epoch}"] for key in GOLDEN}
            np.testing.assert_array_equal(ours.anchors(epoch), golden["anchor_index"])
            order = ours.order(epoch, nearest_classes(-golden["dist"], ours.neighbour_count))
            np.testing.assert_array_equal(ours.state()["neighbours"], golden["topk_index"])
            np.testing.assert_array_equal(order.ravel(), golden["sam_index"])
            assert_starts_with(ours, case["pid_order"], lists, pointer)
            lists, pointer = after["index_dic_after"], after["sam_pointer_after"]
        draw(ours, len(case["epochs"]))
        assert_starts_with(ours, case["pid_order"], lists, pointer)


def assert_starts_with(ours, pids, lists, pointer):
    state = ours.state()
    np.testing.assert_array_equal(state["images"], np.concatenate([lists[str(p)] for p in pids]))
    np.testing.assert_array_equal(state["pointer"], pointer)


@pytest.mark.parametrize("instances", [2, 4])
def test_epoch_equals_plain_loops(instances):
    generator = np.random.default_rng(1)
    queues = [list(np.flatnonzero(label == LABELS)) for label in range(CLASSES)]
    places = generator.integers(0, COUNTS)
    neighbours = nearest_classes(generator.standard_normal((CLASSES, CLASSES)), 3)
    order, lists, pointer = draw_batches(
        *(queues, places, neighbours, instances),
        shuffle_list=lambda images: images.append(images.pop(0)),
        shuffle_batches=lambda order: np.copyto(order, order[::-1].copy()),
    )
    expected = []
    for label in range(CLASSES):
        batch = []
        for member in [*neighbours[label], label]:
            for _ in range(instances):
                batch.append(queues[member][places[member]])
                places[member] = (places[member] + 1) % len(queues[member])
                if places[member] == 0:
                    queues[member] = queues[member][1:] + queues[member][:1]
        expected.insert(0, batch)
    np.testing.assert_array_equal(order, expected)
    assert lists == queues
    assert pointer.tolist() == places.tolist()


def test_batches_hold_the_neighbours_and_last_the_class_itself():
    ours = sampler()
    order = draw(ours, 0)
    assert (order.shape, order.dtype) == ((ours.steps_per_epoch, 16), np.int32)
    label = LABELS[order].reshape(-1, 4, 4)
    assert (label == label[:, :, :1]).all(), "K images of one class are neighbours"
    label = label[:, :, 0].astype(int)
    assert all(len(set(batch)) == 4 for batch in label)
    assert sorted(label[:, -1]) == list(range(CLASSES)), "one batch per class"
    np.testing.assert_array_equal(label[:, :-1], ours.state()["neighbours"][label[:, -1]])
    assert (np.diff(label[:, -1]) < 0).any(), "batches are shuffled"


def test_every_image_is_used_once_before_one_is_used_again():
    ours = sampler()
    orders = [draw(ours, epoch) for epoch in range(4)]
    # Images are drawn in the order of the anchors' classes, before batches are shuffled.
    drawn = np.concatenate([order[np.argsort(LABELS[order[:, -1]])].ravel() for order in orders])
    used = [drawn[LABELS[drawn] == label] for label in range(CLASSES)]
    for count, images in zip(COUNTS, used, strict=True):
        rounds = len(images) // count
        assert rounds > 0
        for one in np.reshape(images[: rounds * count], (rounds, count)):
            assert len(set(one)) == count


def test_orders_are_functions_of_seed_and_epoch_and_graph():
    np.random.seed(5)  # noqa: NPY002
    one, two, other = sampler(), sampler(), sampler(seed=4)
    anchors = []
    for epoch in range(3):
        anchors.append(one.anchors(epoch))
        order = draw(one, epoch)
        np.random.random()  # noqa: NPY002
        np.testing.assert_array_equal(draw(two, epoch), order)
        assert (draw(other, epoch) != order).any()
        assert anchors[epoch].dtype == np.int32
        np.testing.assert_array_equal(LABELS[anchors[epoch]], np.arange(CLASSES))
    assert (anchors[0] != anchors[1]).any()


@pytest.mark.parametrize("stop", [0, 2])
def test_resumes_in_an_epoch_and_between_two(stop):
    whole = sampler()
    orders = [draw(whole, epoch) for epoch in range(5)]
    stopped = sampler()
    for epoch in range(stop + 1):
        draw(stopped, epoch)
    state = stopped.state()
    within, between = sampler(), sampler()
    within.restore(state)
    between.restore(state)
    assert_same_state(within.state(), state)
    within.order(stop)[:] = -1  # the caller's copy
    np.testing.assert_array_equal(within.order(stop), orders[stop])
    for resumed in within, between:
        for epoch in range(stop + 1, 5):
            np.testing.assert_array_equal(draw(resumed, epoch), orders[epoch])
        assert_same_state(resumed.state(), whole.state())


def test_state_is_that_of_the_start_of_its_epoch_and_a_copy():
    ours, expected = sampler(), sampler()
    new = ours.state()
    draw(ours, 0)
    started = ours.state()
    np.testing.assert_array_equal(started["images"], new["images"])
    assert (new["epoch"], started["epoch"], started["pointer"].max()) == (-1, 0, 0)
    for value in started.values():
        value[...] = 0
    draw(expected, 0)
    assert_same_state(ours.state(), expected.state())
    np.testing.assert_array_equal(draw(ours, 1), draw(expected, 1))
    assert ours.state()["pointer"].any()
    ours.restore(new)
    assert_same_state(ours.state(), new)
    np.testing.assert_array_equal(draw(ours, 0), draw(sampler(), 0))


def test_bad_graphs_are_named_and_change_nothing():
    ours, expected = sampler(), sampler()
    np.testing.assert_array_equal(draw(ours, 0), draw(expected, 0))
    for found, message in [
        (None, "epoch 1 is new and needs neighbours"),
        (np.zeros((CLASSES, 2), int), r"integers \(12, 3\), got int64 \(12, 2\)"),
        (np.tile([1, 2, 3], (CLASSES, 1)), "class 1 are .* not 1 itself"),
        (np.tile([CLASSES, 2, 3], (CLASSES, 1)), "distinct classes from 0 to 11"),
    ]:
        with pytest.raises(ValueError, match=message):
            ours.order(1, found)
        assert_same_state(ours.state(), expected.state())
    np.testing.assert_array_equal(draw(ours, 1), draw(expected, 1))


def test_epochs_are_not_skipped():
    ours = sampler()
    for epoch, message in [(1, "1 cannot .* a new sampler starts at epoch 0"), (-1, "-1 cannot")]:
        with pytest.raises(ValueError, match="epoch " + message):
            ours.order(epoch)
        with pytest.raises(ValueError, match="epoch " + message):
            ours.anchors(epoch)
    draw(ours, 0)
    draw(ours, 1)
    for epoch in 0, 3:
        with pytest.raises(ValueError, match=f"epoch {epoch} .* epoch is 1, request .* epoch 2;"):
            ours.order(epoch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 18}, "batch_size 18 must be a multiple of instances 4"),
        ({"instances": 1}, "instances at least 2"),
        ({"batch_size": 4}, "twice as large"),
        ({"batch_size": 64}, "12 identities, but a batch of 64 .* needs 16: lower .* at most 48"),
        ({"seed": -1}, "seed -1"),
        ({"labels": np.zeros(0, int)}, "N >= 1"),
        ({"labels": -LABELS.astype(int)}, "classes from 0, got -11"),
        ({"labels": np.where(LABELS == 5, 4, LABELS)}, "class 5 of 0 to 11 has no image"),
        ({"labels": np.array([0, 10**12])}, "class 1 of 0 to 1000000000000"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        sampler(**change)


def test_bad_states_are_named_and_change_nothing():
    ours = sampler()
    draw(ours, 0)
    good = ours.state()
    for change, message in [
        ({"epoch": np.int32(-2)}, "epoch -2"),
        ({"epoch": np.float32(1)}, "epoch is float32"),
        ({"extra": np.int32(0)}, "expected a sampler state with"),
        ({"images": good["images"][:-1]}, r"images is int32 \(114,\); .* \(115,\): .* other data"),
        ({"images": good["images"][::-1]}, "class by class"),
        ({"pointer": good["pointer"] + COUNTS}, "pointer is outside"),
        ({"pointer": good["pointer"] - 1}, "pointer is outside"),
        ({"neighbours": good["neighbours"][:, 1:]}, "other batch settings"),
        ({"neighbours": good["neighbours"] * 0}, "neighbours of class 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            ours.restore({**good, **change})
        assert_same_state(ours.state(), good)


def test_graph_sampler_needs_no_tensorflow():
    code = "import sys, jaxreid.data.sampling.graph; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
