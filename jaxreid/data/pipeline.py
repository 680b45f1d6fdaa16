"""Batches of decoded images from files held in memory, by an order that NumPy computed.

tf.data only decodes, resizes and augments what the order names, so the pipeline has no state worth
saving: a run resumes with the next step of the same order. Every image draws from its own seed,
made of the run's seed, the epoch and its place in the order; a patch of another image comes from
one that the same seed chooses among all of them. The number of processes, restarts and the timing
of threads therefore change no byte of any batch.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from jaxreid.data.images import decoding
from jaxreid.data.images.augmentation import augment as augmented
from jaxreid.data.images.parameters import draw_donor
from jaxreid.data.images.pillow import process_slice
from jaxreid.data.sets.prepared import leave_accelerators
from jaxreid.data.streams import Stream, derived_seed

leave_accelerators(tf)

_PREFETCH = 4  # batches ready in advance


class ImageStore:
    """Encoded image files of one split, held in memory once and shared by all iterators over them.

    Attributes:
        files: tf.string [N], the bytes of the files.
        names: their N names, used in error messages only.
    """

    def __init__(self, images: Sequence[bytes], names: Sequence[str]):
        """Copies the files into one tensor.

        Args:
            images: N JPEG or PNG files as bytes; can be dropped afterwards.
            names: N file names, or what else tells the user which file it is.

        Raises:
            ValueError: no images, or not as many names as images.
        """
        if len(images) != len(names):
            raise ValueError(
                f"{len(images)} images but {len(names)} names: give one name per image"
            )
        if not len(images):
            raise ValueError("no images: an image store needs at least one")
        # Not a NumPy byte string array, which would cut trailing zeros off.
        self.files = tf.constant(list(images), tf.string)
        self.names = list(names)

    def __len__(self) -> int:
        return len(self.names)


def train_batches(
    store: ImageStore,
    labels: np.ndarray,
    order: np.ndarray,
    *,
    height: int,
    width: int,
    augment: Mapping[str, Any] | None,
    seed: int,
    epoch: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    interpolation: str = "bicubic",
) -> Iterator[dict[str, np.ndarray]]:
    """Iterates over the training batches of one epoch, this process' part of each.

    Args:
        store: N encoded images.
        labels: int32 [N], the training class of every image.
        order: int32 [steps, B], the images of every global batch, as samplers.py makes it.
        height: of the images in pixels.
        width: of the images in pixels.
        augment: keywords of `augmentation.augment`, {} for its defaults; None leaves the images as
            they are. Patches come from the images of the store.
        seed: of the run, >= 0.
        epoch: >= 0.
        start: first step wanted; the images of earlier steps are not even decoded.
        process_index: 0..process_count - 1; process i gets the i-th contiguous slice of every
            global batch.
        process_count: must divide B.
        interpolation: "bicubic" or "bilinear".

    Returns:
        An iterator over steps ``start`` .. steps - 1 of {"image": uint8 [B / process_count, height,
        width, 3], "label": int32 [B / process_count]}. The arrays are read-only. Close it to stop
        early; dropping it does the same.

    Raises:
        ValueError: bad arguments; from the iterator: a file that cannot be decoded, with its name.
    """
    labels, order = np.asarray(labels), np.asarray(order)
    if labels.shape != (len(store),):
        raise ValueError(
            f"labels have shape {labels.shape} and must be one per image: ({len(store)},)"
        )
    if order.ndim != 2 or not np.issubdtype(order.dtype, np.integer):
        raise ValueError(
            f"order must be integers of shape [steps, B], not {order.dtype} of {order.shape}"
        )
    if order.size and (order.min() < 0 or order.max() >= len(store)):
        raise ValueError(
            f"order names images {order.min()} to {order.max()}, "
            f"the store holds 0 to {len(store) - 1}"
        )
    steps, batch_size = order.shape
    if not 0 <= start <= steps:
        raise ValueError(f"start is {start} and must be in 0..{steps}, the steps of this epoch")
    part = process_slice(batch_size, process_index, process_count)
    local = part.stop - part.start

    place = np.arange(order.size, dtype=np.int64).reshape(order.shape)
    index = order[start:, part].astype(np.int64)
    place = place[start:, part]
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed {seed} and epoch {epoch} must not be negative")
    key = derived_seed(seed, epoch, Stream.AUGMENTATION).view(np.int64)
    files, load = store.files, _loader(height, width, interpolation, _frozen(augment))
    patched = _is_patched(augment)

    def donor_of(at):
        return draw_donor(tf.stack([key, at]), len(store))

    @tf.autograph.experimental.do_not_convert
    def load_place(i, at):
        donor = [files[donor_of(at)]] if patched else []
        return load(files[i], tf.stack([key, at]), *donor)

    def used(step):
        donors = [int(donor_of(at)) for at in place[step]] if patched else []
        return [*index[step], *donors]

    dataset = tf.data.Dataset.from_tensor_slices((index.reshape(-1), place.reshape(-1)))
    batches = _run(dataset.map(load_place, tf.data.AUTOTUNE, True), local)
    images = _iterate(batches, store, len(index), used)
    return _train_iterator(images, labels.astype(np.int32)[index])


@functools.lru_cache(maxsize=16)
def _loader(height: int, width: int, interpolation: str, augment: tuple | None):
    """Builds (file [], seed int64 [2]) -> uint8 [height, width, 3], traced once for all epochs.

    Where patches are wanted the function takes a third argument, the file of the donor, and decodes
    it only if a patch is pasted.
    """
    patched = augment is not None and _is_patched(dict(augment))

    def read(encoded):
        return decoding.resize(decoding.decode(encoded), height, width, interpolation)

    def load(encoded, seed, *other):
        if augment is None:
            return read(encoded)
        donor = {"donor": lambda: read(*other)} if patched else {}
        return augmented(read(encoded), seed, **dict(augment), **donor)

    file = tf.TensorSpec([], tf.string)
    donor = [file] if patched else []
    # Without autograph: there is nothing to convert, and errors keep their own words.
    function = tf.function(load, autograph=False)
    return function.get_concrete_function(file, tf.TensorSpec([2], tf.int64), *donor)


def _is_patched(augment: Mapping[str, Any] | None) -> bool:
    return bool(augment and augment.get("patch"))


def _frozen(augment: Mapping[str, Any] | None) -> tuple | None:
    """Makes keywords hashable; lists stand for tuples, as in JSON."""
    if augment is None:
        return None
    return tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in sorted(augment.items()))


def _run(dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    dataset = dataset.batch(batch_size, drop_remainder=True)
    return dataset.prefetch(_PREFETCH).with_options(options)


def _train_iterator(images, labels) -> Iterator[dict[str, np.ndarray]]:
    try:
        for image, label in zip(images, labels, strict=True):
            yield {"image": image, "label": label}
    finally:
        images.close()


def _iterate(
    batches: tf.data.Dataset,
    store: ImageStore,
    steps: int,
    used: Callable[[int], Iterable[int]],
) -> Iterator[np.ndarray]:
    """Yield the batches; where one fails, say which of the files it used is broken."""
    iterator = batches.as_numpy_iterator()
    try:
        for step in range(steps):
            try:
                image = next(iterator)
            except tf.errors.InvalidArgumentError as error:
                # tf.data knows nothing of names, but batches arrive in order: look for the file
                # among those of this one.
                broken = _find_broken(store, used(step))
                if broken is None:
                    raise
                raise ValueError(broken) from error
            yield image
    finally:
        del iterator  # the last reference: TensorFlow stops its threads here


def _find_broken(store: ImageStore, index: Iterable[int]) -> str | None:
    for i in index:
        if i < 0:
            continue
        encoded = store.files[int(i)]
        try:
            decoding.decode(encoded)
        except tf.errors.InvalidArgumentError as error:
            # Drop TensorFlow's node names: "{{function_node ...}} reason [Op:...]".
            reason = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message.split("\n")[0]).strip(" .")
            size = len(encoded.numpy())
            return (
                f"cannot decode image {store.names[int(i)]} ({size} bytes): {reason}; "
                "replace or remove the file"
            )
    return None
