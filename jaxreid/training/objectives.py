"""Objectives: scores and labels to a loss.

An objective is called inside the sharded step, once per device, as

    loss, stats = objective(model, feature, label, memory)

with the model bound to its variables (its `match` and its `classify`), the features [B, ...] and
labels [B] of the whole batch, and this device's part of the class memory (None if the objective
has none). The work is divided over the devices: by classes where there is a class memory, else by
images. `loss` is the mean over the batch and `stats` a dictionary of numbers to log, "accuracy"
among them; both are reduced over the mesh. The gradient of the loss then needs no reduction.

What else an objective wants it says by attributes: `uses_memory`; `classifies`, logits of the
training identities; `uses_before`, a pair of features, the second what precedes the BN neck; and
`draws`, the keywords `epoch` [] int32 and `key`, one for each step and the same on all devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxreid.names import check_name
from jaxreid.ops.normalize import l2_normalize
from jaxreid.ops.similarity import METRICS, distances
from jaxreid.training.losses import (
    balanced_pair_loss,
    focal_loss,
    hardest,
    hardest_pair_loss,
    mean_of,
    my_share,
    nearest_class,
    pair_centre_loss,
    pair_dropout,
    pairwise_loss,
    random_negatives,
    smoothed_cross_entropy,
    total,
    triplet_loss,
)
from jaxreid.training.memory import ClassMemory

PAIRS = ("balanced", "random", "hardest")
PIC_PAIRS = ("all", "positive")
Objective = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class ClassMemoryObjective:
    """QAConv's loss: every image against the newest map of every identity.

    Attributes:
        num_classes: training identities; memory rows beyond them are padding.
        valid_flags: leave out classes that no batch has held yet (QAConv 1.1 and later); False
            counts their empty maps, as QAConv 1.0 does.
        axis_name: mesh axis over which the classes are divided.
    """

    num_classes: int
    valid_flags: bool = True
    axis_name: str | None = None
    uses_memory, classifies, uses_before, draws = True, False, False, False

    def __call__(
        self, model: Any, feature: jax.Array, label: jax.Array, memory: ClassMemory
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean focal loss and the share of images whose best class is their own."""
        rows = memory.valid.shape[0]
        first = 0 if self.axis_name is None else jax.lax.axis_index(self.axis_name) * rows
        real = first + jnp.arange(rows) < self.num_classes
        logit = model.match(feature, memory.feature, train=True, mask=real)
        loss = focal_loss(logit, label, memory.valid if self.valid_flags else real, first)
        nearest = nearest_class(
            jnp.where(real, jax.lax.stop_gradient(logit), -jnp.inf), first, self.axis_name
        )
        accuracy = (nearest == label).astype(loss.dtype).mean()
        loss = loss.mean()
        if self.axis_name is not None:
            loss = jax.lax.psum(loss, self.axis_name)
            # The same number on every device; the mean makes that known to the type checker.
            accuracy = jax.lax.pmean(accuracy, self.axis_name)
        return loss, {"accuracy": accuracy}


@dataclasses.dataclass(frozen=True)
class PairwiseObjective:
    """Losses on the scores of a batch with itself.

    Attributes:
        loss: "triplet" (batch hard, QAConv 2.1) or "pairwise" (cross-entropy of all pairs, 2.0).
        margin: of the triplet loss, in units of the score.
        axis_name: mesh axis over which the queries are divided.

    Differs: a row whose loss is not finite is left out of the mean, as in the original; where none
        is finite the original silently goes on to the next batch, and here the loss is NaN, which
        ends the training with a message.
    """

    loss: str
    margin: float = 16.0
    axis_name: str | None = None
    # The gallery is whole on every device.
    uses_memory, classifies, uses_before, draws = False, False, False, False

    def __call__(
        self, model: Any, feature: jax.Array, label: jax.Array, memory: None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss, and the share of images whose hardest positive beats the hardest negative."""
        row = my_share(jnp.arange(len(label)), self.axis_name)
        logit = model.match(my_share(feature, self.axis_name), feature, train=True)
        same = label[row, None] == label[None, :]
        positive, negative = hardest(logit, same, row[:, None] == jnp.arange(len(label)))
        if self.loss == "triplet":
            loss, right = triplet_loss(positive, negative, self.margin), positive >= negative
        else:
            loss, right = pairwise_loss(logit, same), positive > negative
        counts = jnp.isfinite(loss)
        loss = total(jnp.where(counts, loss, 0), self.axis_name) / total(counts, self.axis_name)
        return loss, {"accuracy": total(right, self.axis_name) / len(label)}


@dataclasses.dataclass(frozen=True)
class SoftmaxObjective:
    """Classification of the training identities, and the hardest triplets of embeddings with it.

    Attributes:
        smoothing: of the labels (`smoothed_cross_entropy`).
        triplet: weight of the triplet loss beside the cross-entropy; 0 leaves it out.
        margin: of the triplet loss, in units of the distance.
        metric: of its distances, "euclidean" or "cosine"; the matcher may test with the other, as
            the published models of OSNet-AIN do.
        axis_name: mesh axis over which the images are divided.

    Source: torchreid's softmax and triplet engines (Zhou et al., ICCV 2019); Hermans et al., 2017,
        arXiv 1703.07737, for mining in the batch. An image is its own positive where its identity
        has no other in the batch.
    """

    smoothing: float = 0.1
    triplet: float = 0.0
    margin: float = 0.3
    metric: str = "euclidean"
    axis_name: str | None = None
    uses_memory, classifies, uses_before, draws = False, True, True, False

    def __call__(
        self,
        model: Any,
        feature: tuple[jax.Array, jax.Array],
        label: jax.Array,
        memory: None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss, the share of images that are classified rightly, and the parts of a sum.

        Args:
            model: as for all objectives.
            feature: [B, d] embeddings, which are classified, and [B, d] what precedes the BN neck,
                whose distances make the triplets; of the whole batch.
            label: [B] int32.
            memory: none.
        """
        embedding, before = feature
        own = my_share(label, self.axis_name)
        logit = model.classify(my_share(embedding, self.axis_name))
        mean = lambda values: total(values, self.axis_name) / len(label)  # noqa: E731
        loss = mean(smoothed_cross_entropy(logit, own, self.smoothing))
        stats = {"accuracy": mean(logit.argmax(1) == own)}
        if self.triplet:
            alike = -distances(my_share(before, self.axis_name), before, self.metric)
            same = own[:, None] == label[None, :]
            positive, negative = hardest(alike, same, jnp.zeros_like(same))
            triplet = mean(triplet_loss(positive, negative, self.margin))
            stats |= {"cross_entropy": loss, "triplet": triplet}
            loss = loss + self.triplet * triplet
        return loss, stats


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
    uses_memory, classifies, uses_before, draws = False, True, True, True

    def __call__(
        self,
        model: Any,
        feature: tuple[jax.Array, jax.Array],
        label: jax.Array,
        memory: None = None,
        *,
        epoch: jax.Array | int,
        key: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss, its parts, the share of images that are classified rightly, "pair_accuracy".

        The last is the balanced accuracy of pairs at logit 0: the mean of the shares of positive
        and of negative ones that are on their side of it.

        Args:
            model: as for all objectives.
            feature: as for `SoftmaxObjective`; pairs are of the embeddings.
            label: [B] int32.
            memory: none.
            epoch: [] int32.
            key: of this step.
        """
        loss, stats = super().__call__(model, feature, label)
        embedding, _ = feature
        row = my_share(jnp.arange(len(label)), self.axis_name)
        itself = row[:, None] == jnp.arange(len(label))
        same = label[row, None] == label[None, :]
        positive, own = same & ~itself, embedding[row]
        if self.gmn:
            key_negatives, key_dropout = jax.random.split(key)
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
                gmn = jnp.where(epoch >= self.dropout_from, both, cost(logit))
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


SOFTMAX = ("smoothing", "triplet", "margin", "metric")
OPTIONS = {
    "class_memory": ("valid_flags",),
    "pairwise": (),
    "triplet": ("margin",),
    "softmax": SOFTMAX,
    "gmn": (*SOFTMAX, "gmn", "pairs", "dropout", "dropout_from", "pic", "pic_pairs"),
}


def make_objective(
    name: str, *, num_classes: int, axis_name: str | None = None, **options: Any
) -> Objective:
    """An objective by name.

    Args:
        name: "class_memory", "pairwise", "triplet", "softmax" or "gmn".
        num_classes: training identities.
        axis_name: mesh axis over which the step is spread.
        **options: attributes of the objective.

    Raises:
        ValueError: an unknown name, or an option of another objective.
    """
    check_name(name, OPTIONS, "objective")
    if unknown := sorted(options.keys() - OPTIONS[name]):
        keywords = ", ".join([f"'name': {name!r}", *(f"'{o}': ..." for o in OPTIONS[name])])
        raise ValueError(
            f"the objective {name!r} has no option {unknown[0]!r}; give it as a whole: "
            f'--config.objective="{{{keywords}}}".'
        )
    if name == "class_memory":
        return ClassMemoryObjective(num_classes=num_classes, axis_name=axis_name, **options)
    if name in ("softmax", "gmn"):
        _check_softmax(options)
        made = GMNObjective if name == "gmn" else SoftmaxObjective
        return made(axis_name=axis_name, **options)
    return PairwiseObjective(loss=name, axis_name=axis_name, **options)


def _check_softmax(options: dict[str, Any]) -> None:
    """Raises ValueError for an option of "softmax" or "gmn" that is out of its range."""
    check_name(options.get("metric", "euclidean"), METRICS, "objective.metric")
    check_name(options.get("pairs", "balanced"), PAIRS, "objective.pairs")
    check_name(options.get("pic_pairs", "all"), PIC_PAIRS, "objective.pic_pairs")
    for option in ("smoothing", "dropout"):
        if not 0 <= options.get(option, 0) < 1:
            raise ValueError(f"objective.{option} is {options[option]}; it is in [0, 1).")
    for option in ("triplet", "margin", "gmn", "dropout_from", "pic"):
        if options.get(option, 0) < 0:
            raise ValueError(f"objective.{option} is {options[option]}; it is 0 or more.")
