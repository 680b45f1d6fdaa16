"""QMUL GRID: 250 people seen by two of eight cameras in a metro station, and 775 images of others.

1,275 images: half of the people for training, the others as queries (probe) and in a gallery with
all images of others. The images are for research and not distributed here: get them from the
authors and unpack the archive.
"""

import os
import pathlib
import re

from jaxreid.data.sets.files import UNPACK_AGAIN, find_root, folder_source, read_names
from jaxreid.data.sets.halves import ALL, check_split, divide
from jaxreid.data.sets.mat import read_mat
from jaxreid.data.sets.source import Record, Source, short_digest

_FOLDERS = (".", "underground_reid", "grid/underground_reid", "GRID", "grid")
_PARTS = {"query": "probe", "gallery": "gallery"}
_SPLITS = "features_and_partitions.mat"
_NAME = re.compile(r"(?P<pid>[0-9]+)_(?P<camera>[1-9][0-9]*)_[^.]*(\.[A-Za-z]+)+")
_EXAMPLE = "0001_1_25004_107_32_106_221.jpeg (pid, camera from 1, frame, box)"
_PUBLISHED = {"train": (125, 250), "query": (125, 125), "gallery": (126, 900)}
_PUBLISHED_ALL = {"query": (250, 250), "gallery": (251, 1_025)}
_CITATION = """\
@inproceedings{loy2009multi,
  title     = {Multi-Camera Activity Correlation Analysis},
  author    = {Loy, Chen Change and Xiang, Tao and Gong, Shaogang},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {1988--1995},
  year      = {2009}
}
"""


def find(folder: str | os.PathLike, *, split: int | str = 0, combine_all: bool = False) -> Source:
    """Find GRID in its unpacked archive, the folder underground_reid.

    `probe/0001_1_25004_107_32_106_221.jpeg` is person 1 on camera 1 (`camid` 0). Images of the
    gallery with pid 0 show others: distractors that stay in the gallery and never train.

    Args:
        folder: holds `probe` and `gallery`, directly or in one of the usual subfolders.
        split: 0 to 9, one of the ten published splits in `features_and_partitions.mat`, 125 people
            for training each; "all": everybody is tested, without that file.
        combine_all: train on all 250 people.

    Returns:
        Splits train (unless `split` is "all"), query and gallery; times unknown.

    Raises:
        FileNotFoundError: the folder does not exist, or a part of the data set is missing.
        ValueError: `split` is out of range, a folder holds no images, a file name does not follow
            the pattern, or the file of splits cannot be read.

    Source: Loy, Xiang and Gong, CVPR 2009 (the data set).
    """
    check_split("grid", split)
    root = find_root(folder, "GRID", _FOLDERS, _PARTS.values())
    trained = [] if split == ALL else _trained(root / _SPLITS, int(split))
    found, notices = read_names(root, _PARTS, _NAME, "GRID", _EXAMPLE)
    records = [
        Record(
            image=file.path,
            name=f"{_PARTS[part]}/{file.name}",
            pid=int(match["pid"]),
            camid=int(match["camera"]) - 1,
        )
        for part, images in found.items()
        for file, match in images
    ]
    return folder_source(
        "grid",
        root,
        divide(records, trained, lambda r: "query" if r.name.startswith("probe/") else "gallery"),
        published=_PUBLISHED_ALL if split == ALL else _PUBLISHED,
        options={"split": f"split{split}", "trained": short_digest(map(str, trained))},
        combine_all=combine_all,
        distractors=(0,),
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )


def _trained(path: pathlib.Path, split: int) -> list[int]:
    """Return the people who train in a published split."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}, which holds the splits of GRID; use grid?split={ALL} to test "
            f"everybody without them. {UNPACK_AGAIN}"
        )
    try:
        splits = read_mat(path, ["trainIdxAll"])["trainIdxAll"].ravel()
        # A cell for each split; the third field of its struct holds the people.
        people = list(splits[split][0, 0].values())[2].ravel().astype(int).tolist()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not hold the splits of GRID ({type(error).__name__}: {error}); expected "
            f"trainIdxAll with ten splits. {UNPACK_AGAIN}"
        ) from error
    return [pid for pid in people if pid != 0]
