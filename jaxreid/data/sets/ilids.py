"""QMUL i-LIDS: 119 people in an airport's arrival hall, about four images each.

476 images of various sizes: 59 people for training; of each of the other 60, one drawn image is the
query and another one the gallery. The images are for research and not distributed here: get them
from the authors and unpack the archive.
"""

import os
import re
from collections.abc import Sequence

from jaxreid.data.sets.draws import shuffled
from jaxreid.data.sets.files import folder_source, read_names
from jaxreid.data.sets.halves import ALL, half_split
from jaxreid.data.sets.layouts import find_images
from jaxreid.data.sets.records import named_records
from jaxreid.data.sets.source import Record, Source

_FOLDERS = (
    "i-LIDS_Pedestrian/Persons",
    "ilids/i-LIDS_Pedestrian/Persons",
    "Persons",
    "QMUL-iLIDS/images",
    "images",
    ".",
)
_NAME = re.compile(r"(?P<pid>[0-9]{4})(?!000)(?P<camera>[0-9]{3})(\.[A-Za-z]+)+")
_EXAMPLE = "0001002.jpg (pid, image from 001)"
_PUBLISHED = {"query": (60, 60), "gallery": (60, 60)}
_PUBLISHED_ALL = {"query": (119, 119), "gallery": (119, 119)}
_CITATION = """\
@inproceedings{zheng2009associating,
  title     = {Associating Groups of People},
  author    = {Zheng, Wei-Shi and Gong, Shaogang and Xiang, Tao},
  booktitle = {British Machine Vision Conference (BMVC)},
  year      = {2009}
}
"""


def find(
    folder: str | os.PathLike,
    *,
    split: int | str = 0,
    splits: str | os.PathLike | None = None,
    combine_all: bool = False,
) -> Source:
    """Find i-LIDS in its unpacked archive, the folder i-LIDS_Pedestrian.

    `0001002.jpg` is person 1, image 2. Which camera took it is unknown; as in torchreid, each image
    of a person counts as one of another camera (`camid` 1 here), so that all of them are matches.

    Args:
        folder: holds the images, directly or in one of the usual subfolders.
        split: 0 to 9, a draw of 59 people for training, and of two images of each other person,
            made by this library; "all": everybody is tested, with the draw of split 0.
        splits: torchreid's splits.json, in which `split` counts from 0.
        combine_all: train on all images.

    Returns:
        Splits train (unless `split` is "all"), query and gallery; times unknown.

    Raises:
        FileNotFoundError: a folder or file does not exist.
        ValueError: `split` is out of range, a file name does not follow the pattern, or `splits`
            does not fit the folder.

    Source: Zheng, Gong and Xiang, BMVC 2009 (the data set).
    """
    root = find_images(folder, "i-LIDS", _FOLDERS)
    images, notices = read_names(root, {"all": "."}, _NAME, "i-LIDS", _EXAMPLE)
    records = named_records(images)["all"]
    part = _draw(records, "0" if split == ALL else str(split))
    divided, options = half_split(
        "ilids", records, split, splits, test_part=lambda record: part.get(record.name, "")
    )
    published = _PUBLISHED_ALL if split == ALL else _PUBLISHED
    if combine_all:
        # Not folder_source's combination, which lacks the images that were not drawn.
        divided["train"], published = list(records), published | {"train": (119, 476)}
        options["combine_all"] = "all"
    return folder_source(
        "ilids",
        root,
        divided,
        published=published,
        options=options,
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )


def _draw(records: Sequence[Record], split: str) -> dict[str, str]:
    """Return query and gallery by name: two drawn images of each person."""
    names: dict[int, list[str]] = {}
    for record in records:
        names.setdefault(record.pid, []).append(record.name)
    parts = ("query", "gallery")
    # A person may have a single image, as in a part of the data set.
    return {
        name: part
        for pid, those in names.items()
        for name, part in zip(shuffled(those, "ilids", split, pid), parts, strict=False)
    }
