"""MSMT17: 4,101 people seen by fifteen cameras on a campus, on four days of a month.

126,441 images, cropped by a pedestrian detector: 1,041 people for training, 3,060 others as queries
and gallery. Version 1, and version 2 with blurred faces, are distributed by the authors on request.
"""

import os
import pathlib
import re
from collections.abc import Collection, Sequence

from jaxreid.data.images.formats import SUFFIXES
from jaxreid.data.sets.files import UNPACK_AGAIN, find_root, folder_source, some
from jaxreid.data.sets.source import Record, Source
from jaxreid.names import check_name
from jaxreid.places import expanded

TRAIN_SPLITS = ("trainval", "train")

# Folders of the images for training and for testing.
_VERSIONS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))
_FOLDERS = (
    ".",
    "MSMT17_V1",
    "MSMT17_V2",
    "MSMT17",
    "MSMT17/MSMT17_V1",
    "MSMT17/MSMT17_V2",
    "msmt17",
    "msmt17/MSMT17_V1",
    "msmt17/MSMT17_V2",
    "msmt",
)
_PUBLISHED = {"query": (3_060, 11_659), "gallery": (3_060, 82_161)}
_PUBLISHED_TRAIN = {"trainval": (1_041, 32_621), "train": (1_041, 30_248)}
_EXAMPLE = "0000/0000_045_12_0303morning_0006_2.jpg 0"
_LINE = re.compile(
    r"(?P<name>([^/\s]+/)*[0-9]+_[0-9]+_0*(?P<camera>[1-9][0-9]{0,8})_[^/\s]+\.[A-Za-z]+)"
    r"\s+(?P<pid>[0-9]{1,9})"
)
_CITATION = """\
@inproceedings{wei2018person,
  title     = {Person Transfer {GAN} to Bridge Domain Gap for Person Re-Identification},
  author    = {Wei, Longhui and Zhang, Shiliang and Gao, Wen and Tian, Qi},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2018}
}
"""


def find(
    folder: str | os.PathLike, *, train_split: str = "trainval", combine_all: bool = False
) -> Source:
    """Find MSMT17 in its unpacked archive, the folder that holds list_train.txt.

    The lists name images and people: `0000/0000_045_12_0303morning_0006_2.jpg 0` is person 0 on
    camera 12 (`camid` 11). The files themselves may have other suffixes, as copies of version 2
    have.

    Args:
        folder: holds the four lists and `train` and `test`, or `mask_train_v2` and `mask_test_v2`;
            directly or in one of the usual subfolders.
        train_split: `trainval`: train on list_train.txt and list_val.txt, which share their people,
            as QAConv, TransMatcher and TransReID do. `train`: on list_train.txt alone, as torchreid
            and FastReID do.
        combine_all: train on the images of all four lists.

    Returns:
        Splits train, query and gallery; without times. People of query and gallery are numbered
        from 0, too, and with `combine_all` train as the numbers after those of the training people.

    Raises:
        FileNotFoundError: the folder does not exist; or a part of the data set, a list or a listed
            image is missing.
        ValueError: a line of a list is not "path pid", a list names no images or one twice, both
            versions are there, or `train_split` is unknown.

    Source: Wei et al., CVPR 2018 (the data set); Liao and Shao, ECCV 2020 (all images).
    """
    check_name(train_split, TRAIN_SPLITS, "train_split")
    if combine_all:
        train_split = "trainval"
    root, (train, test) = _find_version(expanded(folder))
    splits = {
        "train": _listed(root, train, ["train", "val"] if train_split == "trainval" else ["train"]),
        "query": _listed(root, test, ["query"]),
        "gallery": _listed(root, test, ["gallery"]),
    }
    return folder_source(
        "msmt17",
        root,
        splits,
        published={"train": _PUBLISHED_TRAIN[train_split], **_PUBLISHED},
        options={"train_split": train_split},
        combine_all=combine_all,
        test_pids_from=1 + max(record.pid for record in splits["train"]),
        description=__doc__,
        citation=_CITATION,
    )


def _find_version(folder: pathlib.Path) -> tuple[pathlib.Path, tuple[str, str]]:
    """Return the folder of the lists, and the names of the folders of images."""

    def held(version: tuple[str, str], inside: str) -> int:
        return sum((folder / inside / part).is_dir() for part in version)

    roots = {v: folder / f for v in _VERSIONS for f in reversed(_FOLDERS) if held(v, f) == len(v)}
    if len(roots) > 1:
        parts = " and ".join(str(root / version[0]) for version, root in roots.items())
        raise ValueError(
            f"{folder} holds both versions of MSMT17, {parts}; expected one. Give the folder of "
            "one, or move the other away."
        )
    version = max(_VERSIONS, key=lambda v: max(held(v, f) for f in _FOLDERS))
    return find_root(folder, "MSMT17", _FOLDERS, version), version


def _listed(root: pathlib.Path, part: str, lists: Sequence[str]) -> tuple[Record, ...]:
    """Return the records of lists, whose paths are relative to a part of the data set."""
    records: dict[str, Record] = {}
    missing, there = [], _files_below(root / part)
    for path in (root / f"list_{name}.txt" for name in lists):
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path}; expected the list that the archive of MSMT17 holds. Copy it "
                "there, or unpack the archive again."
            )
        # Copies have Windows line ends, a byte order mark, or blank lines at the end.
        for number, line in enumerate(path.read_text("utf-8-sig", "replace").splitlines(), 1):
            if not (line := line.strip()):
                continue
            if not (match := _LINE.fullmatch(line)):
                raise ValueError(
                    f"{path}, line {number}: {line!r}; expected the path of an image and its "
                    f"person, such as {_EXAMPLE!r}. Copy the list from the archive again."
                )
            name = match["name"]
            image = name if name in there else _other_suffix(name, there)
            if name in records:
                raise ValueError(
                    f"{path}, line {number}: {name} is listed twice; expected every image once. "
                    "Copy the list from the archive again."
                )
            if image is None:
                missing.append(name)
                continue
            pid, camid = int(match["pid"]), int(match["camera"]) - 1
            file = os.path.join(root, part, image)
            records[name] = Record(image=file, name=name, pid=pid, camid=camid)
    files = " and ".join(f"list_{name}.txt" for name in lists)
    if missing:
        total = len(records) + len(missing)
        raise FileNotFoundError(
            f"{root / part}: {len(missing):,} of {total:,} images of {files} are missing: "
            f"{some(missing)}. {UNPACK_AGAIN} For a part of the data set, shorten the lists."
        )
    if not records:
        raise ValueError(f"{root}: {files} names no images; expected lines like {_EXAMPLE!r}.")
    return tuple(records.values())


def _files_below(folder: pathlib.Path) -> set[str]:
    """Return the files of a folder by their paths in it; asking for each takes much longer."""
    start = len(os.path.join(folder, ""))
    return {
        f"{inside[start:]}/{name}".lstrip("/").replace(os.sep, "/")
        for inside, _, names in os.walk(folder, followlinks=True)
        for name in names
    }


def _other_suffix(name: str, there: Collection[str]) -> str | None:
    """Return the same image with another suffix."""
    stem = name.rpartition(".")[0]
    return next((stem + suffix for suffix in SUFFIXES if stem + suffix in there), None)
