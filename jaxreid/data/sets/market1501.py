"""Market-1501: 1,501 people seen by six cameras in front of a supermarket.

32,217 images of 128 x 64 pixels, cropped by a pedestrian detector: 751 people for training, and 750
others as queries and in a gallery that also holds distractors. The images are for research and not
distributed here: get them from the authors and unpack the archive. Any number of cameras and
sessions is read, so your own photographs in this layout work too.
"""

import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxreid.data.sets.folder import UNPACK_AGAIN, find_root, folder_source, list_images, some
from jaxreid.data.sets.source import Record, Source
from jaxreid.names import check_name

TIME_RULES = ("qaconv", "corrected")

_PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
_FOLDERS = (
    ".",
    "Market-1501-v15.09.15",
    "market1501",
    "market1501/Market-1501-v15.09.15",
    "market",
)
_FPS = 25
# Above, float64 does not tell one frame from the next.
_LAST_FRAME = 2**53
_PUBLISHED = {"train": (751, 12_936), "query": (750, 3_368), "gallery": (751, 15_913)}
_NAME = re.compile(
    r"(?P<pid>-1|[0-9]+)_c(?P<camera>[1-9][0-9]*)s(?P<session>[1-9][0-9]*)"
    r"_(?P<frame>-?[0-9]+)_[0-9]+(\.[A-Za-z]+)+"
)
_CITATION = """\
@inproceedings{zheng2015scalable,
  title     = {Scalable Person Re-identification: A Benchmark},
  author    = {Zheng, Liang and Shen, Liyue and Tian, Lu and Wang, Shengjin and Wang, Jingdong and
               Tian, Qi},
  booktitle = {IEEE International Conference on Computer Vision (ICCV)},
  pages     = {1116--1124},
  year      = {2015}
}
"""


def find(folder: str | os.PathLike, *, time_rule: str = "qaconv") -> Source:
    """Find Market-1501 in its unpacked archive, the folder that holds bounding_box_train and query.

    `0001_c1s2_001051_00.jpg` is person 1 on camera 1 (`camid` 0), session 2 of this camera, frame
    1051, box 0. Images with pid -1 are junk boxes and dropped; those with pid 0 are distractors and
    stay in the gallery.

    Args:
        folder: holds `bounding_box_train`, `query` and `bounding_box_test`, directly or in one of
            the usual subfolders.
        time_rule: how the sessions of a camera are concatenated. `corrected`: each starts where the
            previous one ended. `qaconv`: as in QAConv's published results, where offsets double.

    Returns:
        Splits train, query and gallery; times in seconds at 25 frames per second, comparable within
        a camera.

    Raises:
        FileNotFoundError: the folder does not exist, or a part of the data set is missing.
        ValueError: a part holds no images, a file name does not follow the pattern, or `time_rule`
            is unknown.

    Source: Zheng et al., ICCV 2015 (the data set); Liao and Shao, ECCV 2020 (`qaconv`: their code
        shifts the frames of a session in place, takes their maximum, and adds the offset again).
    """
    check_name(time_rule, TIME_RULES, "time_rule")
    root = find_root(folder, "Market-1501", _FOLDERS, _PARTS.values())
    listed = {split: list_images(root / part) for split, part in _PARTS.items()}
    parsed = {split: _parse(root / _PARTS[split], files) for split, (files, _) in listed.items()}
    left_out = [sentence for _, sentence in listed.values() if sentence]
    for split, files in parsed.items():
        if not files:
            raise ValueError(
                f"{root / _PARTS[split]} holds no images (.jpg, .png, ...; pid -1 is junk); "
                f"expected the images of the {split} split. {' '.join([*left_out, UNPACK_AGAIN])}"
            )
    last_frame: dict[tuple[int, int], int] = {}
    for files in parsed.values():
        for _, p in files:
            key = p.camid, p.session
            last_frame[key] = max(last_frame.get(key, 0), p.frame)
    offset = _session_offsets(last_frame, time_rule)
    late = [
        entry.name
        for files in parsed.values()
        for entry, p in files
        if p.frame + offset[p.camid, p.session] > _LAST_FRAME
    ]
    if late:
        left_out.append(
            f"market1501 in {root}: images without a time: {len(late)} ({some(late)}), because "
            "their frames are too large to be distinguished; number sessions and frames from 1"
            + (", or use market1501-time_rule=corrected." if time_rule == "qaconv" else ".")
        )
    splits = {
        split: tuple(
            Record(
                image=pathlib.Path(entry.path),
                name=entry.name,
                pid=p.pid,
                camid=p.camid,
                time=_seconds(p.frame + offset[p.camid, p.session]),
            )
            for entry, p in files
        )
        for split, files in parsed.items()
    }
    return folder_source(
        "market1501",
        root,
        splits,
        published=_PUBLISHED,
        options={"time_rule": time_rule},
        notices=left_out,
        description=__doc__,
        citation=_CITATION,
    )


class _Name(NamedTuple):
    pid: int
    camid: int
    session: int
    frame: int


def _parse(folder: pathlib.Path, entries: Sequence[os.DirEntry]) -> list[tuple[os.DirEntry, _Name]]:
    """Return the files of a folder with what their names say, without junk boxes."""
    # Match the whole bare name: a search in the path would take a folder "exp2_c3" for a camera.
    matches = [(entry, _NAME.fullmatch(entry.name)) for entry in entries]
    if unknown := [entry.name for entry, match in matches if match is None]:
        raise ValueError(
            f"{folder / unknown[0]}: not a Market-1501 file name; expected one like "
            "0001_c1s1_001051_00.jpg (pid, camera and session from 1, frame, box). Rename the "
            "file, or move it out of the folder."
            + (f" {len(unknown)} of {len(entries)} names: {some(unknown)}." if unknown[1:] else "")
        )
    named = [
        (
            entry,
            _Name(
                pid=int(match["pid"]),
                camid=int(match["camera"]) - 1,
                session=int(match["session"]),
                frame=int(match["frame"]),
            ),
        )
        for entry, match in matches
        if match is not None
    ]
    return [(entry, name) for entry, name in named if name.pid != -1]


def _seconds(frame: int) -> float:
    return frame / _FPS if frame <= _LAST_FRAME else math.nan


def _session_offsets(
    last_frame: Mapping[tuple[int, int], int], time_rule: str
) -> dict[tuple[int, int], int]:
    """Return the frames to add for each (camid, session), given the last frame of each."""
    offsets: dict[tuple[int, int], int] = {}
    sums: dict[int, int] = {}
    # A session without images takes no time.
    for (camid, session), frame in sorted(last_frame.items()):
        offset = offsets[camid, session] = sums.get(camid, 0)
        # Past the last frame that has a time, the sum need not grow (it doubles).
        end = min(frame + offset, _LAST_FRAME + 1)
        sums[camid] = end + offset if time_rule == "qaconv" else end
    return offsets
