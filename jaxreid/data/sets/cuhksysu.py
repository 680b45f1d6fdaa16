"""CUHK-SYSU: 11,934 people in streets and films, cropped from its images for training.

34,574 images. The data set is made for person search: what its authors distribute are whole scenes
with boxes, for research. The crops read here are those that other software shares.
"""

import os
import re

from jaxreid.data.sets.files import folder_source, read_names
from jaxreid.data.sets.layouts import find_images
from jaxreid.data.sets.records import named_records
from jaxreid.data.sets.source import Source

_CROPS = ("cropped_images", "cropped_image")
_PARENTS = ("CUHK-SYSU", "cuhksysu", "cuhk_sysu", "CUHK_SYSU")
_FOLDERS = (*_CROPS, *(f"{parent}/{crops}" for parent in _PARENTS for crops in _CROPS), ".")
_NAME = re.compile(
    r"p(?P<pid>[0-9]+)(_s[0-9]+_[0-9]+|_n[0-9]+_s(?P<scene>[0-9]+)(_[A-Za-z]+[0-9]*)?)"
    r"(\.[A-Za-z]+)+"
)
_EXAMPLE = (
    "p11422_s16929_1.jpg (pid, scene, box) or p00001_n01_s00001_hard0.png (pid, number, scene)"
)
_PUBLISHED = {"train": (11_934, 34_574)}
_CITATION = """\
@inproceedings{xiao2017joint,
  title     = {Joint Detection and Identification Feature Learning for Person Search},
  author    = {Xiao, Tong and Li, Shuang and Wang, Bochao and Lin, Liang and Wang, Xiaogang},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {3415--3424},
  year      = {2017}
}
"""


def find(folder: str | os.PathLike) -> Source:
    """Find CUHK-SYSU's crops, the folder cropped_images or cropped_image.

    `p11422_s16929_1.jpg` (the form of torchreid and fast-reid) is person 11422; all images count as
    one camera (`camid` 0). `p00001_n01_s00001_hard0.png` (the form of MetaBIN) is person 1 in scene
    1, and every scene counts as a camera (`camid` 1).

    Args:
        folder: holds the crops, directly or in one of the usual subfolders.

    Returns:
        Split train; times unknown.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no images.
        ValueError: a file name does not follow the pattern.

    Source: Xiao et al., CVPR 2017 (the data set); Choi et al., CVPR 2021 (MetaBIN's crops).
    """
    root = find_images(folder, "CUHK-SYSU", _FOLDERS)
    images, notices = read_names(root, {"train": "."}, _NAME, "CUHK-SYSU", _EXAMPLE)
    return folder_source(
        "cuhksysu",
        root,
        named_records(images, camid=lambda match: int(match["scene"] or 0)),
        published=_PUBLISHED,
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )
