"""CUHK02: 1,816 people on a campus, each seen twice by both cameras of one of five pairs.

7,264 images of 160 x 60 pixels: the 1,577 people of pairs P1 to P4 for training, the 239 of P5 as
queries (its first camera) and gallery (its second). The images are for research and not distributed
here: get them from the authors and unpack the archive.
"""

import dataclasses
import os
import re

from jaxreid.data.sets.files import find_root, folder_source
from jaxreid.data.sets.layouts import camera_records
from jaxreid.data.sets.source import Source

_FOLDERS = (".", "Dataset", "CUHK02", "cuhk02", "CUHK02/Dataset", "cuhk02/Dataset")
_CAMERAS = [f"P{pair}/cam{camera}" for pair in range(1, 6) for camera in (1, 2)]
_NAME = re.compile(r"(?P<pid>[0-9]{1,6})_[^.]*(\.[A-Za-z]+)+")
_EXAMPLE = "001_01.png (pid, ...)"
# Numbers of people start anew in each pair.
_PAIR = 1_000_000
_PUBLISHED = {"train": (1_577, 6_308), "query": (239, 478), "gallery": (239, 478)}
_CITATION = """\
@inproceedings{li2013locally,
  title     = {Locally Aligned Feature Transforms across Views},
  author    = {Li, Wei and Wang, Xiaogang},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {3594--3601},
  year      = {2013}
}
"""


def find(folder: str | os.PathLike, *, combine_all: bool = False) -> Source:
    """Find CUHK02 in its unpacked archive, the folder Dataset that holds P1 to P5.

    `P3/cam2/012_01.png` is person 12 of pair 3 (pid 3000012) on the second camera of this pair
    (`camid` 5: cameras count through all pairs).

    Args:
        folder: holds `P1/cam1`, `P1/cam2`, ..., `P5/cam2`, directly or in one of the usual
            subfolders.
        combine_all: train on the people of all five pairs, as for domain generalisation.

    Returns:
        Splits train, query and gallery; times unknown.

    Raises:
        FileNotFoundError: the folder does not exist, or a part of the data set is missing.
        ValueError: a part holds no images, or a file name does not follow the pattern.

    Source: Li and Wang, CVPR 2013 (the data set).
    """
    root = find_root(folder, "CUHK02", _FOLDERS, _CAMERAS)
    records, notices = camera_records(root, _CAMERAS, _NAME, "CUHK02", _EXAMPLE)
    records = [dataclasses.replace(r, pid=(r.camid // 2 + 1) * _PAIR + r.pid) for r in records]
    splits = {
        "train": [r for r in records if r.camid < 8],
        "query": [r for r in records if r.camid == 8],
        "gallery": [r for r in records if r.camid == 9],
    }
    return folder_source(
        "cuhk02",
        root,
        splits,
        published=_PUBLISHED,
        combine_all=combine_all,
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )
