"""Atomic writes; errors name the file."""

import contextlib
import errno
import io
import math
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np
from numpy.typing import DTypeLike

from jaxreid.places import is_remote


def replace_file(path: pathlib.Path, content: bytes, *, lasting: bool = True) -> None:
    """Write a file atomically: readers see the old content or the new, never a part.

    The directory of `path` must exist. An object store replaces an object as a whole.

    Unless `lasting`, the disk is not waited for, so that a power cut may leave an empty file: for
    many small files that can be made again.

    Raises:
        OSError: the file cannot be written; the old content is still there.
    """
    with replacing(path, lasting=lasting) as file:
        put(file, content)


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, lasting: bool = True) -> Iterator[IO[bytes]]:
    """Yield a file to write, which takes the place of `path` at the end of the context.

    For content that is too large to be held twice; otherwise as `replace_file`.
    """
    if is_remote(path):
        with explained(path):
            yield (content := io.BytesIO())
            path.write_bytes(content.getvalue())
        return
    # Processes that write the same file at once, such as a training and an evaluation, each have
    # a partial file of their own.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    with explained(path):
        try:
            with partial.open("xb") as file:
                yield file
                if lasting:
                    file.flush()
                    _sync(file)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


def append(path: pathlib.Path, content: bytes) -> None:
    """Append to a file that exists: all of the content, or nothing.

    Objects of a store cannot grow: the whole is written again, without what another process
    appends in the same moment.

    Raises:
        OSError: the file cannot be written, or has been deleted; the message names it.
    """
    if is_remote(path):
        with explained(path):
            path.write_bytes(path.read_bytes() + content)
        return
    # Opened every time: a training that starts replaces the files that an evaluation appends to.
    opener = lambda name, _: os.open(name, os.O_WRONLY | os.O_APPEND)  # noqa: E731
    with explained(path), open(path, "ab", buffering=0, opener=opener) as file:
        end = os.fstat(file.fileno()).st_size
        try:
            put(file, content)
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def remove_tree(path: pathlib.Path) -> None:
    """Delete a folder with all that is in it, if it exists."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.rmtree()


@contextlib.contextmanager
def local_copy(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a path with the content of a file for libraries that open local files alone."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy


def array_in_file(
    shape: tuple[int, ...], dtype: DTypeLike, folder: str | os.PathLike | None
) -> np.ndarray:
    """Return an array [shape] that lies in a file without a name, gone with the array.

    Args:
        shape: shape of the array.
        dtype: its dtype.
        folder: folder of the file; None: the system's folder for temporary files.

    Raises:
        OSError: there is not enough room, or no access; the message names the folder.
    """
    where = pathlib.Path(folder or tempfile.gettempdir())
    with explained(where), tempfile.TemporaryFile(dir=where) as file:
        if hasattr(os, "posix_fallocate"):
            # Room is taken now: a disk that is full later would kill the process in a write.
            size = math.prod(shape) * np.dtype(dtype).itemsize
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, dtype, "w+", shape=shape)


def put(file: IO[bytes], content: bytes) -> None:
    """Write to an open file and flush; everything that a run writes passes here."""
    rest = memoryview(content)
    while rest:
        # Without a buffer, a nearly full disk takes a part.
        rest = rest[file.write(rest) :]
    file.flush()


def _sync(file: IO[bytes]) -> None:
    # After a power cut, the name must not stand for content that was never written.
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
    """Raise an OSError of the context again, as a sentence with the path and a remedy.

    Every error of a store becomes one: its package has its own kinds.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not is_remote(path):
            raise
        reason = getattr(error, "strerror", None) or error
        kind = type(error) if isinstance(error, OSError) else OSError
        raise kind(
            f"cannot write {path}: {reason}. Make room or give access there, or name another "
            "place, and repeat the command; what was written before is whole."
        ) from error
