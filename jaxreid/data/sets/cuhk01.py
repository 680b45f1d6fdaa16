"""CUHK01: 971 people on a campus, seen twice by each of two cameras.

3,884 images of 160 x 60 pixels: half of the people for training, the others as queries (camera A)
and gallery (camera B). The images are for research and not distributed here: get them from the
authors and unpack the archive. The same people are in CUHK02: do not train on one and test on the
other.
"""

import os
import re

from jaxreid.data.sets.files import folder_source, read_names
from jaxreid.data.sets.halves import ALL, half_split
from jaxreid.data.sets.layouts import find_images
from jaxreid.data.sets.records import named_records
from jaxreid.data.sets.source import Source

_FOLDERS = ("campus", "CUHK01/campus", "cuhk01/campus", "CUHK01", "cuhk01", ".")
_NAME = re.compile(r"(?P<pid>[0-9]{4})(?!000)(?P<image>[0-9]{3})(\.[A-Za-z]+)+")
_EXAMPLE = "0001003.png (pid, image from 001)"
_PUBLISHED = {"train": (485, 1_940), "query": (486, 972), "gallery": (486, 972)}
_PUBLISHED_ALL = {"query": (971, 1_942), "gallery": (971, 1_942)}
_CITATION = """\
@inproceedings{li2012human,
  title     = {Human Reidentification with Transferred Metric Learning},
  author    = {Li, Wei and Zhao, Rui and Wang, Xiaogang},
  booktitle = {Asian Conference on Computer Vision (ACCV)},
  pages     = {31--44},
  year      = {2012}
}
"""


def find(
    folder: str | os.PathLike,
    *,
    split: int | str = 0,
    splits: str | os.PathLike | None = None,
    combine_all: bool = False,
) -> Source:
    """Find CUHK01 in its unpacked archive, the folder campus.

    `0001003.png` is person 1, image 3. Images 1 and 2 are from camera A (`camid` 0), images 3 and 4
    from camera B (`camid` 1).

    Args:
        folder: holds the images, directly or in one of the usual subfolders.
        split: 0 to 9, a draw of half of the people (485 of 971) for training, made by this library;
            "all": everybody is tested.
        splits: torchreid's splits.json, in which `split` counts from 0. It has two splits of each
            draw; the second exchanges the cameras.
        combine_all: train on everybody.

    Returns:
        Splits train (unless `split` is "all"), query and gallery; times unknown.

    Raises:
        FileNotFoundError: a folder or file does not exist.
        ValueError: `split` is out of range, a file name does not follow the pattern, or `splits`
            does not fit the folder.

    Source: Li, Zhao and Wang, ACCV 2012 (the data set).
    """
    root = find_images(folder, "CUHK01", _FOLDERS)
    images, notices = read_names(root, {"all": "."}, _NAME, "CUHK01", _EXAMPLE)
    records = named_records(images, camid=lambda match: (int(match["image"]) - 1) // 2)["all"]
    divided, options = half_split("cuhk01", records, split, splits)
    return folder_source(
        "cuhk01",
        root,
        divided,
        published=_PUBLISHED_ALL if split == ALL else _PUBLISHED,
        options=options,
        combine_all=combine_all,
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )
