"""Batches of classes that look alike to the model: the graph sampler of QAConv-GS.

At the start of an epoch, one image of every class (its anchor) is scored against the anchors of all
other classes. Each class then gives one batch: its nearest classes and itself. The caller computes
the scores. The draws depend only on the seed, the epoch and the graphs so far; `GraphSampler.state`
holds what a checkpoint needs of the past. NumPy only.
"""

from collections.abc import Callable, Mapping

import numpy as np

from jaxreid.data.sampling.sampler import Sampler
from jaxreid.data.streams import Stream, generator


def draw_batches(
    lists: list[list[int]],
    pointer: np.ndarray,
    neighbours: np.ndarray,
    instances: int,
    *,
    shuffle_list: Callable[[list[int]], None],
    shuffle_batches: Callable[[np.ndarray], None],
) -> tuple[np.ndarray, list[list[int]], np.ndarray]:
    """Draw a batch for each class.

    Each class has a list of its images and a pointer into it. Images are taken at the pointer,
    which then advances; after the last image the list is shuffled and read from the start. Every
    image of a class is thus used once before any is used again. A batch that crosses the end of a
    list can hold an image twice, and always does if the class has fewer than K images.

    Args:
        lists: images of each of C classes, in the order of use.
        pointer: int [C], next position in each list.
        neighbours: int [C, P - 1], nearest classes of each class.
        instances: K, images per class in a batch.
        shuffle_list: shuffles the list of one class in place.
        shuffle_batches: shuffles the rows of int32 [C, P * K] in place.

    Returns:
        The order, int32 [C, P * K], each row with K images of every neighbour, then of the class
        itself; and the new lists and pointer (the arguments are not changed).

    Source: arXiv 2104.01546 (CVPR 2022), section 3; the pointers are those of the original code.
    """
    lists, pointer = [list(images) for images in lists], np.asarray(pointer).tolist()
    anchors = np.arange(len(lists), dtype=np.int32)
    drawn = []
    for label in np.column_stack([neighbours, anchors]).ravel().tolist():
        images, place = lists[label], pointer[label]
        for _ in range(instances):
            drawn.append(images[place])
            place += 1
            if place == len(images):
                shuffle_list(images)
                place = 0
        pointer[label] = place
    order = np.array(drawn, np.int32).reshape(len(lists), -1)
    shuffle_batches(order)
    return order, lists, np.array(pointer, np.int32)


class GraphSampler(Sampler):
    """Graph sampler: yields the orders of consecutive epochs and resumes from its `state`.

    With P = batch_size / instances, a batch holds a class and its P - 1 nearest ones, all distinct,
    with K = ``instances`` images each. Lists and pointers (`draw_batches`) carry over between
    epochs, and between the rounds of an epoch with more batches than classes.
    With several processes, each has its own sampler, and all must receive the same graph.

    Args:
        labels: int [N], class of each image; classes 0 to C - 1 have at least one each.
        batch_size: images per global batch, a multiple of ``instances``.
        instances: K, images per class in a batch, >= 2.
        steps: batches per epoch, at least C; None for C, one per class. More steps take several
            rounds over all classes, the last of them cut short.

    Raises:
        ValueError: a bad argument, or fewer classes than a batch needs.

    Source: arXiv 2104.01546 (CVPR 2022), section 3; the sampler of QAConv v2.1.
    Differs: the original draws from the global generators of the process and cannot resume.
    """

    def __init__(
        self,
        labels: np.ndarray,
        *,
        batch_size: int,
        instances: int,
        seed: int,
        steps: int | None = None,
    ) -> None:
        self._labels = labels = _check_labels(labels)
        classes = int(labels.max()) + 1
        if instances < 2 or batch_size % instances or batch_size < 2 * instances:
            raise ValueError(
                f"batch_size {batch_size} must be a multiple of instances {instances}, at least "
                "twice as large, and instances at least 2: a batch needs pairs of the same "
                "identity and of different ones"
            )
        places = batch_size // instances
        if places > classes:
            raise ValueError(
                f"there are {classes} identities, but a batch of {batch_size} with {instances} "
                f"images each needs {places}: lower batch_size to at most {classes * instances}"
            )
        if seed < 0:
            raise ValueError(f"seed {seed} must not be negative")
        if steps is not None and steps < classes:
            raise ValueError(f"steps is {steps}; expected at least {classes}, one batch per class")
        self.steps_per_epoch = classes if steps is None else steps
        self.neighbour_count = places - 1
        self._instances = instances
        self._seed = seed
        self._counts = np.bincount(labels)
        self._starts = np.cumsum(self._counts) - self._counts
        lists = self._cut(np.argsort(labels, kind="stable"))
        shuffle = self._random(0, Stream.GRAPH_INITIAL_LISTS).shuffle
        for images in lists:
            shuffle(images)
        self._epoch = -1
        self._start = lists, np.zeros(classes, np.int32)
        self._neighbours = np.full((classes, places - 1), -1, np.int32)
        self._order, self._end = None, self._start

    def anchors(self, epoch: int) -> np.ndarray | None:
        """Draw an image of each class, int32 [C]; None for the current epoch.

        Raises:
            ValueError: neither the current epoch nor the next one.
        """
        self._check_epoch(epoch)
        if epoch == self._epoch:
            return None
        lists, _ = self._end
        place = self._random(epoch, Stream.GRAPH_ANCHORS).integers(0, self._counts)
        return np.array([images[i] for images, i in zip(lists, place, strict=True)], np.int32)

    def order(self, epoch: int, neighbours: np.ndarray | None = None) -> np.ndarray:
        """Return the order of the current epoch, or of the next one, which becomes the current one.

        Args:
            epoch: the epoch last requested or restored, or the one after it; 0 at first.
            neighbours: int [C, P - 1], nearest classes of each class, required for a new epoch.

        Returns:
            int32 [steps, batch_size], indices into ``labels``. Each K consecutive images are of one
            class; the last K are of the class that the batch belongs to.

        Raises:
            ValueError: another epoch, or invalid neighbours. The sampler is unchanged.
        """
        self._check_epoch(epoch)
        if epoch > self._epoch:
            if neighbours is None:
                raise ValueError(
                    f"epoch {epoch} is new and needs neighbours: the nearest classes of its anchors"
                )
            self._hold(epoch, *self._end, self._check_neighbours(neighbours))
        return self._order.copy()

    def _check_epoch(self, epoch: int) -> None:
        if epoch < 0 or epoch not in (self._epoch, self._epoch + 1):
            valid = f"the current epoch is {self._epoch}, request it or epoch {self._epoch + 1}"
            raise ValueError(
                f"epoch {epoch} cannot be drawn: "
                + ("a new sampler starts at epoch 0" if self._epoch < 0 else valid)
                + "; to continue elsewhere, restore the state of that epoch"
            )

    def state(self) -> dict[str, np.ndarray]:
        """Return the state of the current epoch.

        Returns:
            "epoch" int32 [], -1 before the first; "images" int32 [N], the concatenated lists of all
            classes, and "pointer" int32 [C], both at the start of the epoch; "neighbours" int32
            [C, P - 1], the graph of the epoch (-1 before the first).
        """
        lists, pointer = self._start
        return {
            "epoch": np.array(self._epoch, np.int32),
            "images": np.concatenate(lists).astype(np.int32),
            "pointer": pointer.copy(),
            "neighbours": self._neighbours.copy(),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the `state` of a sampler with the same arguments.

        Raises:
            ValueError: the state belongs to other images or arguments. The sampler is unchanged.
        """
        expected = self.state()
        if set(state) != set(expected):
            raise ValueError(
                f"expected a sampler state with the keys {sorted(expected)}, got {sorted(state)}"
            )
        arrays = {key: np.asarray(value) for key, value in state.items()}
        for key, value in expected.items():
            if arrays[key].shape != value.shape or arrays[key].dtype.kind != "i":
                raise ValueError(
                    f"{key} is {arrays[key].dtype} {arrays[key].shape}; expected {value.dtype} "
                    f"{value.shape}: the state belongs to other data or other batch settings"
                )
        epoch, images = int(arrays["epoch"]), arrays["images"]
        same_images = np.array_equal(np.sort(images), np.arange(len(images)))
        if not same_images or (np.diff(self._labels[images]) < 0).any():
            raise ValueError(
                "images does not list the images class by class: the state may belong to other "
                "labels"
            )
        if ((arrays["pointer"] < 0) | (arrays["pointer"] >= self._counts)).any():
            raise ValueError(
                "pointer is outside the list of a class: the state may belong to other labels"
            )
        if epoch < -1:
            raise ValueError(f"epoch {epoch} must be at least 0, or -1 before the first epoch")
        lists, pointer = self._cut(images), arrays["pointer"].astype(np.int32)
        if epoch >= 0:
            self._hold(epoch, lists, pointer, self._check_neighbours(arrays["neighbours"]))
            return
        self._epoch, self._order = -1, None
        self._neighbours = np.full_like(self._neighbours, -1)
        self._start = self._end = lists, pointer

    def _hold(self, epoch, lists, pointer, neighbours):
        shuffles = {
            "shuffle_list": self._random(epoch, Stream.GRAPH_LISTS).shuffle,
            "shuffle_batches": self._random(epoch, Stream.GRAPH_BATCHES).shuffle,
        }
        orders, end = [], (lists, pointer)
        for _ in range(-(-self.steps_per_epoch // len(neighbours))):
            order, *end = draw_batches(*end, neighbours, self._instances, **shuffles)
            orders.append(order)
        self._epoch, self._start, self._neighbours = epoch, (lists, pointer), neighbours
        self._order, self._end = np.concatenate(orders)[: self.steps_per_epoch], end

    def _check_neighbours(self, neighbours) -> np.ndarray:
        neighbours = np.asarray(neighbours)
        integers = np.issubdtype(neighbours.dtype, np.integer)
        if neighbours.shape != self._neighbours.shape or not integers:
            raise ValueError(
                f"expected neighbours to be integers {self._neighbours.shape}, "
                f"got {neighbours.dtype} {neighbours.shape}"
            )
        classes = len(neighbours)
        batch = np.sort(np.column_stack([neighbours.astype(np.int64), np.arange(classes)]))
        wrong = (batch[:, 0] < 0) | (batch[:, -1] >= classes) | (np.diff(batch) == 0).any(1)
        if wrong.any():
            label = int(np.argmax(wrong))
            raise ValueError(
                f"the neighbours of class {label} are {neighbours[label].tolist()}; expected "
                f"distinct classes from 0 to {classes - 1}, and not {label} itself"
            )
        # astype copies, so later changes by the caller have no effect.
        return neighbours.astype(np.int32)

    def _cut(self, images) -> list[list[int]]:
        """Split the concatenated lists of all classes, int [N], into one per class."""
        return [part.tolist() for part in np.split(images, self._starts[1:])]

    def _random(self, epoch: int, stream: Stream) -> np.random.Generator:
        return generator(self._seed, epoch, stream)


def _check_labels(labels) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        raise ValueError(
            f"expected labels to be integers of shape [N], N >= 1, got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    if labels.min() < 0:
        raise ValueError(f"expected labels to be classes from 0, got {labels.min()}")
    present = np.unique(labels)
    if present[-1] >= len(present):
        empty = int(np.argmax(present != np.arange(len(present))))
        raise ValueError(f"class {empty} of 0 to {present[-1]} has no image: renumber the classes")
    # astype copies, so later changes by the caller have no effect.
    return labels.astype(np.int64)
