"""Images in files that are read on demand."""

from collections.abc import Iterable, Sequence

import numpy as np


class ImageFiles(Sequence):
    """Checked image files; an item is the bytes of a file, read from disk.

    Attributes:
        paths: N paths.
        digests: [N] uint64, of their bytes when they were checked.
        plain: [N] bool, whether TensorFlow decodes them (`formats.is_plain`).
        size: [N, 2] int32, height and width.
    """

    def __init__(
        self, paths: Sequence[str], digests: np.ndarray, plain: np.ndarray, size: np.ndarray
    ) -> None:
        self.paths, self.digests, self.plain, self.size = list(paths), digests, plain, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        """Read one file.

        Raises:
            OSError: it cannot be read; the message names it.
        """
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        try:
            with open(self.paths[index], "rb") as file:
                return file.read()
        except OSError as error:
            raise type(error)(
                f"cannot read {self.paths[index]}: {error.strerror}; expected the image that was "
                "checked before the run. Restore the file, or start again without it."
            ) from error

    def take(self, chosen: Iterable[int]) -> "ImageFiles":
        """Return the files at these indices, in their order."""
        chosen = np.asarray(list(chosen), np.int64)
        columns = (column[chosen] for column in (self.digests, self.plain, self.size))
        return ImageFiles([self.paths[i] for i in chosen], *columns)


def chained(parts: Sequence[Sequence[bytes]]) -> Sequence[bytes]:
    """Return the images of all parts in their order: on disk if all are, else in memory."""
    files = [part for part in parts if isinstance(part, ImageFiles)]
    if len(files) != len(parts):
        return [image for part in parts for image in part]
    columns = ("digests", "plain", "size")
    return ImageFiles(
        [path for part in files for path in part.paths],
        *(np.concatenate([getattr(part, name) for part in files]) for name in columns),
    )
