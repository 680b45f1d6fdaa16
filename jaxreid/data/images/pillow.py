"""Reading, resizing and batching images with Pillow, bit-equal to the training pipeline.

Does not need TensorFlow. Training decodes inside tf.data (`decoding`); everything that only uses a
model reads its images here. Both follow the rule of `formats.to_rgb`.
"""

import collections
import contextlib
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image

from jaxreid.data.images.formats import displayed_size, open_image, peculiarity, to_rgb
from jaxreid.data.images.tables import vertical_first

ImageSource = str | os.PathLike | bytes | Image.Image | np.ndarray

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
# Batches decoded in advance.
_READ_AHEAD = 2
_MAX_THREADS = 16
_BROKEN = (Image.DecompressionBombError, struct.error, LookupError, TypeError, ArithmeticError)
# Pillow decodes an opened file on first use, which is not thread-safe.
_LOADING = threading.Lock()


def read_image(source: ImageSource, name: str | None = None) -> np.ndarray:
    """Read one image as RGB, by the rule of `formats.to_rgb`.

    Args:
        source: path of an image file, its bytes, a PIL image, or uint8 [h, w, 3] (RGB), which is
            returned as it is.
        name: name of the image in error messages; by default its path or its kind of source.

    Returns:
        uint8 [h, w, 3] in 0..255.

    Raises:
        OSError: the file cannot be read.
        ValueError: broken image, or an array of another dtype or shape.
        TypeError: not an image.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise ValueError(
                f"image {name or 'array'}: expected uint8 of shape [h, w, 3] (RGB, 0..255), "
                f"got {source.dtype} of shape {list(source.shape)}"
            )
        return source
    if isinstance(source, Image.Image):
        with _decoding(name or "given as a PIL image"), _LOADING:
            return to_rgb(source)
    if isinstance(source, str | os.PathLike):
        name = name or os.fspath(source)
        source = _read_file(source, name)
    if not isinstance(source, bytes | bytearray | memoryview):
        raise TypeError(
            f"{name or 'image'}: expected a path, the bytes of an image file, a PIL image or a "
            f"uint8 array [h, w, 3], got {type(source).__name__}"
        )
    with _decoding(f"{name or 'given as bytes'} ({len(source)} bytes)"):
        return to_rgb(open_image(bytes(source)))


def size_of(source: ImageSource) -> tuple[int, int] | None:
    """Return height and width of an image as `read_image` returns it, from its header alone.

    None for what cannot be read, which `read_image` refuses in words.
    """
    if isinstance(source, np.ndarray):
        return source.shape[:2] if source.ndim == 3 else None
    try:
        if isinstance(source, Image.Image):
            return displayed_size(source)
        if isinstance(source, str | os.PathLike):
            with Image.open(source) as image:
                return displayed_size(image)
        return displayed_size(open_image(bytes(source)))
    except (OSError, SyntaxError, ValueError, *_BROKEN):
        return None


def check_file(data: bytes) -> tuple[np.ndarray, str]:
    """Decode an image file; return its pixels, as `read_image`, and its `formats.peculiarity`.

    Raises:
        ValueError: the file is broken or not an image of an accepted format; the message is the
            reason alone.
    """
    with _reasons():
        image = open_image(data)
        kind = peculiarity(image, data)
        return to_rgb(image), kind


def resize(
    image: np.ndarray, height: int, width: int, interpolation: str = "bicubic"
) -> np.ndarray:
    """Resize one image with any version of Pillow, bit-equal to `decoding.resize` and Pillow 13.

    The image is uint8 [h, w, 3]. Interpolations are "bicubic" (a = -0.5) and "bilinear"; both widen
    the filter when shrinking.

    Returns:
        uint8 [height, width, 3]; the image itself if it already has this size.

    Raises:
        ValueError: size below 1, or unknown interpolation.
    """
    check_format(height, width, interpolation)
    rows, columns = image.shape[:2]
    # Pillow rounds to 8 bits between its two passes, so their order matters, and it differs between
    # versions. Resizing one axis at a time fixes the order to that of version 13.
    rows_first = vertical_first((rows, columns), (height, width))
    middle = (columns, height) if rows_first else (width, rows)
    picture = None
    for size in (middle, (width, height)):
        if size != (columns, rows):
            picture = Image.fromarray(image) if picture is None else picture
            picture = picture.resize(size, INTERPOLATIONS[interpolation])
            columns, rows = size
    return image if picture is None else np.asarray(picture)


def check_format(height: int, width: int, interpolation: str) -> None:
    """Raise ValueError for a size below 1 or an unknown interpolation."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"unknown resize method {interpolation!r}; valid: {', '.join(INTERPOLATIONS)}"
        )
    if height < 1 or width < 1:
        raise ValueError(
            f"cannot resize to height {height}, width {width}: both must be at least 1"
        )


def image_batches(
    images: Sequence[ImageSource],
    names: Sequence[str] | None = None,
    *,
    height: int,
    width: int,
    batch_size: int,
    interpolation: str = "bicubic",
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[np.ndarray]:
    """Iterate over this process's part of the global batches of all images, in order.

    Threads decode ahead of the caller. The last batch is filled up with black images, so that all
    batches have one shape and all processes the same number of batches.

    Args:
        images: N images, see `read_image`.
        names: N names for error messages; None for paths or positions.
        height: height of the result in pixels.
        width: width of the result in pixels.
        batch_size: images per global batch.
        interpolation: "bicubic" or "bilinear".
        process_index: 0..process_count - 1; process i gets the i-th contiguous slice of each
            global batch.
        process_count: must divide batch_size.

    Returns:
        An iterator of ceil(N / batch_size) arrays, uint8 [batch_size / process_count, height,
        width, 3]. Close or drop it to stop early.

    Raises:
        ValueError: bad arguments; from the iterator: a broken image, with its name.
        OSError: from the iterator: a file that cannot be read.
    """
    if names is not None and len(images) != len(names):
        raise ValueError(f"{len(images)} images but {len(names)} names: give one name per image")
    check_format(height, width, interpolation)
    part = process_slice(batch_size, process_index, process_count)
    return _batches(images, names, batch_size, part, (height, width, interpolation))


def process_slice(batch_size: int, process_index: int, process_count: int) -> slice:
    """Return the slice of a global batch that belongs to one process.

    Raises:
        ValueError: the batch cannot be divided, or the process does not exist.
    """
    if process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index is {process_index}; expected 0..{process_count - 1}, "
            f"since process_count is {process_count}"
        )
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch size {batch_size} cannot be divided among {process_count} processes: "
            f"expected a positive multiple of {process_count}"
        )
    local = batch_size // process_count
    return slice(process_index * local, (process_index + 1) * local)


def _batches(images, names, batch_size, part, image_format) -> Iterator[np.ndarray]:
    count, local = len(images), part.stop - part.start
    starts = [first + part.start for first in range(0, count, batch_size)]
    places = (i for start in starts for i in range(start, min(start + local, count)))

    def load(place: int) -> np.ndarray:
        source = images[place]
        name = names[place] if names is not None else None
        if name is None and not isinstance(source, str | os.PathLike):
            name = f"number {place}"
        return resize(read_image(source, name), *image_format)

    pool = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1))
    waiting: collections.deque[Future] = collections.deque()
    try:
        for start in starts:
            batch = np.zeros((local, *image_format[:2], 3), np.uint8)
            for row in range(max(0, min(local, count - start))):
                while len(waiting) <= _READ_AHEAD * local:
                    place = next(places, None)
                    if place is None:
                        break
                    waiting.append(pool.submit(load, place))
                batch[row] = waiting.popleft().result()
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _read_file(path: str | os.PathLike, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise type(error)(
            f"cannot read image {name}: {error.strerror}; expected the path of an image file"
        ) from error


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Convert Pillow's errors on broken images to a ValueError with the reason."""
    try:
        yield
    # Pillow raises all of them on broken files.
    except (OSError, SyntaxError, ValueError, *_BROKEN) as error:
        raise ValueError(str(error) or type(error).__name__) from error


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Convert Pillow's errors on broken images to a ValueError that names the image."""
    try:
        with _reasons():
            yield
    except ValueError as error:
        raise ValueError(
            f"cannot decode image {name}: {error}; replace or remove the file"
        ) from error
