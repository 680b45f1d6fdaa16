"""Every image of a data set is decoded once before a run; all broken ones are listed together."""

import collections
import logging
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from jaxreid.data.sets.digests import in_threads
from jaxreid.data.sets.files import check_image, some
from jaxreid.data.sets.source import Record
from jaxreid.data.split import Split

logger = logging.getLogger(__name__)

_LISTED = 10
# Files per task of a thread.
_TASK = 16
_SKIP = "To leave broken images out: --config.data.skip_broken=True (skip_broken=True in Python)."
# Pixels; fewer show nobody.
_LEAST_SIDE = 16


class ImageCheck:
    """Decodes the images of a data set, and collects those that are broken or not plain.

    Args:
        title: data set, for messages.
        agrees: whether training's decoder gives the same pixels for a plain file, given its bytes
            and pixels; None where TensorFlow is not installed.
        skip: leave broken images out with a warning, instead of refusing them.
    """

    def __init__(
        self,
        title: str,
        agrees: Callable[[bytes, np.ndarray], bool] | None = None,
        skip: bool = False,
    ) -> None:
        self._title, self._agrees, self._skip = title, agrees, skip
        self._count = 0
        self._problems: list[str] = []
        self._kinds: dict[str, list[str]] = collections.defaultdict(list)
        self._small: list[str] = []

    def examine(
        self, paths: Sequence[bytes | str | pathlib.Path], names: Sequence[str], each: Callable
    ) -> Iterator[tuple[str, int, int] | None]:
        """Yield how an image file is not plain, its height and width; None if it is broken.

        `each` is called after every file.
        """

        def look(part: Sequence[bytes | str | pathlib.Path]) -> list:
            return [self._decoded(path, "") for path in part]

        for result, name in zip(in_threads(look, paths, _TASK), names, strict=True):
            each()
            if self._noted(result, name):
                _, kind, (height, width) = result
                yield kind, height, width
            else:
                yield None

    def read(self, records: Iterable[Record]) -> Iterator[tuple[Record, bytes]]:
        """Yield the records whose image is whole, with the bytes of the file."""
        for record in records:
            name = record.name if isinstance(record.image, bytes) else ""
            data = self._checked(record.image, record.name, name)
            if data is not None:
                yield record, data

    def look(self, split: Split) -> np.ndarray:
        """Check the images of a split in memory; return the indices of whole ones, int [M]."""
        pairs = enumerate(zip(split.image, split.name, strict=True))
        whole = [i for i, (image, name) in pairs if self._checked(image, name, name) is not None]
        return np.array(whole, np.int64)

    def finish(self) -> None:
        """Report what was found, after the last image.

        Raises:
            ValueError: images are broken; the message counts them and lists the first ten.
        """
        if self._problems:
            rest = len(self._problems) - _LISTED
            lines = self._problems[:_LISTED] + ([f"and {rest} more"] if rest > 0 else [])
            count = f"broken images: {len(self._problems)} of {self._count}"
            listed = "".join(f"\n  {line}" for line in lines)
            if self._skip:
                logger.warning("%s: %s, left out:%s", self._title, count, listed)
            elif len(self._problems) == 1:
                raise ValueError(f"{self._title}: {self._problems[0]} {_SKIP}")
            else:
                raise ValueError(f"{self._title}: {count}:{listed}\n{_SKIP}")
        if self._small:
            logger.warning(
                "%s: fewer than %d pixels wide or high: %d of %d images (%s); remove those that "
                "show nobody",
                *(self._title, _LEAST_SIDE, len(self._small), self._count, some(self._small)),
            )
        for kind, names in self._kinds.items():
            logger.warning(
                "%s: %d of %d images: %s (%s); they are read, but decoded more slowly",
                *(self._title, len(names), self._count, kind, some(names)),
            )

    def _checked(self, image, name: str, shown: str) -> bytes | None:
        result = self._decoded(image, shown, keep=True)
        noted = self._noted(result, name)
        return result[0] if noted and not isinstance(result, ValueError) else None

    def _decoded(self, image, shown: str, keep: bool = False) -> tuple | ValueError:
        try:
            data, kind, size = check_image(image, shown, self._agrees)
        except ValueError as error:
            return error
        return data if keep else None, kind, size

    def _noted(self, result: tuple | ValueError, name: str) -> bool:
        """Note the properties of an image; return whether it is whole."""
        self._count += 1
        if isinstance(result, ValueError):
            self._problems.append(str(result))
            return False
        _, kind, size = result
        if kind:
            self._kinds[kind].append(name)
        if min(size) < _LEAST_SIDE:
            self._small.append(name)
        return True
