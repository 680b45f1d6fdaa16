"""ClonedPerson: 5,621 rendered people whose outfits are cloned from photographs.

887,766 images of 24 cameras in 6 places; 763,953 of them, of 4,826 people, are for training. Its
authors distribute it as the archive clonedperson.tar.gz.
"""

import os
import re

from jaxreid.data.sets.files import find_root, folder_source, read_names
from jaxreid.data.sets.records import named_records
from jaxreid.data.sets.source import Source
from jaxreid.names import check_name

CAMERA_RULES = ("scene", "qaconv")

_PARTS = {"train": "train", "query": "test/query", "gallery": "test/gallery"}
_FOLDERS = (".", "clonedperson", "ClonedPerson", "clonedperson/clonedperson")
_FPS = 24
# First camera of each scene; scenes of one place share its four cameras.
_CAMERAS = (0, 0, 0, 4, 4, 8, 12, 12, 12, 12, 16, 16, 20)
_PUBLISHED = {"train": (4_826, 763_953)}
_NAME = re.compile(
    r"(?P<pid>-1|[0-9]+)_s0*(?P<scene>1[0-2]|[0-9])_c(?P<camera>[0-9]+)_f(?P<frame>[0-9]+)"
    r"(\.[A-Za-z]+)+"
)
_EXAMPLE = "700000_s02_c00_f023389.jpg (pid, scene 0 to 12, camera of the scene from 0, frame)"
_CITATION = """\
@inproceedings{wang2022cloning,
  title     = {Cloning Outfits from Real-World Images to {3D} Characters for Generalizable Person
               Re-Identification},
  author    = {Wang, Yanan and Liang, Xuezhi and Liao, Shengcai},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2022}
}
"""


def find(
    folder: str | os.PathLike, *, camera_rule: str = "scene", combine_all: bool = False
) -> Source:
    """Find ClonedPerson in its unpacked archive, the folder that holds train and test.

    `700000_s03_c01_f023389.jpg` is person 700000 on the second camera of scene 3 (`camid` 5), frame
    23389.

    Args:
        folder: holds `train`, `test/query` and `test/gallery`, directly or in one of the usual
            subfolders.
        camera_rule: how cameras are numbered. `scene`: the cameras of each place get numbers of
            their own, 0 to 23. `qaconv`: as in QAConv's code, which takes every scene for scene 2,
            so that cameras of different places count as one and evaluation leaves more out.
        combine_all: train on the people of all splits.

    Returns:
        Splits train, query and gallery; times in seconds at 24 frames per second, comparable within
        a scene.

    Raises:
        FileNotFoundError: the folder does not exist, or a part of the data set is missing.
        ValueError: a part holds no images, a file name does not follow the pattern, or
            `camera_rule` is unknown.

    Source: Wang et al., CVPR 2022 (the data set); Liao and Shao, CVPR 2022 (cameras and times).
    """
    check_name(camera_rule, CAMERA_RULES, "camera_rule")
    root = find_root(folder, "ClonedPerson", _FOLDERS, _PARTS.values())
    images, notices = read_names(root, _PARTS, _NAME, "ClonedPerson", _EXAMPLE)

    def camid(match: re.Match) -> int:
        scene = 2 if camera_rule == "qaconv" else int(match["scene"])
        return _CAMERAS[scene] + int(match["camera"])

    return folder_source(
        "clonedperson",
        root,
        named_records(images, camid=camid, time=lambda match: int(match["frame"]) / _FPS),
        published=_PUBLISHED,
        options={"camera_rule": camera_rule},
        combine_all=combine_all,
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )
