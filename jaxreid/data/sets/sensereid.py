"""SenseReID: 1,717 people in a gallery, and 522 of them as queries, for tests only.

4,428 images. They are for research and not distributed here: get them from the authors and unpack
the archive.
"""

import os
import re

from jaxreid.data.sets.files import find_root, folder_source, read_names
from jaxreid.data.sets.records import named_records
from jaxreid.data.sets.source import Source
from jaxreid.places import expanded

_FOLDERS = (".", "SenseReID", "sensereid", "sensereid/SenseReID")
_NAME = re.compile(r"(?P<pid>[0-9]+)_(?P<camera>[0-9]+)(\.[A-Za-z]+)+")
_EXAMPLE = "00001_0.jpg (pid, camera)"
_PUBLISHED = {"query": (522, 1_040), "gallery": (1_717, 3_388)}
_CITATION = """\
@inproceedings{zhao2017spindle,
  title     = {Spindle Net: Person Re-identification with Human Body Region Guided Feature
               Decomposition and Fusion},
  author    = {Zhao, Haiyu and Tian, Maoqing and Sun, Shuyang and Shao, Jing and Yan, Junjie and
               Yi, Shuai and Wang, Xiaogang and Tang, Xiaoou},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {1077--1085},
  year      = {2017}
}
"""


def find(folder: str | os.PathLike, *, combine_all: bool = False) -> Source:
    """Find SenseReID in its unpacked archive, the folder that holds test_probe and test_gallery.

    `00001_0.jpg` is person 1 on camera 0.

    Args:
        folder: holds `test_probe` (or `test_prob`) and `test_gallery`, directly or in one of the
            usual subfolders.
        combine_all: train on all people.

    Returns:
        Splits query and gallery; times unknown.

    Raises:
        FileNotFoundError: the folder does not exist, or a part of the data set is missing.
        ValueError: a part holds no images, or a file name does not follow the pattern.

    Source: Zhao et al., CVPR 2017 (the data set).
    """
    misspelt = any((expanded(folder) / inside / "test_prob").is_dir() for inside in _FOLDERS)
    parts = {"query": "test_prob" if misspelt else "test_probe", "gallery": "test_gallery"}
    root = find_root(folder, "SenseReID", _FOLDERS, parts.values())
    images, notices = read_names(root, parts, _NAME, "SenseReID", _EXAMPLE)
    return folder_source(
        "sensereid",
        root,
        named_records(images, camid=lambda match: int(match["camera"])),
        published=_PUBLISHED,
        combine_all=combine_all,
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )
