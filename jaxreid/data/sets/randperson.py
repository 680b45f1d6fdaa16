"""RandPerson: 8,000 rendered people with random clothes on 19 cameras of 11 scenes.

The subset of 132,145 images that is used for training in the paper. Its authors distribute it as
the archive randperson_subset.
"""

import os
import re

from jaxreid.data.sets.files import folder_source, read_names
from jaxreid.data.sets.layouts import find_images
from jaxreid.data.sets.records import named_records
from jaxreid.data.sets.source import Source

# The innermost first: archives are unpacked into a folder of their own name. The last is the
# folder of the images itself.
_FOLDERS = (
    "randperson/randperson_subset",
    "randperson_subset/randperson_subset",
    "randperson_subset",
    ".",
)
_FPS = 24
# First camera and first frame of each scene.
_CAMERAS = (0, 2, 4, 6, 8, 9, 10, 12, 13, 14, 15)
_START = (
    *(0, 160_000, 340_000, 490_000, 640_000, 1_070_000),
    *(1_330_000, 1_590_000, 1_890_000, 3_190_000, 3_490_000),
)
_PUBLISHED = {"train": (8_000, 132_145)}
# Copies write the scene before the camera, or after it.
_NAME = re.compile(
    r"(?P<pid>-1|[0-9]+)(?=\w*_s0*(?P<scene>10|[0-9])_)(?=\w*_c(?P<camera>[0-9]+)_)"
    r"(_s[0-9]+_c[0-9]+|_c[0-9]+_s[0-9]+)_f(?P<frame>[0-9]+)(\.[A-Za-z]+)+"
)
_EXAMPLE = "000000_s00_c01_f000264.jpg (pid, scene 0 to 10, camera of the scene from 0, frame)"
_CITATION = """\
@inproceedings{wang2020surpassing,
  title     = {Surpassing Real-World Source Training Data: Random {3D} Characters for Generalizable
               Person Re-Identification},
  author    = {Wang, Yanan and Liao, Shengcai and Shao, Ling},
  booktitle = {ACM International Conference on Multimedia},
  year      = {2020}
}
"""


def find(folder: str | os.PathLike) -> Source:
    """Find RandPerson in its unpacked archive, the folder randperson_subset.

    `000000_s03_c01_f000264.jpg` is person 0 on the second camera of scene 3 (`camid` 7), frame 264
    of this scene. Copies that write the camera first (`000000_c01_s03_f000264.jpg`) are read, too.

    Args:
        folder: holds the images, or `randperson_subset`.

    Returns:
        Split train; times in seconds at 24 frames per second, scenes one after the other.

    Raises:
        FileNotFoundError: the folder does not exist or holds no images.
        ValueError: a file name does not follow the pattern.

    Source: Wang et al., ACM MM 2020 (the data set); Liao and Shao, ECCV 2020 (numbers of cameras
        and first frames of scenes).
    """
    root = find_images(folder, "RandPerson", _FOLDERS)
    images, notices = read_names(root, {"train": "."}, _NAME, "RandPerson", _EXAMPLE)
    return folder_source(
        "randperson",
        root,
        named_records(
            images,
            camid=lambda match: _CAMERAS[int(match["scene"])] + int(match["camera"]),
            time=lambda match: (_START[int(match["scene"])] + int(match["frame"])) / _FPS,
        ),
        published=_PUBLISHED,
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )
