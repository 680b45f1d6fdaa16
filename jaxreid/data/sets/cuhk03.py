"""CUHK03: 1,467 people, each seen by two cameras of a campus, in the first protocol (1,367/100).

20 published splits of labeled (hand-drawn) or detected boxes: 1,367 people for training; the first
views of the other 100 are queries, and one drawn image of the second view of each the gallery. The
archive is for research and not distributed here: get it from the authors. The newer protocol with
700 people for tests is `cuhk03_np`.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from jaxreid.data.sets.cuhk03_mat import DAMAGED, CellRecords, find_archive, import_h5py, whole
from jaxreid.data.sets.cuhk03_np import BOXES
from jaxreid.data.sets.digests import digests_of
from jaxreid.data.sets.draws import shuffled
from jaxreid.data.sets.files import UNPACK_AGAIN
from jaxreid.data.sets.source import Source, short_digest
from jaxreid.names import check_name

GALLERIES = ("single", "all")

_SPLITS = 20
# People are numbered anew in each of the five pairs of cameras.
_PAIR = 10_000
_CITATION = """\
@inproceedings{li2014deepreid,
  title     = {{DeepReID}: Deep Filter Pairing Neural Network for Person Re-Identification},
  author    = {Li, Wei and Zhao, Rui and Xiao, Tong and Wang, Xiaogang},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2014}
}
"""


def find(
    folder: str | os.PathLike,
    *,
    boxes: str = "detected",
    split: int = 0,
    gallery: str = "single",
    combine_all: bool = False,
) -> Source:
    """Find CUHK03 in its unpacked archive, the folder cuhk03_release with cuhk-03.mat.

    The cell `1_005_2_07.png` is person 5 of camera pair 1 (pid 10005), image 7, which is of the
    second view (`camid` 1).

    Args:
        folder: holds `cuhk03_release/cuhk-03.mat` or `cuhk-03.mat`, directly or in `cuhk03`.
        boxes: `detected` by a pedestrian detector, or `labeled` by hand.
        split: 0 to 19, one of the published splits.
        gallery: `single`: one image of each tested person, drawn by this library for each split;
            papers average over many draws. `all`: all images of the second view.
        combine_all: train on all people.

    Returns:
        Splits train, query and gallery; times unknown.

    Raises:
        FileNotFoundError: the folder does not hold cuhk-03.mat.
        ValueError: an option is out of range, or the archive cannot be read.
        ImportError: h5py is not installed.

    Source: Li et al., CVPR 2014 (the data set and the protocol).
    """
    check_name(boxes, BOXES, "boxes")
    check_name(gallery, GALLERIES, "gallery")
    if isinstance(split, bool) or split not in range(_SPLITS):
        raise ValueError(f"cuhk03?split={split}: expected a split from 0 to {_SPLITS - 1}.")
    archive = find_archive(folder)
    if archive is None:
        raise FileNotFoundError(
            f"no cuhk-03.mat in {os.fspath(folder)!r} (from {os.getcwd()}); expected the folder "
            f"cuhk03_release that holds it, or its parent folder. {UNPACK_AGAIN}"
        )
    cells, tested = _read(archive, boxes, split)
    views = {
        view: [cell for cell in cells if cell.pid in tested and cell.view == view]
        for view in (1, 2)
    }
    parts = {
        "train": cells if combine_all else [cell for cell in cells if cell.pid not in tested],
        "query": views[1],
        "gallery": _one_of_each(views[2], split) if gallery == "single" else views[2],
    }
    options = [boxes, f"split{split}", gallery, *(["all"] if combine_all else [])]
    fingerprint = short_digest([*options, *digests_of([archive], archive.parent)])
    return Source(
        name="cuhk03",
        config="-".join([*options, fingerprint]),
        fingerprint=fingerprint,
        splits={
            part: CellRecords(archive, boxes, tuple((c.name, c.name, c.pid) for c in those))
            for part, those in parts.items()
        },
        description=__doc__,
        citation=_CITATION,
    )


class _Cell(NamedTuple):
    """Image of the archive."""

    pid: int
    view: int
    name: str


def _read(archive: pathlib.Path, boxes: str, split: int) -> tuple[list[_Cell], set[int]]:
    """Return all images of the archive, and the people that a split tests."""
    h5py = import_h5py()
    cells = []
    try:
        # HDF5 has the axes of MATLAB in reverse: cells (10, people), test people (2, 100).
        with h5py.File(archive) as file:
            for pair, reference in enumerate(whole(file[boxes]).ravel(), 1):
                for (image, person), cell in np.ndenumerate(whole(file[reference])):
                    # Where a person has fewer than ten images, a cell is empty.
                    if file[cell].ndim == 3:
                        view = 1 + image // 5
                        name = f"{pair}_{person + 1:03d}_{view}_{image + 1:02d}.png"
                        cells.append(_Cell(pair * _PAIR + person + 1, view, name))
            tested = file[whole(file["testsets"]).ravel()[split]]
            pairs, people = whole(tested).astype(int)
    except DAMAGED as error:
        raise ValueError(
            f"{archive} cannot be read ({type(error).__name__}: {error}); expected the HDF5 file "
            f"of CUHK03 with {boxes} and testsets. {UNPACK_AGAIN}"
        ) from error
    return sorted(cells), set((pairs * _PAIR + people).tolist())


def _one_of_each(cells: list[_Cell], split: int) -> list[_Cell]:
    """Draw an image of each person."""
    by_name = {cell.name: cell for cell in cells}
    drawn = {by_name[n].pid: by_name[n] for n in shuffled(by_name, "cuhk03", str(split))}
    return sorted(drawn.values())
