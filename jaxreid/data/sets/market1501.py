"""Market-1501: 1,501 people seen by six cameras in front of a supermarket.

32,217 images of 128 x 64 pixels, cropped by a pedestrian detector: 751 people for training, and 750
others as queries and in a gallery that also holds distractors. The images are for research and not
distributed here: get them from the authors and unpack the archive. Any number of cameras and
sessions is read, so your own photographs in this layout work too.
"""

import dataclasses
import math
import os
import re
from collections.abc import Mapping

from jaxreid.data.sets.files import find_root, folder_source, read_names, some
from jaxreid.data.sets.records import named_records
from jaxreid.data.sets.source import Source
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
# Unpacked distractors_500k.zip, beside the others.
_DISTRACTORS = "images"
_FPS = 25
# Above, float64 does not distinguish one frame from the next.
_LAST_FRAME = 2**53
_PUBLISHED = {"train": (751, 12_936), "query": (750, 3_368), "gallery": (751, 15_913)}
_PUBLISHED_500K = _PUBLISHED | {"gallery": (751, 515_913)}
_NAME = re.compile(
    r"(?P<pid>-1|[0-9]+)_c(?P<camera>[1-9][0-9]*)s(?P<session>[1-9][0-9]*)"
    r"_(?P<frame>-?[0-9]+)_[0-9]+(\.[A-Za-z]+)+"
)
_EXAMPLE = "0001_c1s1_001051_00.jpg (pid, camera and session from 1, frame, box)"
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


def find(
    folder: str | os.PathLike,
    *,
    time_rule: str = "qaconv",
    distractors_500k: bool = False,
    combine_all: bool = False,
) -> Source:
    """Find Market-1501 in its unpacked archive, the folder that holds bounding_box_train and query.

    `0001_c1s2_001051_00.jpg` is person 1 on camera 1 (`camid` 0), session 2 of this camera, frame
    1051, box 0. Images with pid -1 are junk boxes and dropped; those with pid 0 are distractors and
    stay in the gallery.

    Args:
        folder: holds `bounding_box_train`, `query` and `bounding_box_test`, directly or in one of
            the usual subfolders.
        time_rule: how the sessions of a camera are concatenated. `corrected`: each starts where the
            previous one ended. `qaconv`: as in QAConv's published results, where offsets double.
        distractors_500k: add the 500,000 distractors of distractors_500k.zip to the gallery, the
            images in `images` beside `query`; their times are unknown.
        combine_all: train on the people of all splits, without distractors.

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
    parts = [*_PARTS.values(), *([_DISTRACTORS] if distractors_500k else [])]
    root = find_root(folder, "Market-1501", _FOLDERS, parts)
    found, notices = read_names(root, _PARTS, _NAME, "Market-1501", _EXAMPLE)
    last_frame: dict[tuple[int, int], int] = {}
    for images in found.values():
        for _, match in images:
            camera, session, frame = (int(match[g]) for g in ("camera", "session", "frame"))
            last_frame[camera, session] = max(last_frame.get((camera, session), 0), frame)
    offset = _session_offsets(last_frame, time_rule)

    def frame_of(match: re.Match) -> int:
        return int(match["frame"]) + offset[int(match["camera"]), int(match["session"])]

    late = [
        file.name for images in found.values() for file, m in images if frame_of(m) > _LAST_FRAME
    ]
    if late:
        notices.append(
            f"market1501 in {root}: images without a time: {len(late)} ({some(late)}), because "
            "their frames are too large to be distinguished; number sessions and frames from 1"
            + (", or use market1501?time_rule=corrected." if time_rule == "qaconv" else ".")
        )
    splits = named_records(found, time=lambda match: _seconds(frame_of(match)))
    options = {"time_rule": time_rule}
    if distractors_500k:
        part = {"gallery": _DISTRACTORS}
        added, sentences = read_names(root, part, _NAME, "Market-1501", _EXAMPLE)
        # Both folders of the gallery may hold a name.
        splits["gallery"] += tuple(
            dataclasses.replace(record, name=f"{_DISTRACTORS}/{record.name}")
            for record in named_records(added)["gallery"]
        )
        notices += sentences
        options["distractors"] = "distractors_500k"
    return folder_source(
        "market1501",
        root,
        splits,
        published=_PUBLISHED_500K if distractors_500k else _PUBLISHED,
        options=options,
        combine_all=combine_all,
        distractors=(0,),
        notices=notices,
        description=__doc__,
        citation=_CITATION,
    )


def _seconds(frame: int) -> float:
    return frame / _FPS if frame <= _LAST_FRAME else math.nan


def _session_offsets(
    last_frame: Mapping[tuple[int, int], int], time_rule: str
) -> dict[tuple[int, int], int]:
    """Return the frames to add for each (camera, session), given the last frame of each."""
    offsets: dict[tuple[int, int], int] = {}
    sums: dict[int, int] = {}
    # A session without images takes no time.
    for (camera, session), frame in sorted(last_frame.items()):
        offset = offsets[camera, session] = sums.get(camera, 0)
        # Past the last frame that has a time, the sum need not grow (it doubles).
        end = min(frame + offset, _LAST_FRAME + 1)
        sums[camera] = end + offset if time_rule == "qaconv" else end
    return offsets
