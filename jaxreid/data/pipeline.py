"""Batches of decoded images, in an order computed by NumPy.

tf.data only decodes, resizes and augments the images of a given order, so the pipeline has no state
to save: a run resumes at the next step of the same order. If a device augments, the images stay as
they are resized, and the random parameters go along. Each image draws from its own seed,
derived from the run seed, the epoch and its position in the order. The same seed chooses the donor
of a pasted patch among all images. Batches therefore do not depend on the number of processes, on
restarts or on thread timing.
"""

import contextlib
import functools
import os
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from jaxreid.data.images import augmentation, decoding
from jaxreid.data.images.formats import is_plain, open_image
from jaxreid.data.images.on_disk import ImageFiles
from jaxreid.data.images.parameters import draw_donor
from jaxreid.data.images.pillow import process_slice, read_image
from jaxreid.data.sets.prepared import leave_accelerators
from jaxreid.data.streams import Stream, derived_seed

leave_accelerators(tf)

# Batches prepared in advance.
_PREFETCH = 4
# A file cannot be decoded, or read.
_FAILED = (
    tf.errors.InvalidArgumentError,
    *(tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.UnknownError),
    *(tf.errors.DataLossError, tf.errors.FailedPreconditionError),
)


class _Form(NamedTuple):
    """Output format of a pipeline.

    Attributes:
        plain: the files are plain (`formats.is_plain`), not of any format.
        height: image height in pixels.
        width: image width in pixels.
        interpolation: resize method.
        augment: keywords of the augmentation, frozen, or None.
        on_device: the device augments.
        decoded: (height, width) of all files, for the device to resize; None: they are resized.
        on_disk: files are given by their paths.
    """

    plain: bool
    height: int
    width: int
    interpolation: str
    augment: tuple | None
    on_device: bool = False
    decoded: tuple[int, int] | None = None
    on_disk: bool = False

    @property
    def patched(self) -> bool:
        """Whether patches of other images are pasted."""
        return bool(self.augment and dict(self.augment).get("patch"))


class ImageStore:
    """Encoded image files of one split, held in memory once or on disk, shared by all iterators.

    It also keeps the pipelines of finished epochs, for the next ones.

    Attributes:
        files: tf.string [N], contents of the files, or their paths.
        on_disk: whether they are paths.
        names: N file names for error messages.
        plain: whether all files are plain (`formats.is_plain`), which TensorFlow decodes itself.
    """

    def __init__(self, images: Sequence[bytes], names: Sequence[str]):
        """Copy N image files, or the paths of `ImageFiles`, into one tensor.

        Raises:
            ValueError: no images, or different numbers of names and images.
        """
        if len(images) != len(names):
            raise ValueError(
                f"{len(images)} images but {len(names)} names: give one name per image"
            )
        if not len(images):
            raise ValueError("no images: expected at least one for an image store")
        self.names, self.on_disk = list(names), isinstance(images, ImageFiles)
        self._images = images if self.on_disk else None
        if isinstance(images, ImageFiles):
            held, self.plain = list(map(os.fsencode, images.paths)), bool(images.plain.all())
        else:
            held, self.plain = list(images), all(map(is_plain, images))
        # Not a NumPy byte string array, which would strip trailing zero bytes.
        self.files = tf.constant(held, tf.string)
        self._idle: dict[tuple[_Form, int], _Pipeline] = {}

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def size(self) -> tuple[int, int] | None:
        """Height and width of all images, or None if they differ or are not plain."""
        if not self.plain:
            return None
        if self._images is not None:
            same = (self._images.size == self._images.size[0]).all()
            return tuple(self._images.size[0].tolist()) if same else None
        sizes = set()
        for file in self.files:
            try:
                width, height = open_image(file.numpy()).size
            except (OSError, ValueError):
                return None
            sizes.add((height, width))
            if len(sizes) > 1:
                return None
        return sizes.pop()

    def read(self, index: int) -> bytes:
        """Return one encoded image.

        Raises:
            OSError: its file cannot be read.
        """
        return self.files[index].numpy() if self._images is None else self._images[index]

    @contextlib.contextmanager
    def pipeline(self, form: _Form, batch_size: int) -> Iterator["_Pipeline"]:
        """Lend a pipeline, which returns here unless its batches are left early or fail."""
        key = (form, batch_size)
        pipeline = self._idle.pop(key, None) or _Pipeline(self.files, form, batch_size)
        yield pipeline
        self._idle[key] = pipeline


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
    on_device: bool = False,
    augmented: bool = True,
) -> Iterator[dict[str, Any]]:
    """Iterate over this process's part of the training batches of one epoch.

    Args:
        store: N encoded images.
        labels: int32 [N], training class of each image.
        order: int32 [steps, B], images of each global batch, as computed by a sampler.
        height: image height in pixels.
        width: image width in pixels.
        augment: keywords of `augmentation.plan`, {} for its defaults; None leaves the images
            unchanged. Patches come from the images of the store.
        seed: run seed, >= 0.
        epoch: >= 0.
        start: first step to return; images of earlier steps are not decoded.
        process_index: 0..process_count - 1; process i gets the i-th contiguous slice of each
            global batch.
        process_count: must divide B.
        interpolation: "bicubic" or "bilinear".
        on_device: leave the images as they are, not even resized if all files have one size with no
            more pixels, and add to each batch the "augmentation" that `device.augment` applies.
        augmented: False marks images that the device does not augment, only resizes.

    Returns:
        An iterator over steps ``start`` .. steps - 1 of {"image": uint8 [B / process_count, height,
        width, 3], "label": int32 [B / process_count]}, and "augmentation" if on_device. The arrays
        are read-only. Close or drop it to stop early.

    Raises:
        ValueError: bad arguments; from the iterator: a file that cannot be decoded, with its name.
    """
    labels, order = np.asarray(labels), np.asarray(order)
    if labels.shape != (len(store),):
        raise ValueError(
            f"labels have shape {labels.shape}; expected one per image: ({len(store)},)"
        )
    if order.ndim != 2 or not np.issubdtype(order.dtype, np.integer):
        raise ValueError(
            f"expected order to be integers of shape [steps, B], got {order.dtype} of shape "
            f"{order.shape}"
        )
    if order.size and (order.min() < 0 or order.max() >= len(store)):
        raise ValueError(
            f"order refers to images {order.min()} to {order.max()}, but the store holds 0 to "
            f"{len(store) - 1}"
        )
    steps, batch_size = order.shape
    if not 0 <= start <= steps:
        raise ValueError(f"start is {start}; expected 0..{steps}, the steps of this epoch")
    part = process_slice(batch_size, process_index, process_count)

    place = np.arange(order.size, dtype=np.int64).reshape(order.shape)
    index = order[start:, part].astype(np.int64)
    place = place[start:, part]
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed {seed} and epoch {epoch} must not be negative")
    key = derived_seed(seed, epoch, Stream.AUGMENTATION).view(np.int64)
    on_device = on_device and augment is not None
    form = _Form(store.plain, height, width, interpolation, _frozen(augment), on_device)
    form = form._replace(on_disk=store.on_disk)
    if on_device and store.size and store.size[0] * store.size[1] <= height * width:
        form = form._replace(decoded=store.size)
    _loader(form)  # reports bad arguments now
    images = _iterate(store, form, index, place, key)
    return _train_iterator(images, labels.astype(np.int32)[index], augmented)


class _Pipeline:
    """Batches of augmented images, in an order that arrives through a queue.

    TensorFlow takes a second to start a pipeline; with the queue, one serves all epochs.

    Args:
        files: tf.string [N].
        form: output format.
        batch_size: images per batch.
    """

    def __init__(self, files: tf.Tensor, form: _Form, batch_size: int) -> None:
        load, patched = _loader(form), form.patched
        queue = tf.queue.FIFOQueue(2**31 - 1, [tf.int64] * 3, [[batch_size], [batch_size], []])
        more = tf.Variable(True)

        @tf.autograph.experimental.do_not_convert
        def step(_):
            index, place, key = queue.dequeue()
            with tf.control_dependencies([key]):  # not while waiting
                return (index, place, tf.fill([batch_size], key)), more.read_value()

        @tf.autograph.experimental.do_not_convert
        def image(index, place, key):
            donor = [files[_donor(key, place, len(files))]] if patched else []
            return load(files[index], tf.stack([key, place]), *donor)

        options = tf.data.Options()
        options.deterministic = True
        # Its thread can hold up the end of a pipeline for as long as it has been idle.
        options.autotune.enabled = False
        steps = tf.data.Dataset.counter().map(step).take_while(_second)
        images = steps.map(_first).unbatch().map(image, os.cpu_count())
        batches = images.batch(batch_size, drop_remainder=True).prefetch(_PREFETCH)
        self._queue, self._iterator = queue, batches.with_options(options).as_numpy_iterator()
        weakref.finalize(self, _stop, self._iterator, queue, more)

    def batches(self, index: np.ndarray, place: np.ndarray, key: np.int64) -> Iterator[Any]:
        """Yield a batch of what `_loader` returns per row of `index` and `place`."""
        self._queue.enqueue_many([index, place, np.full(len(index), key)])
        for _ in index:
            yield next(self._iterator)


# Autograph, which has nothing to convert here, warns on Python 3.13, and keeps what it could not
# convert, with all that it refers to.
_first = tf.autograph.experimental.do_not_convert(lambda first, _: first)
_second = tf.autograph.experimental.do_not_convert(lambda _, second: second)


def _stop(iterator: Iterator, queue: tf.queue.QueueBase, more: tf.Variable) -> None:
    """End a pipeline after the batches in flight; TensorFlow warns if it is still waiting."""
    # Garbage is also collected while a function is traced. An operation would become part of the
    # function, which would then wait for this pipeline whenever it runs.
    with tf.init_scope():
        more.assign(False)
        queue.enqueue([tf.zeros(shape, tf.int64) for shape in queue.shapes])
        while True:
            try:
                next(iterator)
            except StopIteration:
                return
            except _FAILED:
                continue


def _donor(key: np.int64 | tf.Tensor, place: np.int64 | tf.Tensor, count: int) -> tf.Tensor:
    return draw_donor(tf.stack([key, place]), count)


@functools.lru_cache(maxsize=16)
def _loader(form: _Form):
    """Build (file [], seed int64 [2]) -> dictionary of one image, traced once for all epochs.

    The dictionary has "image", uint8 [height, width, 3] or of the size `decoded`, and for the
    device "augmentation", its parameters.

    With patches, the function takes the file of the donor as a third argument and decodes it only
    if a patch is pasted.
    """
    size, settings = (form.height, form.width), dict(form.augment or ())
    decode = decoding.decode_plain if form.plain else decoding.decode

    def read(encoded):
        if form.on_disk:
            encoded = tf.io.read_file(encoded)
        if form.decoded:
            return tf.ensure_shape(decode(encoded), [*form.decoded, 3])
        return decoding.resize(decode(encoded), *size, form.interpolation)

    def load(encoded, seed, *other):
        image = read(encoded)
        if form.augment is None:
            return {"image": image}
        if not form.on_device:
            donor = {"donor": lambda: read(*other)} if form.patched else {}
            return {"image": augmentation.augment(image, seed, **settings, **donor)}
        plan = augmentation.plan(*size, **settings)
        parameters = augmentation.draw(seed, *size, plan)
        if form.patched:
            patch = parameters["patch"]
            none = tf.zeros(image.shape, tf.uint8)
            patch["donor"] = tf.cond(patch["pasted"], lambda: read(*other), lambda: none)
        return {"image": image, "augmentation": parameters}

    file = tf.TensorSpec([], tf.string)
    donor = [file] if form.patched else []
    # Without autograph: there is nothing to convert, and error messages stay as raised.
    function = tf.function(load, autograph=False)
    return function.get_concrete_function(file, tf.TensorSpec([2], tf.int64), *donor)


def _frozen(augment: Mapping[str, Any] | None) -> tuple | None:
    """Make keywords hashable; lists, as from JSON, become tuples."""
    if augment is None:
        return None
    return tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in sorted(augment.items()))


def _train_iterator(images, labels, augmented: bool) -> Iterator[dict[str, Any]]:
    try:
        for batch, label in zip(images, labels, strict=True):
            if "augmentation" in batch:
                batch["augmentation"]["augmented"] = np.full(label.shape, augmented)
            yield {**batch, "label": label}
    finally:
        images.close()


def _iterate(
    store: ImageStore, form: _Form, index: np.ndarray, place: np.ndarray, key: np.int64
) -> Iterator[dict[str, Any]]:
    """Yield the batches; if one fails, report which of the files that it used is broken."""
    if not len(index):
        return
    done = 0
    try:
        with store.pipeline(form, index.shape[1]) as pipeline:
            for batch in pipeline.batches(index, place, key):
                yield batch
                done += 1
    except _FAILED as error:
        # tf.data does not know file names, but batches arrive in order: search the files of this
        # batch.
        donors = [int(_donor(key, at, len(store))) for at in place[done]] if form.patched else []
        if broken := _find_broken(store, [*index[done], *donors]):
            raise ValueError(broken) from error
        raise


def _find_broken(store: ImageStore, index: Iterable[int]) -> str | None:
    for i in index:
        if i < 0:
            continue
        name = store.names[int(i)]
        try:
            encoded = store.read(int(i))
            read_image(encoded, name)
            if store.plain:
                decoding.decode_plain(tf.constant(encoded))
        except (ValueError, OSError) as error:
            return str(error)
        except tf.errors.InvalidArgumentError as error:
            # Drop TensorFlow's node names: "{{function_node ...}} reason [Op:...]".
            reason = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message.split("\n")[0]).strip(" .")
            return f"cannot decode image {name}: {reason}; replace or remove the file"
    return None
