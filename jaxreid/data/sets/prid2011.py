"""PRID 2011: 200 people seen by two cameras over streets, and 734 seen by one of them.

The single-shot images of 128 x 64 pixels: half of the 200 people for training, the others as
queries (camera A) and in a gallery (camera B) with the 549 people that only camera B saw. The
images are for research and not distributed here: get them from the authors and unpack the archive.
"""

import os
import re

from jaxreid.data.sets.files import find_root, folder_source
from jaxreid.data.sets.halves import ALL, half_split
from jaxreid.data.sets.layouts import camera_records
from jaxreid.data.sets.source import Source

_FOLDERS = (
    ".",
    "single_shot",
    "prid_2011/single_shot",
    "prid2011/single_shot",
    "prid2011/prid_2011/single_shot",
)
_CAMERAS = ("cam_a", "cam_b")
_NAME = re.compile(r"person_(?P<pid>[0-9]+)(\.[A-Za-z]+)+")
_EXAMPLE = "person_0001.png (pid)"
# From 201 on, a number means one person on camera A and another on camera B.
_ALONE = range(201, 10_000)
_PUBLISHED = {"train": (100, 200), "query": (100, 100), "gallery": (649, 649)}
_PUBLISHED_ALL = {"query": (200, 200), "gallery": (749, 749)}
_CITATION = """\
@inproceedings{hirzer2011person,
  title     = {Person Re-identification by Descriptive and Discriminative Classification},
  author    = {Hirzer, Martin and Beleznai, Csaba and Roth, Peter M. and Bischof, Horst},
  booktitle = {Scandinavian Conference on Image Analysis (SCIA)},
  pages     = {91--102},
  year      = {2011}
}
"""


def find(
    folder: str | os.PathLike,
    *,
    split: int | str = 0,
    splits: str | os.PathLike | None = None,
    combine_all: bool = False,
) -> Source:
    """Find PRID 2011 in its unpacked archive, the folder that holds single_shot.

    `cam_a/person_0001.png` is person 1 on camera A (`camid` 0), and on camera B (`camid` 1) under
    the same name. People from 201 on never train: they are distractors in the gallery (camera B) or
    left out (camera A).

    Args:
        folder: holds `cam_a` and `cam_b`, directly or in one of the usual subfolders.
        split: 0 to 9, a draw of 100 people for training, made by this library; "all": all 200
            people are tested.
        splits: torchreid's splits.json, in which `split` counts from 0.
        combine_all: train on all 200 people.

    Returns:
        Splits train (unless `split` is "all"), query and gallery; times unknown.

    Raises:
        FileNotFoundError: a folder or file does not exist.
        ValueError: `split` is out of range, a folder holds no images, a file name does not follow
            the pattern, or `splits` does not fit the folder.

    Source: Hirzer et al., SCIA 2011 (the data set and its protocol).
    """
    root = find_root(folder, "PRID 2011", _FOLDERS, _CAMERAS)
    records, notices = camera_records(root, _CAMERAS, _NAME, "PRID 2011", _EXAMPLE)
    records = [record for record in records if record.camid == 1 or record.pid not in _ALONE]
    divided, options = half_split("prid2011", records, split, splits, distractors=_ALONE)
    return folder_source(
        "prid2011",
        root,
        divided,
        published=_PUBLISHED_ALL if split == ALL else _PUBLISHED,
        options=options,
        combine_all=combine_all,
        distractors=_ALONE,
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )
