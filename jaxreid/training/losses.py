"""Losses, and what they choose and draw: pure functions of scores, logits and labels.

Where rows are divided over devices, a function that sums over all of them names the mesh axis.
"""

import jax
import jax.numpy as jnp
import optax


def focal_loss(
    logit: jax.Array, label: jax.Array, valid: jax.Array, first_class: jax.Array | int = 0
) -> jax.Array:
    """Focal binary cross-entropy of each sample, summed over classes.

    Args:
        logit: [B, C] float, scores of the batch with (a part of) the classes.
        label: [B] int32.
        valid: [C] bool; classes that are False do not count.
        first_class: the class of column 0.

    Returns:
        [B] sum over c of valid_c * w * BCE, with w = (1 - p)^2 for the own class and p^2 for
        another. The weight is differentiated too, as in the original code.

    Source: Liao and Shao, ECCV 2020, Eq. 4; QAConv 1.1 and later for the valid flags.
    """
    own = label[:, None] == first_class + jnp.arange(logit.shape[1])
    cross_entropy = optax.losses.sigmoid_binary_cross_entropy(logit, own.astype(logit.dtype))
    miss = jax.nn.sigmoid(jnp.where(own, -logit, logit))
    return jnp.sum(jnp.where(valid, jnp.square(miss) * cross_entropy, 0), axis=1)


def nearest_class(
    logit: jax.Array, first_class: jax.Array | int = 0, axis_name: str | None = None
) -> jax.Array:
    """The best scoring class of each sample, over all devices.

    Args:
        logit: [B, C] float; -inf where a class must not win.
        first_class: the class of column 0.
        axis_name: mesh axis over which the classes are divided, in order.

    Returns:
        [B] int32; the first of equally good classes.
    """
    best, nearest = logit.max(1), logit.argmax(1) + first_class
    if axis_name is not None:
        best = jax.lax.all_gather(best, axis_name)
        nearest = jax.lax.all_gather(nearest, axis_name)
        winner = best.argmax(0)
        nearest = jnp.take_along_axis(nearest, winner[None], axis=0)[0]
    return nearest


def pairwise_loss(logit: jax.Array, same: jax.Array) -> jax.Array:
    """Binary cross-entropy of each query, summed over the batch.

    Args:
        logit: [Q, B] float, scores with the whole batch, each image with itself included.
        same: [Q, B] bool, the two are of one identity.

    Returns:
        [Q] float.

    Source: QAConv 2.0, pairwise matching loss.
    """
    cross_entropy = optax.losses.sigmoid_binary_cross_entropy(logit, same.astype(logit.dtype))
    return cross_entropy.sum(1)


def hardest(logit: jax.Array, same: jax.Array, itself: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least alike of the own identity and the most alike of the others.

    Args:
        logit: [Q, B] float.
        same: [Q, B] bool, the two are of one identity.
        itself: [Q, B] bool, the two are one image.

    Returns:
        [Q] score of the hardest positive, inf where there is none, and [Q] of the hardest negative,
        -inf where there is none.
    """
    positive = jnp.where(same & ~itself, logit, jnp.inf).min(1)
    negative = jnp.where(same, -jnp.inf, logit).max(1)
    return positive, negative


def triplet_loss(positive: jax.Array, negative: jax.Array, margin: float) -> jax.Array:
    """Hinge loss [Q] on the scores of the hardest pairs; 0 where one of the two is missing.

    Scores may be negative distances.

    Source: QAConv 2.1; Hermans et al., 2017, arXiv 1703.07737, for mining in the batch.
    """
    return jax.nn.relu(margin - positive + negative)


def smoothed_cross_entropy(logit: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy [B] with a share of every target spread evenly over all classes.

    Args:
        logit: [B, C] float.
        label: [B] int32.
        smoothing: that share, in [0, 1).

    Source: Szegedy et al., CVPR 2016, Section 7; torchreid.
    """
    log = jax.nn.log_softmax(logit)
    own = jnp.take_along_axis(log, label[:, None], axis=1)[:, 0]
    return -(1 - smoothing) * own - smoothing * log.mean(1)


def my_share(values: jax.Array, axis_name: str | None) -> jax.Array:
    """The rows [B / devices, ...] of [B, ...] that this device answers for."""
    if axis_name is None:
        return values
    share = len(values) // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(axis_name) * share, share)


def total(values: jax.Array, axis_name: str | None) -> jax.Array:
    """The sum over all devices; of truth values, how many are true."""
    values = values.sum()
    return values if axis_name is None else jax.lax.psum(values, axis_name)


def mean_of(values: jax.Array, counts: jax.Array, axis_name: str | None) -> jax.Array:
    """The mean over all devices of those `values` that count, whatever the others are; 0 of none.

    Args:
        values: float array.
        counts: bool array of its shape.
        axis_name: mesh axis over which they are divided.
    """
    some = jnp.maximum(total(counts, axis_name), 1)
    return total(jnp.where(counts, values, 0), axis_name) / some


def balanced_pair_loss(
    logit: jax.Array, positive: jax.Array, negative: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Mean cross-entropy of positive pairs plus that of negative ones, however many there are.

    Args:
        logit: [Q, B] float, the log odds that two images are of one identity.
        positive: [Q, B] bool, pairs that should be, and count.
        negative: [Q, B] bool, pairs that should not be, and count.
        axis_name: mesh axis over which the rows are divided.

    Returns:
        [] float.

    Source: GMN, L_gmn; how it weighs the two kinds is our reading.
    """
    missed = mean_of(jax.nn.softplus(-logit), positive, axis_name)
    return missed + mean_of(jax.nn.softplus(logit), negative, axis_name)


def hardest_pair_loss(
    logit: jax.Array, same: jax.Array, itself: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """`balanced_pair_loss` of the hardest positive and the hardest negative of each row.

    Args:
        logit: [Q, B] float.
        same: [Q, B] bool, the two are of one identity.
        itself: [Q, B] bool, the two are one image.
        axis_name: mesh axis over which the rows are divided.
    """
    scores = jnp.stack(hardest(logit, same, itself), axis=1)
    found = jnp.stack([(same & ~itself).any(1), (~same).any(1)], axis=1)
    # Chosen before the softplus: its gradient at an infinite score is not a number.
    scores, positive = jnp.where(found, scores, 0), jnp.array([True, False])
    return balanced_pair_loss(scores, found & positive, found & ~positive, axis_name)


def random_negatives(key: jax.Array, label: jax.Array) -> jax.Array:
    """As many pairs of different identities as there are pairs of one, drawn at random.

    Args:
        key: the same on all devices.
        label: [B] int32.

    Returns:
        [B, B] bool, symmetric; all of them where there are not enough.
    """
    same = label[:, None] == label
    upper = jnp.triu(jnp.ones_like(same), 1)
    draw = jnp.where(upper & ~same, jax.random.uniform(key, same.shape), jnp.inf).ravel()
    rank = draw.argsort().argsort()  # and not a threshold: draws may be equal
    chosen = (rank < (upper & same).sum()).reshape(same.shape) & upper & ~same
    return chosen | chosen.T


def pair_dropout(key: jax.Array, row: jax.Array, count: int, d: int, rate: float) -> jax.Array:
    """What pair features are multiplied by to drop a share of their entries.

    The draw of a pair follows from the places of its two images, in either order: it does not
    depend on which device makes it.

    Args:
        key: the same on all devices.
        row: [Q] int32, places in the batch of those images that the pairs begin with.
        count: B images in the batch.
        d: entries of a pair feature.
        rate: probability that one is dropped, in [0, 1).

    Returns:
        [Q, B, d] float: 0, or 1 / (1 - rate), so that the expectation stays.
    """

    def draw(i: jax.Array, j: jax.Array) -> jax.Array:
        of_pair = jax.random.fold_in(jax.random.fold_in(key, jnp.minimum(i, j)), jnp.maximum(i, j))
        return jax.random.bernoulli(of_pair, 1 - rate, (d,))

    kept = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(row, jnp.arange(count))
    return kept / (1 - rate)


def pair_centre_loss(
    pairs: jax.Array,
    label: jax.Array,
    row: jax.Array,
    counts: jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean squared distance of pair features to the mean of their kind, which has no gradient.

    Of one kind are pairs of images of the same two identities (or of the same one), in either
    order.

    Args:
        pairs: [Q, B, d] float; that of (p, q) is that of (q, p).
        label: [B] int32.
        row: [Q] int32, places in the batch of the first images.
        counts: [Q, B] bool, the pairs that count, likewise symmetric over the batch.
        axis_name: mesh axis over which the rows are divided.

    Returns:
        [] float; 0 if no pair counts.

    Source: GMN, L_pic; centres within the batch are our reading.
    """
    # The sum over a kind of |f - c|^2 is that of |f|^2 - 2 f.c + |c|^2: sums of kinds are enough.
    # They are [B, B, d] on every device, since an identity goes by the place of its first image.
    # Both orders are kinds of their own here, which have the same mean.
    weight = counts.astype(pairs.dtype)
    group = jax.nn.one_hot((label[:, None] == label).argmax(1), len(label), dtype=pairs.dtype)
    weighted = pairs * weight[..., None]
    with jax.default_matmul_precision("highest"):  # the terms nearly cancel
        sums = jnp.einsum("qa,qjd,jb->abd", group[row], weighted, group)
        number = jnp.einsum("qa,qj,jb->ab", group[row], weight, group)
    of_all = (jax.lax.stop_gradient(sums), number)
    if axis_name is not None:
        of_all = jax.lax.psum(of_all, axis_name)
    centre = of_all[0] / jnp.maximum(of_all[1], 1)[..., None]
    squares = jnp.sum(pairs * weighted) - 2 * jnp.sum(sums * centre)
    squares += jnp.sum(number * jnp.square(centre).sum(-1))
    return total(squares, axis_name) / jnp.maximum(total(counts, axis_name), 1)
