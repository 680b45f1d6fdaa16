"""Published folder layouts of ReID data sets: which files form a split, what their names say.

Listing a folder reads no image and needs no TensorFlow, so a wrong folder is found in a moment.

A layout is a function `(folder, **options) -> RawDataset`, in `LAYOUTS` under its data set's name.
"""

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from PIL import Image

from jaxreid.names import check_name

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

TIME_RULES = ("qaconv", "corrected")

_UNPACK_AGAIN = "Unpack the data set's archive again, or give another folder."

_MARKET_PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
_MARKET_FOLDERS = (
    ".",
    "Market-1501-v15.09.15",
    "market1501",
    "market1501/Market-1501-v15.09.15",
    "market",
)
_MARKET_FPS = 25
_MARKET_COUNTS = {"train": (751, 12_936), "query": (750, 3_368), "gallery": (751, 15_913)}
_MARKET_NAME = re.compile(
    r"(?P<pid>-1|[0-9]+)_c(?P<camera>[1-9][0-9]*)s(?P<session>[1-9][0-9]*)"
    r"_(?P<frame>-?[0-9]+)_[0-9]+(\.[A-Za-z]+)+"
)


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """One image of a data set, as its name describes it.

    Attributes:
        path: where it lies.
        name: file name, unique in its split.
        pid: person id as published; 0 may mean a distractor.
        camid: camera, from 0.
        time: seconds; NaN if unknown. Comparable within a camera.
        size: of the file, in bytes.
    """

    path: pathlib.Path
    name: str
    pid: int
    camid: int
    time: float
    size: int


@dataclasses.dataclass(frozen=True)
class RawDataset:
    """The files of a data set on disk, before anything is read.

    Attributes:
        name: of the data set.
        root: folder that holds the parts.
        splits: images of each split, sorted by name.
        published: (ids, images) of each split of the whole data set.
        options: what else decides about the prepared data.
    """

    name: str
    root: pathlib.Path
    splits: Mapping[str, tuple[ImageFile, ...]]
    published: Mapping[str, tuple[int, int]]
    options: Mapping[str, str]

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that change with a path below root, a size, or an option.

        Changed content of exactly the same size goes unseen: reading every image at every start
        would take longer than the rest of it.
        """
        digest = hashlib.sha256()
        lines = [f"{key}={value}" for key, value in self.options.items()]
        for images in self.splits.values():
            lines += [f"{i.path.relative_to(self.root).as_posix()} {i.size}" for i in images]
        for line in sorted(lines):
            digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()[:8]

    def notice(self) -> str | None:
        """Says in one line how the sizes differ from the published ones; None if they do not."""
        found = {
            split: (len({image.pid for image in images}), len(images))
            for split, images in self.splits.items()
        }
        if found == self.published:
            return None
        differences = ", ".join(
            f"{split} {e[0]:,} ids / {e[1]:,} images, found {f[0]:,} / {f[1]:,}"
            for (split, e), f in zip(self.published.items(), found.values(), strict=True)
            if f != e
        )
        return (
            f"{self.name} in {self.root}: expected {differences}. This is not the whole data set: "
            "results on it do not compare with published ones."
        )


def read_market1501(folder: str | os.PathLike, *, time_rule: str = "qaconv") -> RawDataset:
    """Lists Market-1501 from its published folders.

    `0001_c1s2_001051_00.jpg` is person 1 on camera 1 (`camid` 0) in its session 2, frame 1051,
    box 0. Images of pid -1 are junk boxes and dropped; those of pid 0 are distractors and stay in
    the gallery. Any number of cameras and sessions is read: other data in this layout work too.

    Args:
        folder: holds `bounding_box_train`, `query` and `bounding_box_test`, or one of the usual
            folders that do.
        time_rule: how the sessions of a camera follow one another. `corrected`: each starts where
            the one before ended. `qaconv`: as in QAConv's published results, where offsets double.

    Returns:
        Splits train, query and gallery; times in seconds at 25 frames per second.

    Raises:
        FileNotFoundError: there is no such folder, or a part of the data set is missing.
        ValueError: a part holds no images, an image's name does not follow the pattern, or
            `time_rule` is unknown.

    Source: Zheng et al., ICCV 2015 (the data set); Liao and Shao, ECCV 2020 (`qaconv`: their code
        shifts the frames of a session in place, takes their maximum, and adds the offset again).
    """
    check_name(time_rule, TIME_RULES, "time_rule")
    root = _find_root(folder, "Market-1501", _MARKET_FOLDERS, _MARKET_PARTS.values())
    parsed = {
        split: [(entry, _parse_market(entry)) for entry in _images(root / part)]
        for split, part in _MARKET_PARTS.items()
    }
    parsed = {split: [(e, p) for e, p in files if p.pid != -1] for split, files in parsed.items()}
    for split, files in parsed.items():
        if not files:
            raise ValueError(
                f"{root / _MARKET_PARTS[split]} holds no images ({', '.join(IMAGE_SUFFIXES)}; pid "
                f"-1 is junk); needed are those of the {split} split. {_UNPACK_AGAIN}"
            )
    last_frame: dict[tuple[int, int], int] = {}
    for files in parsed.values():
        for _, p in files:
            key = p.camid, p.session
            last_frame[key] = max(last_frame.get(key, 0), p.frame)
    offset = _session_offsets(last_frame, time_rule)
    splits = {
        split: tuple(
            ImageFile(
                path=pathlib.Path(entry.path),
                name=entry.name,
                pid=p.pid,
                camid=p.camid,
                time=(p.frame + offset[p.camid, p.session]) / _MARKET_FPS,
                size=entry.stat().st_size,
            )
            for entry, p in files
        )
        for split, files in parsed.items()
    }
    return RawDataset("market1501", root, splits, _MARKET_COUNTS, {"time_rule": time_rule})


def check_image(path: str | os.PathLike) -> None:
    """Decodes a whole image file, so that a broken one is found now and not in the middle of a run.

    Args:
        path: of the file.

    Raises:
        ValueError: the file is not an image, or only a part of one.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on broken files
        raise ValueError(
            f"{path}: broken image ({error}). Unpack the data set's archive again, or fetch the "
            "archive again if it is broken in there, or remove the file."
        ) from error


@dataclasses.dataclass(frozen=True)
class _MarketName:
    pid: int
    camid: int
    session: int
    frame: int


def _parse_market(entry: os.DirEntry) -> _MarketName:
    # The bare name, whole: searching the path would take a folder called "exp2_c3" for a camera.
    match = _MARKET_NAME.fullmatch(entry.name)
    if match is None:
        raise ValueError(
            f"{entry.path}: not a name of Market-1501, which looks like 0001_c1s1_001051_00.jpg "
            "(pid, camera and session from 1, frame, box). Rename the file, or move it out of the "
            "folder."
        )
    return _MarketName(
        pid=int(match["pid"]),
        camid=int(match["camera"]) - 1,
        session=int(match["session"]),
        frame=int(match["frame"]),
    )


def _session_offsets(
    last_frame: Mapping[tuple[int, int], int], time_rule: str
) -> dict[tuple[int, int], int]:
    """Frames to add for each (camid, session); `last_frame` has the same keys."""
    offsets = {}
    sessions = max((session for _, session in last_frame), default=0)
    for camid in {camid for camid, _ in last_frame}:
        offset = 0
        for session in range(1, sessions + 1):
            offsets[camid, session] = offset
            if (camid, session) in last_frame:  # a session without images takes no time
                end = last_frame[camid, session] + offset
                offset = end + offset if time_rule == "qaconv" else end
    return offsets


def _find_root(
    folder: str | os.PathLike, title: str, candidates: Sequence[str], parts: Iterable[str]
) -> pathlib.Path:
    """The first of the candidate folders, from "." on, that holds all parts."""
    folder, parts = pathlib.Path(folder).expanduser(), list(parts)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {str(folder)!r} (from {os.getcwd()}); needed is the folder of {title} with "
            f"{', '.join(parts)} in it, or the one above."
        )
    best, missing = folder, parts
    for candidate in candidates:
        root = folder / candidate
        absent = [part for part in parts if not (root / part).is_dir()]
        if not absent:
            return root
        if len(absent) < len(missing):
            best, missing = root, absent
    found = sorted(entry.name for entry in os.scandir(best))
    listing = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") if found else "nothing"
    raise FileNotFoundError(
        f"{best} is not complete as {title}: {', '.join(missing)} missing; it holds {listing}. "
        f"Needed are the folders {', '.join(parts)}, in the folder given or below it in one of "
        f"{', '.join(candidates[1:])}. {_UNPACK_AGAIN}"
    )


def _images(folder: pathlib.Path) -> list[os.DirEntry]:
    """Image files sorted by code point, so that no locale and no file system changes the order."""
    with os.scandir(folder) as entries:
        # "._0001_c1s1_..." is what macOS leaves in archives; Thumbs.db has another suffix
        kept = [
            entry
            for entry in entries
            if not entry.name.startswith(".") and entry.name.lower().endswith(IMAGE_SUFFIXES)
        ]
    return sorted(kept, key=lambda entry: entry.name)


LAYOUTS: dict[str, Callable[..., RawDataset]] = {"market1501": read_market1501}
