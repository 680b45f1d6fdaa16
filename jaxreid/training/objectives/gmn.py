"""GMN's objective: classification, triplets and image pairs of a batch.

Notation: Q rows of this device, B images of the batch, d channels of an embedding.

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
    """GMN's loss: classification, triplets and image pairs of a batch.

    L = L_cls + L_tri + L_gmn + lambda L_pic. The first two are those of `SoftmaxObjective`. L_gmn
    is the cross-entropy of the matcher's scores. L_pic pulls pair features (p - q)^2, normalised to
    unit length, towards their mean over the same two identities (`pair_centre_loss`). No image is
    paired with itself.

    Attributes:
        triplet: weight of L_tri.
        gmn: weight of L_gmn; 0 leaves the matcher untrained.
        pairs: pairs of L_gmn: "balanced" (all pairs; mean of the positives plus mean of the
            negatives), "random" (as many negatives as positives), "hardest" (one of each kind per
            image).
        dropout: dropout rate for a second copy of all pair features, whose loss is averaged with
            that of the first; 0 for no copy.
        dropout_from: first epoch, counted from 0, with that copy.
        pic: lambda, the weight of L_pic; 0 disables it.
        pic_pairs: pairs of L_pic: "all", or "positive" for those of one identity.

    Source: Qi et al., 2023, arXiv 2306.11991. The terms, the perturbation by dropout and its late
        start are from the paper. It has no public code; everything else here is our interpretation.
    """

    triplet: float = 1.0
    gmn: float = 1.0
    pairs: str = "balanced"
    dropout: float = 0.5
    dropout_from: int = 0
    pic: float = 0.1
    pic_pairs: str = "all"

    def validate(self) -> None:
        """Raise ValueError for an option out of its range."""
        super().validate()
        check_name(self.pairs, PAIRS, "objective.pairs")
        check_name(self.pic_pairs, PIC_PAIRS, "objective.pic_pairs")
        self._check("dropout", below_one=True)
        self._check("gmn", "dropout_from", "pic")

    def __call__(self, model: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return the mean loss, its parts, and the accuracies of images and pairs.

        "pair_accuracy" is the balanced accuracy of embedding pairs at logit 0: the mean of the
        share of positives above 0 and the share of negatives at or below 0.
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
                averaged = (cost(logit) + cost(perturbed)) / 2
                gmn = jnp.where(batch.epoch >= self.dropout_from, averaged, cost(logit))
            else:
                logit = model.match(own, embedding, train=True, mask=~itself)
                gmn = cost(logit)
            correct = mean_of(logit > 0, positive, self.axis_name)
            correct += mean_of(logit <= 0, ~same, self.axis_name)
            stats |= {"gmn": gmn, "pair_accuracy": correct / 2}
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
    """Compute the mean cross-entropy of positives plus that of negatives, whatever their counts.

    Args:
        logit: [Q, B] float, log odds that two images have the same identity.
        positive: [Q, B] bool, mask of positive pairs.
        negative: [Q, B] bool, mask of negative pairs.
        axis_name: mesh axis over which the rows are divided.

    Returns:
        [] float.

    Source: GMN, L_gmn; the weighting of the two kinds is our interpretation.
    """
    positive_loss = mean_of(jax.nn.softplus(-logit), positive, axis_name)
    return positive_loss + mean_of(jax.nn.softplus(logit), negative, axis_name)


def hardest_pair_loss(
    logit: jax.Array, same: jax.Array, itself: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Compute `balanced_pair_loss` of the hardest positive and hardest negative of each row.

    See `losses.hardest` for the arguments; rows are divided over the mesh axis `axis_name`.
    """
    scores = jnp.stack(hardest(logit, same, itself), axis=1)
    exists = jnp.stack([(same & ~itself).any(1), (~same).any(1)], axis=1)
    # Masked before the softplus, whose gradient at an infinite score is NaN.
    scores, positive = jnp.where(exists, scores, 0), jnp.array([True, False])
    return balanced_pair_loss(scores, exists & positive, exists & ~positive, axis_name)


def random_negatives(key: jax.Array, label: jax.Array) -> jax.Array:
    """Draw as many negative pairs as there are positive pairs.

    Args:
        key: random key, the same on all devices.
        label: [B] int32.

    Returns:
        [B, B] bool, symmetric; all negative pairs if there are not enough.
    """
    same = label[:, None] == label
    upper = jnp.triu(jnp.ones_like(same), 1)
    draw = jnp.where(upper & ~same, jax.random.uniform(key, same.shape), jnp.inf).ravel()
    # Ranks instead of a threshold, because draws may be equal.
    rank = draw.argsort().argsort()
    chosen = (rank < (upper & same).sum()).reshape(same.shape) & upper & ~same
    return chosen | chosen.T


def pair_dropout(key: jax.Array, row: jax.Array, count: int, d: int, rate: float) -> jax.Array:
    """Draw dropout masks for pair features, already divided by 1 - rate.

    Keyed by the two batch positions, so the mask is symmetric and independent of the device.

    Args:
        key: random key, the same on all devices.
        row: [Q] int32, batch positions of the first images of the pairs.
        count: B images in the batch.
        d: entries of a pair feature.
        rate: dropout rate, in [0, 1).

    Returns:
        [Q, B, d] float: 0 or 1 / (1 - rate), which preserves the expectation.
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
    """Compute the mean squared distance of pair features to their centre.

    The centre is the mean over all included pairs of the same two identities (or of the same one),
    in either order. It has no gradient.

    Args:
        pairs: [Q, B, d] float, symmetric in the two images.
        label: [B] int32.
        row: [Q] int32, batch positions of the first images of the pairs.
        counts: [Q, B] bool, symmetric mask of the pairs to include.
        axis_name: mesh axis over which the rows are divided.

    Returns:
        [] float; 0 for an empty mask.

    Source: GMN, L_pic; centres within the batch are our interpretation.
    """
    # |f - c|^2 = |f|^2 - 2 f.c + |c|^2, so sums over the pairs of each centre suffice. They are
    # [B, B, d] on every device, since identities are indexed by the batch position of their first
    # image. The two orders of a pair have separate centres, which are equal.
    weight = counts.astype(pairs.dtype)
    group = jax.nn.one_hot((label[:, None] == label).argmax(1), len(label), dtype=pairs.dtype)
    weighted = pairs * weight[..., None]
    # The terms nearly cancel.
    with jax.default_matmul_precision("highest"):
        sums = jnp.einsum("qa,qjd,jb->abd", group[row], weighted, group)
        number = jnp.einsum("qa,qj,jb->ab", group[row], weight, group)
    totals = (jax.lax.stop_gradient(sums), number)
    if axis_name is not None:
        totals = jax.lax.psum(totals, axis_name)
    centre = totals[0] / jnp.maximum(totals[1], 1)[..., None]
    squares = jnp.sum(pairs * weighted) - 2 * jnp.sum(sums * centre)
    squares += jnp.sum(number * jnp.square(centre).sum(-1))
    return total(squares, axis_name) / jnp.maximum(total(counts, axis_name), 1)


def mean_of(values: jax.Array, counts: jax.Array, axis_name: str | None) -> jax.Array:
    """Compute the mean of `values` under the mask `counts`, over all devices; 0 if it is empty."""
    size = jnp.maximum(total(counts, axis_name), 1)
    return total(jnp.where(counts, values, 0), axis_name) / size
