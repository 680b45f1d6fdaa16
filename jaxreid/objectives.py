"""Objectives: scores and labels to a loss.

An objective is called inside the sharded step, once per device, as

    loss, stats = objective(model, feature, label, memory)

with the model bound to its variables (its `match` and its `classify`), the features [B, ...] and
labels [B] of the whole batch, and this device's part of the class memory (None if the objective
has none). The work is divided over the devices: by classes where there is a class memory, else by
images. `loss` is the mean over the batch and `stats` a dictionary of numbers to log, "accuracy"
among them; both are reduced over the mesh. The gradient of the loss then needs no reduction.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreid.memory import ClassMemory
from jaxreid.names import check_name
from jaxreid.ops.similarity import METRICS, distances

Objective = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


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
    uses_memory, classifies = True, False

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
    uses_memory, classifies = False, False  # the gallery is whole on every device

    def __call__(
        self, model: Any, feature: jax.Array, label: jax.Array, memory: None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss, and the share of images whose hardest positive beats the hardest negative."""
        row = _mine(jnp.arange(len(label)), self.axis_name)
        logit = model.match(_mine(feature, self.axis_name), feature, train=True)
        same = label[row, None] == label[None, :]
        positive, negative = hardest(logit, same, row[:, None] == jnp.arange(len(label)))
        if self.loss == "triplet":
            loss, right = triplet_loss(positive, negative, self.margin), positive >= negative
        else:
            loss, right = pairwise_loss(logit, same), positive > negative
        counts = jnp.isfinite(loss)
        loss = _total(jnp.where(counts, loss, 0), self.axis_name) / _total(counts, self.axis_name)
        return loss, {"accuracy": _total(right, self.axis_name) / len(label)}


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
    uses_memory, classifies = False, True

    def __call__(
        self, model: Any, feature: jax.Array, label: jax.Array, memory: None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss, the share of images that are classified rightly, and the parts of a sum."""
        mine, own = _mine(feature, self.axis_name), _mine(label, self.axis_name)
        logit = model.classify(mine)
        mean = lambda values: _total(values, self.axis_name) / len(label)  # noqa: E731
        loss = mean(smoothed_cross_entropy(logit, own, self.smoothing))
        stats = {"accuracy": mean(logit.argmax(1) == own)}
        if self.triplet:
            alike = -distances(mine, feature, self.metric)
            same = own[:, None] == label[None, :]
            positive, negative = hardest(alike, same, jnp.zeros_like(same))
            triplet = mean(triplet_loss(positive, negative, self.margin))
            stats |= {"cross_entropy": loss, "triplet": triplet}
            loss = loss + self.triplet * triplet
        return loss, stats


def _mine(values: jax.Array, axis_name: str | None) -> jax.Array:
    """The rows [B / devices, ...] of [B, ...] that this device answers for."""
    if axis_name is None:
        return values
    share = len(values) // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(values, jax.lax.axis_index(axis_name) * share, share)


def _total(values: jax.Array, axis_name: str | None) -> jax.Array:
    """The sum over all devices; of truth values, how many are true."""
    values = values.sum()
    return values if axis_name is None else jax.lax.psum(values, axis_name)


OPTIONS = {
    "class_memory": ("valid_flags",),
    "pairwise": (),
    "triplet": ("margin",),
    "softmax": ("smoothing", "triplet", "margin", "metric"),
}


def make_objective(
    name: str, *, num_classes: int, axis_name: str | None = None, **options: Any
) -> Objective:
    """An objective by name.

    Args:
        name: "class_memory", "pairwise", "triplet" or "softmax".
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
    if name == "softmax":
        check_name(options.get("metric", "euclidean"), METRICS, "objective.metric")
        if not 0 <= options.get("smoothing", 0.1) < 1:
            raise ValueError(f"objective.smoothing is {options['smoothing']}; it is in [0, 1).")
        for option in ("triplet", "margin"):
            if options.get(option, 0) < 0:
                raise ValueError(f"objective.{option} is {options[option]}; it is 0 or more.")
        return SoftmaxObjective(axis_name=axis_name, **options)
    return PairwiseObjective(loss=name, axis_name=axis_name, **options)
