"""Which image goes into which batch: index orders of one epoch.

The same labels, arguments, seed and epoch (and graph, of the graph sampler) give the same order on
every machine. A stopped run therefore resumes by computing the order again and skipping what it has
seen. NumPy only.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxreid.data.sampling.alternate import AlternatingSampler
from jaxreid.data.sampling.graph import GraphSampler
from jaxreid.data.sampling.quota import QuotaSampler, check_quota, places, source_seed
from jaxreid.data.sampling.sampler import Sampler
from jaxreid.data.streams import Stream, generator
from jaxreid.names import check_name

NAMES = ("random", "pk", "graph")


class EpochSampler(Sampler):
    """Orders that depend on nothing but the seed and the epoch.

    Args:
        draw: keywords `seed` and `epoch` to int32 [steps, batch_size].
        seed: run seed.
    """

    def __init__(self, draw: Callable[..., np.ndarray], seed: int) -> None:
        self._draw, self._seed = draw, seed
        self.steps_per_epoch = len(draw(seed=seed, epoch=0))

    def order(self, epoch: int, neighbours: np.ndarray | None = None) -> np.ndarray:
        """Order of an epoch, int32 [steps, batch_size]; needs no neighbours."""
        return self._draw(seed=self._seed, epoch=epoch)


def make_sampler(
    name: str,
    labels: np.ndarray,
    *,
    batch_size: int,
    instances: int,
    seed: int,
    sources: np.ndarray | None = None,
    quota: Sequence[int] = (),
    alternate: bool = False,
) -> Sampler:
    """A sampler by name.

    Args:
        name: "random", "pk" or "graph".
        labels: int [N], the training class of every image.
        batch_size: images per global batch.
        instances: images per identity in a batch, of "pk" and "graph".
        seed: of the run, >= 0.
        sources: int [N], the data set of every image, from 0; None for one.
        quota: images of each data set in every batch, in their order; each data set then has a
            sampler of its own (`QuotaSampler`). () draws from all images as if from one set.
        alternate: an epoch of each data set in turn (`AlternatingSampler`).

    Raises:
        ValueError: unknown name, an impossible quota, or what the sampler raises.
    """
    check_name(name, NAMES, "sampler")
    if not len(quota) and not alternate:
        return _sampler_of_one(name, labels, batch_size, instances, seed)
    labels = _check(labels, batch_size, seed, 0)
    if not alternate:
        rows = check_quota(name, quota, sources, len(labels), batch_size, instances)
    elif len(quota):
        raise ValueError(
            f"sampler.quota is {tuple(quota)} and sampler.alternate is True: a batch holds images "
            "of all data sets, or an epoch those of one; set one of them only"
        )
    else:
        rows, quota = places(sources, len(labels)), ()
        if len(rows) < 2:
            raise ValueError(
                "sampler.alternate is True, and there is one data set: give several in data.train, "
                "or set sampler.alternate=False"
            )
    # Numbered anew, since a graph is made of the classes of one data set.
    own = [np.unique(labels[row], return_inverse=True)[1] for row in rows]
    steps = max(int(numbers.max()) + 1 for numbers in own)
    samplers = []
    for source, numbers in enumerate(own):
        count = int(quota[source]) if len(quota) else batch_size
        seed_here = source_seed(seed, source)
        try:
            samplers.append(_sampler_of_one(name, numbers, count, instances, seed_here, steps))
        except ValueError as error:
            where = f"data set {source} of 0 to {len(rows) - 1}"
            where += f", with a quota of {count}" if len(quota) else ""
            raise ValueError(f"{where}: {error}") from error
    return (AlternatingSampler if alternate else QuotaSampler)(samplers, rows)


def _sampler_of_one(
    name: str,
    labels: np.ndarray,
    batch_size: int,
    instances: int,
    seed: int,
    graph_steps: int | None = None,
) -> Sampler:
    """A sampler of one data set."""
    if name == "graph":
        size = {"batch_size": batch_size, "instances": instances, "steps": graph_steps}
        return GraphSampler(labels, **size, seed=seed)
    draw = functools.partial(random_order, labels, batch_size=batch_size)
    if name == "pk":
        draw = functools.partial(pk_order, labels, batch_size=batch_size, instances=instances)
    return EpochSampler(draw, seed)


def random_order(labels: np.ndarray, *, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Every image once, in random order; the last incomplete batch is dropped.

    Args:
        labels: int [N]; only its length matters.
        batch_size: images per global batch.
        seed: of the run, >= 0.
        epoch: >= 0.

    Returns:
        int32 [N // batch_size, batch_size], indices into ``labels``, none twice.

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
    labels: np.ndarray, *, batch_size: int, instances: int, seed: int, epoch: int
) -> np.ndarray:
    """Batches of P identities with K = ``instances`` images each, P = batch_size // K.

    The images of every identity are shuffled and cut into floor(n / K) groups of K (the rest of
    fewer than K images waits for another epoch; at most ``batch_size`` groups). An identity with
    fewer than K images gives one group: all its images, and others of them drawn again. P groups
    make a batch; groups left over at the end are dropped.

    No identity is twice in a batch as long as any arrangement of this many batches allows that:
    each batch draws identities at random, in proportion to the groups they have left, but first
    takes those that need every remaining batch. Where no arrangement exists (few identities),
    batches are filled up with second groups of the largest ones.

    Args:
        labels: int [N], the training class of every image.
        batch_size: images per global batch, a multiple of ``instances``.
        instances: K, images per identity in a batch, >= 1.
        seed: of the run, >= 0.
        epoch: >= 0.

    Returns:
        int32 [steps, batch_size], indices into ``labels``; the K images of a group are neighbours.

    Raises:
        ValueError: batch_size is no multiple of instances, fewer than P groups, or a bad argument.

    Source: QAConv v2.0 random PK sampler, used before its first graph.
    Differs: the original cuts its shuffled list of groups blindly, so an identity can be several
        times in a batch.
    """
    labels = _check(labels, batch_size, seed, epoch)
    if instances < 1 or batch_size % instances:
        raise ValueError(
            f"batch_size {batch_size} must be a multiple of instances {instances}, "
            "and instances at least 1"
        )
    random = generator(seed, epoch, Stream.PK_ORDER)
    groups = _groups(labels, batch_size, instances, random)
    places = batch_size // instances
    left = np.array([len(g) for g in groups])
    if left.sum() < places:
        raise ValueError(
            f"{len(labels)} images give {left.sum()} groups of {instances} images of one identity, "
            f"and a batch needs {places}: lower batch_size or instances"
        )
    steps = int(left.sum()) // places
    order = np.empty((steps, places, instances), np.int32)
    for step in range(steps):
        for place, identity in enumerate(_draw_identities(left, places, steps - step, random)):
            left[identity] -= 1
            order[step, place] = groups[identity][left[identity]]
    return order.reshape(steps, batch_size)


def _groups(labels, batch_size, instances, random) -> list[np.ndarray]:
    """Returns for each identity its groups, int [groups, instances], in random order."""
    by_label = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[by_label])) + 1
    groups = []
    for images in np.split(by_label, bounds):
        if len(images) < instances:
            again = random.choice(images, instances - len(images), replace=True)
            images = np.concatenate([images, again])
        shuffled = random.permutation(images)
        count = min(len(shuffled) // instances, batch_size)
        groups.append(shuffled[: count * instances].reshape(count, instances))
    return groups


def _draw_identities(left, places, batches_left, random) -> np.ndarray:
    """Chooses the identities of one batch, int [places].

    ``left`` counts the groups of each identity. The smallest of exponential variables with rates
    ``left`` is a draw in proportion to ``left``, the next smallest one a draw from the others, and
    so on.
    """
    with np.errstate(divide="ignore"):
        key = random.standard_exponential(len(left)) / left
    key[
        left >= batches_left
    ] *= -1  # these are needed in all batches that are left: take them first
    key[left == 0] = np.inf
    distinct = min(places, np.count_nonzero(left))
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
            f"labels must be integers of shape [N], not {labels.dtype} of {labels.shape}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size} and must be at least 1")
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed {seed} and epoch {epoch} must not be negative")
    return labels
