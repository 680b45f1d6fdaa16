"""ArcFace, CosFace, circle and centre loss: plain loops, edges, and equality over devices."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import AXIS, make_mesh
from jaxreid.ops.metrics import similarity
from jaxreid.training.memory import ClassMemory
from jaxreid.training.objectives import Batch, make_objective
from jaxreid.training.objectives.circle import circle_loss
from jaxreid.training.objectives.margins import added_angle
from jaxreid.training.objectives.softmax import smoothed_cross_entropy

LABEL = np.array([3, 1, 3, 2, 1, 3, 0, 1], np.int32)  # two images are alone
CLASSES, CHANNELS = 5, 6


def embeddings(seed=0):
    return np.random.default_rng(seed).normal(0, 1, (len(LABEL), CHANNELS)).astype(np.float32)


KERNEL = np.random.default_rng(9).normal(0, 1, (CHANNELS, CLASSES)).astype(np.float32)


def on_devices(devices, name, embedding, memory=None, label=LABEL, kernel=KERNEL, **options):
    """Loss, metrics, gradients of embeddings and class weights, and the memory afterwards."""
    objective = make_objective(name, num_classes=CLASSES, axis_name=AXIS, **options)

    def classify(embedding, kernel, cosine=False):
        return similarity(embedding, kernel.T, "cosine") if cosine else embedding @ kernel

    def step(embedding, kernel, label, memory):
        def loss_fn(embedding, kernel):
            model = SimpleNamespace(classify=lambda x, **how: classify(x, kernel, **how))
            return objective(model, Batch(embedding, embedding, label, memory))

        grad = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
        (loss, stats), grads = grad(embedding, kernel)
        if memory is not None:
            first = jax.lax.axis_index(AXIS) * len(memory.valid)
            memory = objective.remember(Batch(embedding, embedding, label, memory), first)
        return loss, stats, grads, memory

    parts = P() if memory is None else P(AXIS)
    sharded = jax.shard_map(
        step,
        mesh=make_mesh(jax.devices()[:devices]),
        in_specs=(P(), P(), P(), parts),
        out_specs=(P(), P(), P(), parts),
    )
    return jax.jit(sharded)(embedding, kernel, label, memory)


def assert_equal_on_two(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)  # sums in another order


def cosine_of(a, b):
    a, b = a.astype(float), b.astype(float)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def arcface(cosine, own):
    if not own:
        return cosine
    angle = np.arccos(cosine) + 0.5
    return np.cos(angle) if angle < np.pi else cosine - 0.5 * np.sin(0.5)


def cosface(cosine, own):
    return cosine - 0.35 * own


def circle(cosine, own, m=0.25):
    if own:
        return max(0, 1 + m - cosine) * (cosine - (1 - m))
    return max(0, cosine + m) * (cosine - m)


@pytest.mark.parametrize("moved", [arcface, cosface, circle])
def test_classification_with_margins_equals_plain_loops_on_one_device_and_two(moved):
    embedding = embeddings()
    embedding[0] = -KERNEL[:, LABEL[0]]  # an angle of pi to the own class
    costs, right = [], []
    for i, label in enumerate(LABEL):
        cosines = [cosine_of(embedding[i], KERNEL[:, c]) for c in range(CLASSES)]
        logits = [8 * moved(cosine, c == label) for c, cosine in enumerate(cosines)]
        costs.append(np.log(sum(np.exp(logit - logits[label]) for logit in logits)))
        right.append(np.argmax(cosines) == label)
    one, two = (on_devices(n, moved.__name__, embedding, scale=8.0) for n in (1, 2))
    np.testing.assert_allclose(one[0], np.mean(costs), rtol=1e-5)
    np.testing.assert_allclose(one[1]["accuracy"], np.mean(right))
    assert_equal_on_two(one, two)


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_without_margin_it_is_the_softmax_of_scaled_cosines(name):
    objective = make_objective(name, num_classes=CLASSES, class_margin=0.0, smoothing=0.1)

    def loss_fn(cosine):
        model = SimpleNamespace(classify=lambda x, cosine: x)
        return objective(model, Batch(cosine, cosine, LABEL))[0]

    def plain(cosine):
        return smoothed_cross_entropy(64.0 * cosine, LABEL, 0.1).mean()

    cosine = similarity(embeddings(), KERNEL.T, "cosine")
    for a, b in zip(
        jax.value_and_grad(loss_fn)(cosine), jax.value_and_grad(plain)(cosine), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_the_added_angle_never_lets_the_cosine_rise():
    angle = np.linspace(0, np.pi, 400)
    value = np.asarray(added_angle(jnp.cos(angle), 0.5))
    assert (np.diff(value) < 0).all()
    below = angle < np.pi - 0.51
    np.testing.assert_allclose(value[below], np.cos(angle[below] + 0.5), atol=1e-6)
    slope = jax.vmap(jax.grad(lambda c: added_angle(c, 0.5)))(jnp.cos(angle[1:-1]))
    expected = np.where(below, np.sin(angle + 0.5) / np.maximum(np.sin(angle), 1e-9), 1)[1:-1]
    np.testing.assert_allclose(slope[below[1:-1]], expected[below[1:-1]], rtol=2e-2)


EDGES = {
    "one identity": (embeddings(), np.full(len(LABEL), 2, np.int32)),
    "cosines of 1": (KERNEL.T[LABEL], LABEL),
    "cosines of -1": (-KERNEL.T[LABEL], LABEL),
    "equal images": (np.ones_like(embeddings()), LABEL),
    "no image": (np.zeros_like(embeddings()), LABEL),
    "very long": (1e6 * embeddings(), LABEL),
}


@pytest.mark.parametrize("name", ["arcface", "cosface", "circle", "circle_pairs"])
def test_losses_and_gradients_are_finite_at_the_edges(name):
    objective = make_objective(name, num_classes=CLASSES)

    @jax.jit
    def gradients(embedding, label):
        def loss_fn(embedding, kernel):
            cosine = lambda x, cosine: similarity(x, kernel.T, "cosine")  # noqa: E731
            model = SimpleNamespace(classify=cosine)
            return objective(model, Batch(embedding, embedding, label))[0]

        return jax.value_and_grad(loss_fn, argnums=(0, 1))(embedding, KERNEL)

    for edge, (embedding, label) in EDGES.items():
        for value in jax.tree.leaves(gradients(embedding, label)):
            assert np.isfinite(value).all(), edge


def test_circle_loss_of_pairs_equals_plain_loops_on_one_device_and_two():
    embedding, costs = embeddings(), []
    for i in range(len(LABEL)):
        positive, negative = [], []
        for j in range(len(LABEL)):
            own, cosine = LABEL[i] == LABEL[j], cosine_of(embedding[i], embedding[j])
            if i != j:
                (positive if own else negative).append(7 * circle(cosine, own, 0.4))
        pairs = [np.exp(n - p) for n in negative for p in positive]
        costs.append(np.log(1 + sum(pairs)))
    assert costs.count(0) == 2
    one, two = (on_devices(n, "circle_pairs", embedding, scale=7.0) for n in (1, 2))
    np.testing.assert_allclose(one[0], np.mean(costs), rtol=1e-5)
    assert_equal_on_two(one, two)
    maps = embedding[:, None, None]
    with pytest.raises(ValueError, match="use neck 'pooled' or 'linear'"):
        make_objective("circle_pairs", num_classes=5)(None, Batch(maps, maps, LABEL))


def test_the_gradient_of_circle_loss_is_that_of_the_paper():
    # Eq. 10 for one positive and one negative: Z * gamma * (s_n + m) and -Z * gamma * (1 + m - s_p)
    same, itself = np.array([[True, True, False]]), np.array([[True, False, False]])
    cosine, gamma, m = np.array([[1.0, 0.6, 0.3]], np.float32), 5.0, 0.25
    loss_fn = lambda cosine: circle_loss(cosine, same, itself, gamma, m)[0]  # noqa: E731
    loss, slope = jax.value_and_grad(loss_fn)(cosine)
    z = 1 - np.exp(-loss)
    np.testing.assert_allclose(
        slope[0], [0, -z * gamma * (1 + m - 0.6), z * gamma * (0.3 + m)], rtol=1e-5
    )


def test_centres_equal_plain_loops_on_one_device_and_two():
    options = {"triplet": 0.0, "smoothing": 0.0, "centre": 0.3, "centre_rate": 0.4}
    memories = [ClassMemory.create(CLASSES, (CHANNELS,)) for _ in range(2)]
    centres = {}
    for batch, label in enumerate([LABEL, LABEL[::-1].copy(), np.roll(LABEL, 1) % 4]):
        embedding = embeddings(batch)
        squares = [
            ((embedding[i] - centres[c]) ** 2).sum() for i, c in enumerate(label) if c in centres
        ]
        cross = smoothed_cross_entropy(embedding @ KERNEL, label, 0.0).mean()
        expected = sum(squares) / 2 / len(label)
        results = [
            on_devices(n + 1, "centre", embedding, memory, label, **options)
            for n, memory in enumerate(memories)
        ]
        np.testing.assert_allclose(results[0][1]["centre"], expected, rtol=1e-5)
        np.testing.assert_allclose(results[0][0], cross + 0.3 * expected, rtol=1e-5)
        assert_equal_on_two(*results)
        for c in np.unique(label):
            images = embedding[label == c]
            if c in centres:
                change = (centres[c] - images).sum(0) / (1 + len(images))
                centres[c] = centres[c] - 0.4 * change
            else:
                centres[c] = images.mean(0)
        memories = [result[3] for result in results]
    np.testing.assert_array_equal(np.flatnonzero(memories[1].valid), sorted(centres))
    for c, centre in centres.items():
        np.testing.assert_allclose(memories[1].feature[c], centre, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("arcface", {"scale": 0.0}, "objective.scale is 0.0; expected a number above 0"),
        ("arcface", {"class_margin": 28.6}, "expected an angle in radians"),
        ("cosface", {"class_margin": -0.1}, "objective.class_margin is -0.1; expected 0 or more"),
        ("circle", {"class_margin": 1.0}, r"expected a value in \[0, 1\)"),
        ("circle_pairs", {"margin": 1.5}, r"objective.margin is 1.5; expected a value in \[0, 1\)"),
        ("centre", {"centre": -1.0}, "objective.centre is -1.0; expected 0 or more"),
        ("centre", {"centre_rate": 0.0}, r"expected a value in \(0, 1\]"),
    ],
)
def test_wrong_settings_of_embedding_losses_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_objective(name, num_classes=2, **options)


def test_centres_of_other_channels_than_the_embeddings_are_refused():
    objective = make_objective("centre", num_classes=CLASSES)
    memory = ClassMemory.create(CLASSES, (CHANNELS + 1,))
    with pytest.raises(ValueError, match=r"\(7,\) channels and \(6,\) before the BN neck"):
        objective.remember(Batch(embeddings(), embeddings(), LABEL, memory))
