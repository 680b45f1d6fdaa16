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

from PIL import Image

from jaxreid.data.sets.files import UNPACK_AGAIN
from jaxreid.data.sets.source import Record
from jaxreid.places import expanded

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
            "cuhk-03.mat is read with h5py, which is not installed; expected it here: "
            "pip install h5py."
        ) from error
    return h5py


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
            # HDF5 has the axes of MATLAB in reverse: cells (10, people), images (3, width, height).
            pairs = [file[reference] for reference in file[self.boxes][()].ravel()]
            for name, cell, pid in self.cells:
                match = _CELL.fullmatch(cell)
                if match is None:
                    raise ValueError(
                        f"{name}: {cell!r} is not a cell of {self.archive}; expected one like "
                        "1_001_1_01.png (camera pair, person, view, image)."
                    )
                pair, person, view, image = map(int, match.groups())
                pixels = file[pairs[pair - 1][image - 1, person - 1]][()].T
                if pixels.ndim != 3:
                    raise ValueError(
                        f"{self.archive}: the cell {cell} of {self.boxes} is empty; expected an "
                        f"image of height x width x 3. {UNPACK_AGAIN}"
                    )
                yield Record(image=_png(pixels), name=name, pid=pid, camid=view - 1)

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
