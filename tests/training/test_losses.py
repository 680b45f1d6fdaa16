"""The losses of pairs: plain loops over pairs, what is drawn, and equality over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import AXIS, make_mesh
from jaxreid.training.objectives.gmn import (
    balanced_pair_loss,
    hardest_pair_loss,
    pair_centre_loss,
    pair_dropout,
    random_negatives,
)

LABEL = np.array([3, 1, 3, 2, 1, 3, 7, 1])  # two images are alone
BATCH, CHANNELS = len(LABEL), 4


def cross_entropy(logit, same):
    p = 1 / (1 + np.exp(-logit))
    return -np.log(p if same else 1 - p)


def unordered(kind):
    """Pairs p < q of one identity, or of two."""
    pairs = [(p, q) for q in range(BATCH) for p in range(q)]
    return [(p, q) for p, q in pairs if (LABEL[p] == LABEL[q]) == kind]


def symmetric(seed, *shape):
    x = np.random.default_rng(seed).normal(0, 2, (BATCH, BATCH, *shape))
    return x + x.swapaxes(0, 1)


def masks():
    same, itself = LABEL[:, None] == LABEL, np.eye(BATCH, dtype=bool)
    return same, itself


def on_devices(devices, function, *given, draws=False):
    """`function` with rows over devices: given [B, ...] are cut, and `row` comes first."""
    row = np.arange(BATCH)
    sharded = jax.shard_map(
        lambda row, *given: function(row, *given, AXIS),
        mesh=make_mesh(jax.devices()[:devices]),
        in_specs=P(AXIS),
        out_specs=P(AXIS) if draws else P(),
    )
    return jax.jit(sharded)(row, *given)


def test_the_balanced_loss_is_the_mean_of_each_kind_of_pairs():
    logit = symmetric(0)
    same, itself = masks()
    expected = sum(
        np.mean([cross_entropy(logit[p, q], kind) for p, q in unordered(kind)])
        for kind in (True, False)
    )
    got = balanced_pair_loss(jnp.array(logit), same & ~itself, ~same)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    four = on_devices(
        4, lambda row, *given: balanced_pair_loss(*given), logit, same & ~itself, ~same
    )
    np.testing.assert_allclose(four, expected, rtol=1e-5)
    none = balanced_pair_loss(jnp.array(logit), np.zeros_like(same), ~same)
    only = [cross_entropy(logit[p, q], False) for p, q in unordered(False)]
    np.testing.assert_allclose(none, np.mean(only), rtol=1e-5)


def test_the_hardest_pairs_are_one_of_each_kind_for_each_image():
    logit = symmetric(0)
    same, itself = masks()
    missed, taken = [], []
    for p in range(BATCH):
        positive = [logit[p, q] for q in range(BATCH) if q != p and LABEL[p] == LABEL[q]]
        negative = [logit[p, q] for q in range(BATCH) if LABEL[p] != LABEL[q]]
        missed += [cross_entropy(min(positive), True)] if positive else []
        taken.append(cross_entropy(max(negative), False))
    assert len(missed) == 6
    loss_fn = lambda logit: hardest_pair_loss(logit, same, itself)  # noqa: E731
    loss, slope = jax.value_and_grad(loss_fn)(jnp.array(logit, jnp.float32))
    np.testing.assert_allclose(loss, np.mean(missed) + np.mean(taken), rtol=1e-5)
    assert np.isfinite(slope).all()
    assert np.count_nonzero(slope) == 6 + 8
    four = on_devices(4, lambda row, *given: hardest_pair_loss(*given), logit, same, itself)
    np.testing.assert_allclose(four, loss, rtol=1e-5)


def test_as_many_random_negatives_as_positives():
    seen = np.zeros((BATCH, BATCH), int)
    for seed in range(200):
        chosen = np.asarray(random_negatives(jax.random.key(seed), jnp.array(LABEL)))
        np.testing.assert_array_equal(chosen, chosen.T)
        assert chosen.sum() == 2 * len(unordered(True))
        seen += chosen
    share = seen / 200
    negative = LABEL[:, None] != LABEL
    assert not share[~negative].any()
    expected = len(unordered(True)) / len(unordered(False))
    assert np.abs(share[negative] - expected).max() < 0.15  # five standard deviations
    label = jnp.array([0, 0, 0, 0, 1])  # six positive pairs, four negative ones
    chosen = random_negatives(jax.random.key(0), label)
    np.testing.assert_array_equal(chosen, label[:, None] != label)
    assert not random_negatives(jax.random.key(0), jnp.arange(5)).any()


def test_dropout_is_the_same_both_ways_and_on_any_number_of_devices():
    draw = lambda row, _: pair_dropout(jax.random.key(3), row, BATCH, 500, 0.2)  # noqa: E731
    one, four = (np.asarray(on_devices(devices, draw, draws=True)) for devices in (1, 4))
    np.testing.assert_array_equal(one, four)
    np.testing.assert_array_equal(one, one.swapaxes(0, 1))
    np.testing.assert_allclose(np.unique(one), [0, 1.25])
    assert np.abs((one == 0).mean() - 0.2) < 0.01
    patterns = {one[p, q].tobytes() for q in range(BATCH) for p in range(q + 1)}
    assert len(patterns) == BATCH * (BATCH + 1) // 2  # each pair has its own
    other = pair_dropout(jax.random.key(4), np.arange(BATCH), BATCH, 500, 0.2)
    assert (one != other).mean() > 0.2


@pytest.mark.parametrize("positive", [False, True])
def test_centres_of_pairs_equal_plain_loops(positive):
    pairs = np.abs(symmetric(1, CHANNELS))
    same, itself = masks()
    counts = same & ~itself if positive else ~itself
    chosen = unordered(True) + ([] if positive else unordered(False))
    kinds = {}
    for p, q in chosen:
        kinds.setdefault(frozenset((LABEL[p], LABEL[q])), []).append(pairs[p, q])
    assert len(kinds) == (2 if positive else 8)
    total, slope = 0.0, np.zeros_like(pairs)
    for p, q in chosen:
        centre = np.mean(kinds[frozenset((LABEL[p], LABEL[q]))], axis=0)
        total += np.square(pairs[p, q] - centre).sum()
        slope[p, q] = slope[q, p] = (pairs[p, q] - centre) / len(chosen)
    loss_fn = lambda pairs: pair_centre_loss(pairs, LABEL, np.arange(BATCH), counts)  # noqa: E731
    with jax.enable_x64(True):
        loss, got = jax.value_and_grad(loss_fn)(jnp.array(pairs))
    np.testing.assert_allclose(loss, total / len(chosen), rtol=1e-10)
    np.testing.assert_allclose(got, slope, atol=1e-10)  # none through the centre
    with jax.enable_x64(True):
        four = on_devices(
            4,
            lambda row, pairs, counts, axis: pair_centre_loss(pairs, LABEL, row, counts, axis),
            pairs,
            counts,
        )
        none = np.zeros_like(counts)
        assert float(pair_centre_loss(jnp.array(pairs), LABEL, np.arange(BATCH), none)) == 0
    np.testing.assert_allclose(four, loss, rtol=1e-10)
