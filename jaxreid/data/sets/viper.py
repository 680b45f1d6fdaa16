"""VIPeR: 632 people, seen once by each of two cameras, from different sides.

1,264 images of 128 x 48 pixels: half of the people for training, the others as queries (camera A)
and gallery (camera B). The images are for research and not distributed here: get them from the
authors and unpack the archive.
"""

import os
import re
from collections.abc import Mapping, Sequence

from jaxreid.data.sets.files import find_root, folder_source, read_names
from jaxreid.data.sets.halves import ALL, check_split, half_split
from jaxreid.data.sets.layouts import camera_records
from jaxreid.data.sets.records import named_records
from jaxreid.data.sets.source import Record, Source

_FOLDERS = (".", "VIPeR", "viper", "viper/VIPeR")
_CAMERAS = ("cam_a", "cam_b")
_NAME = re.compile(r"(?P<pid>[0-9]+)_[0-9]+(\.[A-Za-z]+)+")
_EXAMPLE = "000_45.bmp (pid, angle)"
# MetaBIN's folders: ten draws, each in four forms.
_FORMS = re.compile(r"([1-9]|10)[abcd]")
_FORM_NAME = re.compile(r"p(?P<pid>[0-9]+)_c(?P<camera>[1-9][0-9]*)_d[0-9]+(\.[A-Za-z]+)+")
_FORM_EXAMPLE = "p000_c1_d045.png (pid, camera from 1, angle)"
_HINT = " Folders split_1a to split_10d are read with viper?split=1a to 10d."
_PUBLISHED = {"train": (316, 632), "query": (316, 316), "gallery": (316, 316)}
_PUBLISHED_ALL = {"query": (632, 632), "gallery": (632, 632)}
_CITATION = """\
@inproceedings{gray2008viewpoint,
  title     = {Viewpoint Invariant Pedestrian Recognition with an Ensemble of Localized Features},
  author    = {Gray, Douglas and Tao, Hai},
  booktitle = {European Conference on Computer Vision (ECCV)},
  pages     = {262--275},
  year      = {2008}
}
"""


def find(
    folder: str | os.PathLike,
    *,
    split: int | str = 0,
    splits: str | os.PathLike | None = None,
    combine_all: bool = False,
) -> Source:
    """Find VIPeR in its unpacked archive, the folder that holds cam_a and cam_b.

    `cam_a/000_45.bmp` is person 0 on camera A (`camid` 0), seen at 45 degrees; the person has the
    same number on camera B (`camid` 1).

    Args:
        folder: holds `cam_a` and `cam_b`, or `split_1a`, ..., directly or in one of the usual
            subfolders.
        split: 0 to 9, a draw of 316 people for training, made by this library; "all": everybody is
            tested. "1a" to "10d": MetaBIN's folders `split_1a/{train,query,gallery}` with names
            such as `p000_c1_d045.png`.
        splits: torchreid's splits.json, in which `split` counts from 0. It has two splits of each
            draw; the second exchanges the cameras.
        combine_all: train on everybody.

    Returns:
        Splits train (unless `split` is "all"), query and gallery; times unknown.

    Raises:
        FileNotFoundError: a folder or file does not exist.
        ValueError: `split` is out of range, a folder holds no images, a file name does not follow
            the pattern, or `splits` does not fit the folder.

    Source: Gray and Tao, ECCV 2008 (the data set); Choi et al., CVPR 2021 (MetaBIN's folders).
    """
    divided: Mapping[str, Sequence[Record]]
    if splits is None and _FORMS.fullmatch(str(split)):
        parts = {part: f"split_{split}/{part}" for part in ("train", "query", "gallery")}
        root = find_root(folder, "VIPeR", _FOLDERS, parts.values())
        images, notices = read_names(root, parts, _FORM_NAME, "VIPeR", _FORM_EXAMPLE)
        divided, options = named_records(images), {"split": f"split{split}"}
    else:
        if splits is None:
            check_split("viper", split, _HINT)
        try:
            root = find_root(folder, "VIPeR", _FOLDERS, _CAMERAS)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}{_HINT}") from error
        records, notices = camera_records(root, _CAMERAS, _NAME, "VIPeR", _EXAMPLE)
        divided, options = half_split("viper", records, split, splits)
    return folder_source(
        "viper",
        root,
        divided,
        published=_PUBLISHED_ALL if split == ALL else _PUBLISHED,
        options=options,
        combine_all=combine_all,
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )
