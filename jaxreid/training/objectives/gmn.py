"""GMN's objective: classes, triplets, and the pairs of images of a batch.

Letters: Q rows of this device, B images of the batch, d channels of an embedding.

Source: Qi et al., 2023, arXiv 2306.11991.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.names import check_name
from jaxreid.ops.normalize import l2_normalize
from jaxreid.training.losses import hardest, my_share, total
from jaxreid.training.objectives.objective import Batch
from jaxreid.training.objectives.softmax import SoftmaxObjective

PAIRS = ("balanced", "random", "hardest")
PIC_PAIRS = ("all", "positive")


@dataclasses.dataclass(frozen=True)
class GMNObjective(SoftmaxObjective):
    """GMN's loss: classes, triplets, and the pairs of images of a batch.

    L = L_cls + L_tri + L_gmn + lambda L_pic. The first two are those of `SoftmaxObjective`. L_gmn
    is the cross-entropy of the matcher's scores; L_pic draws pair features (p - q)^2, scaled to
    unit length, to the mean of those of the same two identities (`pair_centre_loss`). No image is
    paired with itself.

    Attributes:
        triplet: weight of L_tri.
        gmn: weight of L_gmn; 0 leaves the matcher untrained.
        pairs: of L_gmn: "balanced" (all, the mean of the positive ones plus that of the negative
            ones), "random" (as many negative ones as positive ones), "hardest" (of each image, one
            of either kind).
        dropout: share of the entries of pair features that is dropped in a second copy of all
            pairs, whose loss is averaged with the first; 0 for no copy.
        dropout_from: epoch, from 0, from which on there is one.
        pic: lambda, the weight of L_pic; 0 leaves it out.
        pic_pairs: of L_pic: "all", or "positive" for those of one identity.

    Source: Qi et al., 2023, arXiv 2306.11991. The terms, the perturbation by dropout and its late
        start are the paper's; it has no public code, and everything else here is our reading.
    """

    triplet: float = 1.0
    gmn: float = 1.0
    pairs: str = "balanced"
    dropout: float = 0.5
    dropout_from: int = 0
    pic: float = 0.1
    pic_pairs: str = "all"

    def validate(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an option is out of its range.
        """
        super().validate()
        check_name(self.pairs, PAIRS, "objective.pairs")
        check_name(self.pic_pairs, PIC_PAIRS, "objective.pic_pairs")
        self._check("dropout", below_one=True)
        self._check("gmn", "dropout_from", "pic")

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss, its parts, the share of images that are classified rightly, "pair_accuracy".

        The last is the balanced accuracy of pairs at logit 0: the mean of the shares of positive
        and of negative ones that are on their side of it. Pairs are of the embeddings.
        """
        loss, stats = super().__call__(model, batch)
        embedding, label = batch.feature, batch.label
        row = my_share(jnp.arange(len(label)), self.axis_name)
        itself = row[:, None] == jnp.arange(len(label))
        same = label[row, None] == label[None, :]
        positive, own = same & ~itself, embedding[row]
        if self.gmn:
            key_negatives, key_dropout = jax.random.split(batch.key)
            chosen = ~same
            if self.pairs == "random":
                chosen = random_negatives(key_negatives, label)[row]

            def cost(logit: jax.Array) -> jax.Array:
                if self.pairs == "hardest":
                    return hardest_pair_loss(logit, same, itself, self.axis_name)
                return balanced_pair_loss(logit, positive, chosen, self.axis_name)

            if self.dropout:
                factor = pair_dropout(key_dropout, row, *embedding.shape, self.dropout)
                logit, perturbed = model.match_perturbed(own, embedding, factor, mask=~itself)
                both = (cost(logit) + cost(perturbed)) / 2
                gmn = jnp.where(batch.epoch >= self.dropout_from, both, cost(logit))
            else:
                logit = model.match(own, embedding, train=True, mask=~itself)
                gmn = cost(logit)
            right = mean_of(logit > 0, positive, self.axis_name)
            right += mean_of(logit <= 0, ~same, self.axis_name)
            stats |= {"gmn": gmn, "pair_accuracy": right / 2}
            loss = loss + self.gmn * gmn
        if self.pic:
            unit = l2_normalize(embedding)
            pairs = l2_normalize(jnp.square(unit[row, None] - unit))
            counts = positive if self.pic_pairs == "positive" else ~itself
            pic = pair_centre_loss(pairs, label, row, counts, self.axis_name)
            stats["pic"] = pic
            loss = loss + self.pic * pic
        return loss, stats


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
    """Dropout masks of pair features, already divided by 1 - rate.

    Keyed by the two positions in the batch, so that the mask is symmetric and does not depend on
    the device.

    Args:
        key: the same on all devices.
        row: [Q] int32, positions in the batch of the first images of the pairs.
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
        row: [Q] int32, positions in the batch of the first images of the pairs.
        counts: [Q, B] bool, the pairs that count, symmetric as well.
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


def mean_of(values: jax.Array, counts: jax.Array, axis_name: str | None) -> jax.Array:
    """Masked mean over all devices; 0 for an empty mask.

    Args:
        values: float array.
        counts: bool array of the same shape, the mask.
        axis_name: mesh axis over which they are divided.
    """
    some = jnp.maximum(total(counts, axis_name), 1)
    return total(jnp.where(counts, values, 0), axis_name) / some
