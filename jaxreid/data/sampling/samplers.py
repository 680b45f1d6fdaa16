"""Samplers by name, and the image orders of one epoch.

The same labels, arguments, seed and epoch (and graph, for the graph sampler) give the same order on
every machine. A stopped run therefore resumes by recomputing the order and skipping the steps that
are done. NumPy only.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxreid.data.sampling.alternate import AlternatingSampler
from jaxreid.data.sampling.cameras import camera_groups
from jaxreid.data.sampling.graph import GraphSampler
from jaxreid.data.sampling.quota import QuotaSampler, check_quota, places, source_seed
from jaxreid.data.sampling.sampler import Sampler
from jaxreid.data.streams import Stream, generator
from jaxreid.names import check_name

NAMES = ("random", "pk", "pk_cameras", "graph")
# Samplers of P identities with K images each.
PK = ("pk", "pk_cameras")


class EpochSampler(Sampler):
    """Sampler whose orders depend on nothing but seed and epoch.

    Args:
        draw: maps the keywords `seed` and `epoch` to int32 [steps, batch_size].
        seed: run seed.
    """

    def __init__(self, draw: Callable[..., np.ndarray], seed: int) -> None:
        self._draw, self._seed = draw, seed
        self.steps_per_epoch = len(draw(seed=seed, epoch=0))

    def order(self, epoch: int, neighbours: np.ndarray | None = None) -> np.ndarray:
        """Return the order of an epoch, int32 [steps, batch_size]; ignores neighbours."""
        return self._draw(seed=self._seed, epoch=epoch)


def make_sampler(
    name: str,
    labels: np.ndarray,
    *,
    batch_size: int,
    instances: int,
    seed: int,
    cameras: np.ndarray | None = None,
    sources: np.ndarray | None = None,
    quota: Sequence[int] = (),
    alternate: bool = False,
) -> Sampler:
    """Build a sampler by name.

    Args:
        name: "random", "pk", "pk_cameras" or "graph".
        labels: int [N], training class of each image.
        batch_size: images per global batch.
        instances: images per identity in a batch, for all but "random".
        seed: run seed, >= 0.
        cameras: int [N], camera of each image, for "pk_cameras"; unknown ones, below 0, are one
            more camera.
        sources: int [N], data set of each image from 0; None for a single data set.
        quota: images of each data set in every batch, in their order; each data set then has its
            own sampler (`QuotaSampler`). () draws from all images as if from one set.
        alternate: take epochs from one data set each, in turn (`AlternatingSampler`).

    Raises:
        ValueError: unknown name, an impossible quota, batches of one person, no known camera, or an
            error of the sampler.
    """
    check_name(name, NAMES, "sampler")
    if name == "pk_cameras":
        cameras = check_cameras(cameras, len(labels))
    if name != "random" and batch_size == instances:
        raise ValueError(
            f"batch_size and sampler.instances are both {instances}: every batch would hold one "
            "person, with nobody to tell apart; expected at least two people per batch. Raise "
            "batch_size or lower sampler.instances"
        )
    if not len(quota) and not alternate:
        if name in PK:
            check_two_people(labels, batch_size=batch_size, instances=instances)
        return _sampler_of_one(name, labels, batch_size, instances, seed, cameras=cameras)
    labels = _check(labels, batch_size, seed, 0)
    if not alternate:
        rows = check_quota(name, quota, sources, len(labels), batch_size, instances)
    elif len(quota):
        raise ValueError(
            f"sampler.quota is {tuple(quota)} and sampler.alternate is True: either a batch holds "
            "images of all data sets, or an epoch those of one; set only one of them"
        )
    else:
        rows, quota = places(sources, len(labels)), ()
        if len(rows) < 2:
            raise ValueError(
                "sampler.alternate is True, but there is only one data set: give several in "
                "data.train, or set sampler.alternate=False"
            )
    # Renumber the classes within each data set, since a graph covers a single data set.
    own = [np.unique(labels[row], return_inverse=True)[1] for row in rows]
    steps = max(int(numbers.max()) + 1 for numbers in own)
    samplers = []
    for source, numbers in enumerate(own):
        count = int(quota[source]) if len(quota) else batch_size
        own_seed = source_seed(seed, source)
        try:
            if name in PK and alternate:
                check_two_people(numbers, batch_size=batch_size, instances=instances)
            own_cameras = None if cameras is None else cameras[rows[source]]
            samplers.append(
                _sampler_of_one(name, numbers, count, instances, own_seed, steps, own_cameras)
            )
        except ValueError as error:
            context = f"data set {source} of 0 to {len(rows) - 1}"
            context += f", with a quota of {count}" if len(quota) else ""
            raise ValueError(f"{context}: {error}") from error
    return (AlternatingSampler if alternate else QuotaSampler)(samplers, rows)


def _sampler_of_one(
    name: str,
    labels: np.ndarray,
    batch_size: int,
    instances: int,
    seed: int,
    graph_steps: int | None = None,
    cameras: np.ndarray | None = None,
) -> Sampler:
    """Build the sampler of one data set."""
    if name == "graph":
        size = {"batch_size": batch_size, "instances": instances, "steps": graph_steps}
        return GraphSampler(labels, **size, seed=seed)
    draw = functools.partial(random_order, labels, batch_size=batch_size)
    if name in PK:
        own = {"cameras": cameras if name == "pk_cameras" else None}
        size = {"batch_size": batch_size, "instances": instances}
        draw = functools.partial(pk_order, labels, **size, **own)
    return EpochSampler(draw, seed)


def random_order(labels: np.ndarray, *, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Draw each of N images once, in random order; drop the last incomplete batch.

    Only the length of ``labels`` matters.

    Returns:
        int32 [N // batch_size, batch_size], unique indices into ``labels``.

    Raises:
        ValueError: fewer images than one batch, or a bad argument.

    Source: QAConv v1.x sampler (``shuffle=True, drop_last=True``).
    """
    labels = _check(labels, batch_size, seed, epoch)
    if len(labels) < batch_size:
        raise ValueError(
            f"{len(labels)} images do not fill one batch of {batch_size}: "
            "lower batch_size or add images"
        )
    order = generator(seed, epoch, Stream.RANDOM_ORDER).permutation(len(labels))
    steps = len(labels) // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def pk_order(
    labels: np.ndarray,
    *,
    batch_size: int,
    instances: int,
    seed: int,
    epoch: int,
    cameras: np.ndarray | None = None,
) -> np.ndarray:
    """Draw batches of P identities with K = ``instances`` images each, P = batch_size // K.

    The n images of an identity are shuffled and cut into floor(n / K) groups of K, at most
    ``batch_size`` groups; the remaining images wait for another epoch. An identity with fewer than
    K images gives one group: all its images, filled up with repeated ones. P groups make a batch;
    groups left over at the end are dropped. With ``cameras`` (int [N]), the groups are those of
    `camera_groups`.

    No identity occurs twice in a batch if any arrangement of this many batches allows that: each
    batch first takes the identities that need every remaining batch, then draws others at random
    in proportion to their remaining groups. If no arrangement exists (few identities), batches are
    filled up with second groups of the largest identities; every batch still has two identities if
    any arrangement allows that (`check_two_people`).

    Returns:
        int32 [steps, batch_size], indices into ``labels``; the K images of a group are consecutive.

    Raises:
        ValueError: batch_size is not a multiple of instances, fewer than P groups, or a bad
            argument.

    Source: QAConv v2.0 random PK sampler, used before its first graph.
    Differs: the original cuts its shuffled list of groups without regard to identities, so one can
        occur several times in a batch.
    """
    labels = _check(labels, batch_size, seed, epoch)
    if instances < 1 or batch_size % instances:
        raise ValueError(
            f"batch_size {batch_size} must be a multiple of instances {instances}, "
            "and instances at least 1"
        )
    random = generator(seed, epoch, Stream.PK_ORDER)
    groups = _groups(labels, batch_size, instances, random, cameras)
    places = batch_size // instances
    left = np.array([len(g) for g in groups])
    if left.sum() < places:
        raise ValueError(
            f"{len(labels)} images give {left.sum()} groups of {instances} images of one identity, "
            f"but a batch needs {places}: lower batch_size or instances"
        )
    steps = int(left.sum()) // places
    order = np.empty((steps, places, instances), np.int32)
    for step in range(steps):
        for place, identity in enumerate(_draw_identities(left, places, steps - step, random)):
            left[identity] -= 1
            order[step, place] = groups[identity][left[identity]]
    return order.reshape(steps, batch_size)


def check_cameras(cameras: np.ndarray | None, images: int) -> np.ndarray:
    """Return the cameras of the images, if any of them is known.

    Raises:
        ValueError: no camera is known, or not one for each image.
    """
    cameras = np.full(images, -1) if cameras is None else np.asarray(cameras)
    if cameras.shape != (images,):
        raise ValueError(f"cameras have shape {cameras.shape}; expected one per image: {images}")
    if not (cameras >= 0).any():
        raise ValueError(
            "sampler.name is 'pk_cameras', but no camera of the training images is known; use "
            "sampler.name=pk, or name the cameras of your images (docs/own-cameras.md)"
        )
    return cameras


def check_two_people(labels: np.ndarray, *, batch_size: int, instances: int) -> None:
    """Check that every batch of `pk_order`, in every epoch, can hold at least two people.

    Raises:
        ValueError: too many of the groups are of one person.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or instances < 1:
        # As `pk_order` says.
        return
    people, images = np.unique(labels, return_counts=True)
    groups = np.clip(images // instances, 1, batch_size)
    steps = int(groups.sum()) // max(batch_size // instances, 1)
    others = int(groups.sum() - groups.max(initial=0))
    if others < steps:
        raise ValueError(
            f"{steps - others} of {steps} batches of an epoch would hold one person, with nobody "
            f"to tell apart: {images.max()} of {len(labels)} images are of one of {len(people)} "
            f"people; expected at least two people per batch. Remove images of this person, add "
            "other people, or use sampler.name=random"
        )


def _groups(labels, batch_size, instances, random, cameras=None) -> list[np.ndarray]:
    """Return the groups of each identity, int [groups, instances], in random order."""
    by_label = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[by_label])) + 1
    groups = []
    for images in np.split(by_label, bounds):
        if len(images) < instances:
            again = random.choice(images, instances - len(images), replace=True)
            images = np.concatenate([images, again])
        shuffled = random.permutation(images)
        count = min(len(shuffled) // instances, batch_size)
        if cameras is None:
            groups.append(shuffled[: count * instances].reshape(count, instances))
        else:
            groups.append(shuffled[camera_groups(cameras[shuffled], count, instances)])
    return groups


def _draw_identities(left, places, batches_left, random) -> np.ndarray:
    """Choose the identities of one batch, int [places].

    ``left`` counts the remaining groups of each identity. The smallest of exponential variables
    with rates ``left`` is a draw in proportion to ``left``, the next smallest a draw from the
    others, and so on.
    """
    with np.errstate(divide="ignore"):
        key = random.standard_exponential(len(left)) / left
    # Take those first that need every remaining batch.
    key[left >= batches_left] *= -1
    key[left == 0] = np.inf
    # Where one identity has most of the groups, the others are shared out among the batches.
    others = int(left.sum() - left.max())
    distinct = min(places, np.count_nonzero(left), 1 + max(others - (batches_left - 1), 0))
    chosen = np.argsort(key, kind="stable")[:distinct]
    rest = left.copy()
    rest[chosen] -= 1
    repeated = []
    for _ in range(places - distinct):
        largest = int(np.argmax(rest))
        rest[largest] -= 1
        repeated.append(largest)
    return random.permutation(np.concatenate([chosen, np.array(repeated, chosen.dtype)]))


def _check(labels, batch_size, seed, epoch) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"expected labels to be integers of shape [N], got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed {seed} and epoch {epoch} must not be negative")
    return labels
