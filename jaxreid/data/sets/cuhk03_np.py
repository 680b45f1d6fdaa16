"""CUHK03-NP: 1,467 people, each seen by two cameras of a campus, in the new protocol (767/700).

14,096 images in labeled (hand-drawn) or 14,097 in detected boxes: 767 people for training, and 700
others as queries and gallery. The images are distributed by the authors on request, the protocol
with the code of its paper.
"""

import os
import pathlib
import re

from jaxreid.data.sets.cuhk03_mat import CellRecords, find_archive, import_h5py
from jaxreid.data.sets.digests import digests_of
from jaxreid.data.sets.files import find_root, folder_source, read_names
from jaxreid.data.sets.mat import read_mat
from jaxreid.data.sets.records import named_records
from jaxreid.data.sets.source import Source, short_digest
from jaxreid.names import check_name
from jaxreid.places import expanded

BOXES = ("detected", "labeled")

_PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
# `{}` is "detected" or "labeled".
_FOLDERS = (
    ".",
    "{}",
    "cuhk03-np/{}",
    "cuhk03_np/{}",
    "CUHK03-NP/{}",
    "CUHK03_NP/{}",
    "cuhk03_np_{}",
)
_PUBLISHED = {
    "detected": {"train": (767, 7_365), "query": (700, 1_400), "gallery": (700, 5_332)},
    "labeled": {"train": (767, 7_368), "query": (700, 1_400), "gallery": (700, 5_328)},
}
_NAME = re.compile(r"(?P<pid>-1|[0-9]+)_c(?P<camera>[1-9][0-9]*)_[0-9]+(\.[A-Za-z]+)+")
_EXAMPLE = "0001_c1_1.png (pid, camera from 1, number)"
_PROTOCOL = "cuhk03_new_protocol_config_{}.mat"
_CITATION = """\
@inproceedings{li2014deepreid,
  title     = {{DeepReID}: Deep Filter Pairing Neural Network for Person Re-Identification},
  author    = {Li, Wei and Zhao, Rui and Xiao, Tong and Wang, Xiaogang},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2014}
}
@inproceedings{zhong2017reranking,
  title     = {Re-ranking Person Re-identification with k-reciprocal Encoding},
  author    = {Zhong, Zhun and Zheng, Liang and Cao, Donglin and Li, Shaozi},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2017}
}
"""


def find(
    folder: str | os.PathLike, *, boxes: str = "detected", combine_all: bool = False
) -> Source:
    """Find CUHK03-NP in its folder of images, or in the .mat files of CUHK03 and the protocol.

    `0001_c2_7.png` is person 1 on camera 2 (`camid` 1), its image 7.

    Args:
        folder: holds `bounding_box_train`, `query` and `bounding_box_test`, directly or in one of
            the usual subfolders such as `cuhk03-np/detected`. Or holds
            `cuhk03_release/cuhk-03.mat` and `cuhk03_new_protocol_config_detected.mat` (or
            `..._labeled.mat`), directly or in `cuhk03`, which needs h5py.
        boxes: `detected` by a pedestrian detector, or `labeled` by hand.
        combine_all: train on the people of all splits.

    Returns:
        Splits train, query and gallery; without times.

    Raises:
        FileNotFoundError: the folder does not exist, or a part of the data set is missing.
        ValueError: a part holds no images, a file name does not follow the pattern, the folder is
            that of the other boxes, or `boxes` is unknown.
        ImportError: the images are in cuhk-03.mat, and h5py is not installed.

    Source: Li et al., CVPR 2014 (the data set); Zhong et al., CVPR 2017 (the protocol).
    """
    check_name(boxes, BOXES, "boxes")
    candidates = [inside.format(boxes) for inside in _FOLDERS]
    archive = find_archive(folder)
    if archive and not any((expanded(folder) / c / _PARTS["train"]).is_dir() for c in candidates):
        return _from_archive(archive, boxes, combine_all)
    root = find_root(folder, f"CUHK03-NP ({boxes})", candidates, _PARTS.values())
    for other in BOXES:
        if other != boxes and root.resolve().name.endswith(other):
            raise ValueError(
                f"{root} holds {other} boxes by its name, and boxes is {boxes!r}; expected the "
                f"same. Write cuhk03_np?boxes={other}, or give another folder."
            )
    images, notices = read_names(root, _PARTS, _NAME, "CUHK03-NP", _EXAMPLE)
    return folder_source(
        "cuhk03_np",
        root,
        named_records(images),
        published=_PUBLISHED[boxes],
        options={"boxes": boxes},
        combine_all=combine_all,
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )


def _from_archive(archive: pathlib.Path, boxes: str, combine_all: bool) -> Source:
    """Return the source of images in cuhk-03.mat, whose splits the protocol's file lists."""
    import_h5py()
    name = _PROTOCOL.format(boxes)
    protocol = next((p / name for p in archive.parents[:2] if (p / name).is_file()), None)
    if protocol is None:
        raise FileNotFoundError(
            f"no file {name} beside {archive} or in its parent folder; expected the new protocol "
            "of CUHK03. Copy the file there."
        )
    cells = _listed(protocol)
    options = [boxes]
    if combine_all:
        train = ((f"{s}/{c}", c, pid) for s, named in cells.items() for _, c, pid in named)
        cells["train"] = tuple(train)
        options.append("all")
    digests = digests_of([archive, protocol], archive.parent)
    fingerprint = short_digest([*options, *digests])
    return Source(
        name="cuhk03_np",
        config="-".join(["mat", *options, fingerprint]),
        fingerprint=fingerprint,
        splits={split: CellRecords(archive, boxes, named) for split, named in cells.items()},
        description=__doc__,
        citation=_CITATION,
    )


def _listed(protocol: pathlib.Path) -> dict[str, tuple[tuple[str, str, int], ...]]:
    """Return the images of each split as `CellRecords` takes them: names, cells and people."""
    indices = {split: f"{split}_idx" for split in _PARTS}
    try:
        held = read_mat(protocol, ["filelist", "labels", *indices.values()])
        files, labels = ([*held[name].ravel().tolist()] for name in ("filelist", "labels"))
        images = {
            number: (str(file), str(file), int(label))
            for number, (file, label) in enumerate(zip(files, labels, strict=True), 1)
        }
        if not all(0 < person < 2**31 for _, _, person in images.values()):
            raise ValueError("a label is not a whole number from 1 to 2**31 - 1")
        return {
            split: tuple(images[number] for number in held[name].ravel().tolist())
            for split, name in indices.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{protocol} does not hold the new protocol of CUHK03 ({type(error).__name__}: "
            f"{error}); expected filelist, labels and the indices of each split. Copy the file "
            "again."
        ) from error
