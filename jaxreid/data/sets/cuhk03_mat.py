"""Images of CUHK03's archive cuhk-03.mat, an HDF5 file with one image per cell.

`1_005_2_07.png` names a cell as lists of the data set do: camera pair 1 to 5, person of this pair,
view (camera of the pair) 1 or 2, and image 1 to 10, all from 1.
"""

import dataclasses
import io
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

from jaxreid.data.sets.files import UNPACK_AGAIN
from jaxreid.data.sets.source import Record
from jaxreid.places import expanded

# Errors of reading a damaged file.
DAMAGED = (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError)
# Values of a dataset; the largest of CUHK03 is an image.
_LARGEST = 10_000_000
# Folders below the user's, and the archive in each.
_FOLDERS = (".", "cuhk03", "CUHK03")
_ARCHIVES = ("cuhk03_release/cuhk-03.mat", "cuhk-03.mat")
_CELL = re.compile(
    r"(?P<pair>[1-5])_0*(?P<person>[1-9][0-9]*)_(?P<view>[12])_0*(?P<image>10|[1-9])\.[A-Za-z]+"
)


def find_archive(folder: str | os.PathLike) -> pathlib.Path | None:
    """Return cuhk-03.mat in a folder or its usual subfolders; None without one."""
    paths = (expanded(folder) / inside / name for inside in _FOLDERS for name in _ARCHIVES)
    return next((path for path in paths if path.is_file()), None)


def import_h5py():
    """Return h5py, which reads .mat files of version 7.3.

    Raises:
        ImportError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "cuhk-03.mat is read with h5py, which is not installed: pip install h5py."
        ) from error
    return h5py


def whole(dataset) -> np.ndarray:
    """Return all of a dataset of HDF5.

    Raises:
        ValueError: it is larger than any of CUHK03; a small file can declare such a size.
    """
    if dataset.size > _LARGEST:
        raise ValueError(f"{dataset.name} holds {dataset.size:,} values")
    return dataset[()]


@dataclasses.dataclass(frozen=True)
class CellRecords:
    """Records whose images are decoded cells, encoded as PNG while they are iterated.

    Attributes:
        archive: cuhk-03.mat.
        boxes: "detected" or "labeled".
        cells: name of the record, name of its cell, and person id of each record.
    """

    archive: pathlib.Path
    boxes: str
    cells: tuple[tuple[str, str, int], ...] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[Record]:
        with self._opened() as file:
            pairs = self._pairs(file)
            for name, cell, pid in self.cells:
                match = _CELL.fullmatch(cell)
                if match is None:
                    raise ValueError(
                        f"{name}: {cell!r} is not a cell of {self.archive}; expected one like "
                        "1_001_1_01.png (camera pair, person, view, image)."
                    )
                data = _png(self._pixels(file, pairs, match))
                yield Record(image=data, name=name, pid=pid, camid=int(match["view"]) - 1)

    def _pairs(self, file) -> list:
        """Return the cells of each camera pair, in HDF5's order of axes (10, people)."""
        try:
            return [file[reference] for reference in whole(file[self.boxes]).ravel()]
        except DAMAGED as error:
            raise ValueError(
                f"{self.archive}: {self.boxes} cannot be read ({type(error).__name__}: {error}). "
                f"{UNPACK_AGAIN}"
            ) from error

    def _pixels(self, file, pairs: list, match: re.Match) -> np.ndarray:
        """Return the image of a cell, uint8 [height, width, 3]."""
        pair, person, image = (int(match[part]) - 1 for part in ("pair", "person", "image"))
        where = f"{self.archive}: the cell {match[0]} of {self.boxes}"
        try:
            cell = file[pairs[pair][image, person]]
            is_image = cell.ndim == 3 and cell.shape[0] == 3 and cell.size and cell.dtype == "uint8"
            # HDF5 has the axes of MATLAB in reverse: (3, width, height).
            pixels = whole(cell).T if is_image else None
        except DAMAGED as error:
            raise ValueError(
                f"{where} cannot be read ({type(error).__name__}: {error}). {UNPACK_AGAIN}"
            ) from error
        if pixels is None:
            raise ValueError(
                f"{where} is empty; expected an image of height x width x 3. {UNPACK_AGAIN}"
            )
        return pixels

    def _opened(self):
        try:
            return import_h5py().File(self.archive)
        except OSError as error:
            raise ValueError(
                f"{self.archive}: cannot be read ({error}); expected the HDF5 file of CUHK03. "
                f"{UNPACK_AGAIN}"
            ) from error


def _png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
