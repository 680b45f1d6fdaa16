"""People cut out of frames into files, whose names and table hold camera, frame and time.

    door_t12.480_f000312_00.jpg     camera door, 12.48 s, frame 312, its first box

`folder:DIR?pattern={camid}_t{time}_f*` and `table:DIR/crops.csv` read them back.
"""

import csv
import hashlib
import io
import json
import math
import os
import pathlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxreid.data.sets.files import some
from jaxreid.frames.detections import Box, corners, listed_frames, read_detections
from jaxreid.frames.reading import open_frames
from jaxreid.places import expanded
from jaxreid.runs.files import replace_file
from jaxreid.runs.log import progress, write_json

PATTERN = "{camid}_t{time}_f*"
TABLE, RECORD = "crops.csv", "crops.json"
# JPEG quality: high enough not to affect recognition, at a third of the bytes of PNG.
_QUALITY = 95


class Crops(NamedTuple):
    """Result of `crop`.

    Attributes:
        folder: holds the crops, their table and the record of how they were cut.
        camera: its name.
        frames: frames that were cut from.
        files: paths of the crops.
        there: how many of them an earlier call had written.
        clipped: boxes that reached over the edge of their frame.
        left_out: boxes without a crop, by reason.
        notices: sentences on frames and boxes.
    """

    folder: pathlib.Path
    camera: str
    frames: int
    files: list[pathlib.Path]
    there: int
    clipped: int
    left_out: dict[str, list[str]]
    notices: list[str]


def clip_box(xyxy: Sequence[float], width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the whole pixels of a box within a frame; None if nothing of it is there.

    Edges that are not whole are moved outward.
    """
    if not all(map(math.isfinite, xyxy)):
        return None
    left, top = max(0, math.floor(xyxy[0])), max(0, math.floor(xyxy[1]))
    right, bottom = min(width, math.ceil(xyxy[2])), min(height, math.ceil(xyxy[3]))
    if xyxy[2] <= xyxy[0] or xyxy[3] <= xyxy[1] or right <= left or bottom <= top:
        return None
    return left, top, right, bottom


def cut_boxes(frame: np.ndarray, xyxy: Any) -> list[np.ndarray]:
    """Cut boxes out of a frame.

    Args:
        frame: uint8 [h, w, 3].
        xyxy: boxes, as for `detections.corners`; they are clipped at the edges.

    Returns:
        N views of the frame, uint8 [., ., 3].

    Raises:
        ValueError: boxes of another shape, or one with nothing of it in the frame.
    """
    height, width = frame.shape[:2]
    boxes = corners(xyxy)
    clipped = [clip_box(box, width, height) for box in boxes]
    if wrong := [i for i, box in enumerate(clipped) if box is None]:
        raise ValueError(
            f"boxes with nothing inside of the frame of {width}x{height} pixels: {len(wrong)} of "
            f"{len(boxes)} ({some(f'box {i}: {boxes[i].tolist()}' for i in wrong)}); expected "
            "left < right and top < bottom, in pixels."
        )
    return [frame[box[1] : box[3], box[0] : box[2]] for box in clipped if box is not None]


def crop(
    frames: str | os.PathLike,
    detections: Any,
    out: str | os.PathLike,
    *,
    camera: str | None = None,
    start: float = 0.0,
    fps: float | None = None,
    first: int | None = None,
    every: int = 1,
    margin: float = 0.0,
    least: tuple[int, int] = (32, 16),
    confidence: float = 0.0,
    category: str | None = None,
    people: bool = False,
) -> Crops:
    """Cut people out of the frames of a camera.

    Each crop is written whole or not at all, and the table at the end. The same call resumes an
    earlier one that was stopped. Several cameras share a folder, with one call for each.

    Args:
        frames: folder of images, or a video.
        detections: boxes, as for `read_detections`.
        out: folder of the crops; created.
        camera: name of the camera; None: that of the folder or video.
        start: seconds on the clock of all cameras at the first frame.
        fps: frames per second; None: those of the video, and 25 for images.
        first: number of the first frame in the detections. None: 1 for text of MOTChallenge, and 0
            for others; images in a folder are counted by the numbers in their names.
        every: cut every n-th frame of those with boxes.
        margin: share of a box's width and height to add on each side.
        least: smallest height and width of a crop, in pixels.
        confidence: smallest confidence of a box that has one.
        category: category of people, as for `read_detections`.
        people: the ids of the boxes are people, as in ground truth, and not tracks of one camera.
            Each person then has a sub-folder.

    Raises:
        FileNotFoundError: frames or detections do not exist.
        ValueError: they cannot be read or do not belong together, an argument is out of its range,
            or `out` holds crops of the camera that were cut in another way.
        OSError: a file cannot be written.
    """
    _check(every=every, margin=margin, least=least, start=start)
    read = read_detections(detections, category=category)
    opened = open_frames(frames, first=first, fps=fps)
    # A folder may count from 0 what its detections count from 1.
    video = opened.path.is_file()
    early = opened.numbers is not None and read.first is not None and opened.numbers[0] < read.first
    if first is None and read.first is not None and (video or early):
        opened = open_frames(frames, first=read.first, fps=fps)
    camera = _camera(opened.name if camera is None else camera)
    folder = expanded(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder for the crops.")
    by_frame = _by_frame(read.boxes, every)
    if people and (nobody := [box for box in read.boxes if not box.track]):
        raise ValueError(
            f"{len(nobody)} of {len(read.boxes)} boxes have no id ({nobody[0].place}); expected "
            "the person of each. Leave out people if ids are not known."
        )
    settings = {
        "frames": str(opened.path.resolve()),
        "detections": _digest(read.boxes),
        "start": start,
        "fps": fps,
        "first": first,
        "every": every,
        "margin": margin,
        "least": list(least),
        "confidence": confidence,
        "people": people,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _record(folder, camera, settings)
    files: list[pathlib.Path] = []
    rows: list[dict[str, Any]] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    counts = {"frames": 0, "there": 0, "clipped": 0}
    missing = dict(by_frame)
    last = max((frame for frame in by_frame if isinstance(frame, int)), default=math.inf)
    named = any(isinstance(frame, str) for frame in by_frame)
    with progress(f"camera {camera}", total=len(by_frame), unit="frame") as bar:
        for frame in opened:
            if frame.number > last and not named or not missing:
                break
            boxes = next(
                (missing.pop(key) for key in _keys(frame.number, frame.name) if key in missing), []
            )
            if not boxes:
                continue
            counts["frames"] += 1
            cut = _cut_frame(folder, camera, frame.load, boxes, frame, settings, left_out, counts)
            for path, row in cut:
                files.append(path)
                rows.append(row)
            bar.update()
    if by_frame and len(missing) == len(by_frame):
        numbers = opened.numbers
        span = f"frames {numbers[0]} to {numbers[-1]}" if numbers else "other frames"
        raise ValueError(
            f"no box belongs to a frame: the boxes are of frames {listed_frames(read.boxes)}, and "
            f"{opened.path} has {span}. Give the detections of this camera, or the number of its "
            "first frame (--first-frame=1)."
        )
    notices = [opened.notice, *read.notices]
    if missing:
        absent = some(map(str, missing))
        notices.append(f"missing frames that have boxes: {len(missing)} ({absent}).")
    _write_table(folder, camera, rows, people)
    return Crops(folder, camera, files=files, left_out=dict(left_out), notices=notices, **counts)


def _cut_frame(
    folder: pathlib.Path,
    camera: str,
    load: Callable[[], np.ndarray],
    boxes: Sequence[tuple[int, Box]],
    frame: Any,
    settings: dict[str, Any],
    left_out: dict[str, list[str]],
    counts: dict[str, int],
) -> list[tuple[pathlib.Path, dict[str, Any]]]:
    """Write the crops of one frame; return their paths and rows of the table."""
    seconds = settings["start"] + frame.seconds
    pixels, cut = load(), []
    height, width = pixels.shape[:2]
    for index, box in boxes:
        if box.confidence < settings["confidence"]:
            left_out[f"confidence below {settings['confidence']:g}"].append(box.place)
            continue
        whole = clip_box(box.xyxy, width, height)
        if whole is None:
            left_out["empty, or outside of the frame"].append(box.place)
            continue
        x, y, right, bottom = box.xyxy
        if x < 0 or y < 0 or right > width or bottom > height:
            counts["clipped"] += 1
        wide, high = settings["margin"] * (right - x), settings["margin"] * (bottom - y)
        grown = (x - wide, y - high, right + wide, bottom + high)
        left, top, right, bottom = clip_box(grown, width, height) or whole
        least = settings["least"]
        if bottom - top < least[0] or right - left < least[1]:
            left_out[f"lower than {least[0]} or narrower than {least[1]} pixels"].append(box.place)
            continue
        name = f"{camera}_t{seconds:.3f}_f{frame.number:06d}_{index:02d}.jpg"
        path = folder / _safe(box.track) / name if settings["people"] else folder / name
        # A power cut may have left it empty.
        if path.exists() and path.stat().st_size:
            counts["there"] += 1
        else:
            path.parent.mkdir(exist_ok=True)
            file = io.BytesIO()
            picture = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
            picture.save(file, "JPEG", quality=_QUALITY)
            replace_file(path, file.getvalue(), lasting=False)
        row = {
            "path": path.relative_to(folder).as_posix(),
            **({"person": box.track} if settings["people"] else {}),
            "camera": camera,
            "time": f"{seconds:.3f}",
            "frame": frame.number,
            **({} if settings["people"] else {"track": box.track}),
            "confidence": "" if math.isnan(box.confidence) else f"{box.confidence:g}",
            "x": left,
            "y": top,
            "width": right - left,
            "height": bottom - top,
        }
        cut.append((path, row))
    return cut


def _by_frame(boxes: Sequence[Box], every: int) -> dict[int | str, list[tuple[int, Box]]]:
    """Return the numbered boxes of every n-th frame."""
    frames: dict[int | str, list[tuple[int, Box]]] = {}
    for box in boxes:
        held = frames.setdefault(box.frame, [])
        held.append((len(held), box))
    kept = list(frames)[::every] if every > 1 else list(frames)
    return {frame: frames[frame] for frame in kept}


def _keys(number: int, name: str) -> tuple[int | str, ...]:
    """Return how detections may name a frame."""
    return number, name, os.path.splitext(name)[0]


def _camera(name: str) -> str:
    """Return the name of a camera as it can stand in file names."""
    safe = re.sub(r"[^\w.-]+|_+", "-", name).strip("-.")
    if not safe:
        raise ValueError(f"camera {name!r}: expected a name with letters or digits.")
    return safe


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".") or "-"


def _check(*, every: int, margin: float, least: tuple[int, int], start: float) -> None:
    if every < 1:
        raise ValueError(f"every is {every}; expected a whole number of at least 1.")
    if not 0 <= margin <= 1:
        raise ValueError(f"margin is {margin}; expected a share of 0 to 1.")
    if min(least) < 1:
        raise ValueError(f"least is {least}; expected a height and width of at least 1 pixel.")
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start is {start}; expected seconds of at least 0.")


def _digest(boxes: Sequence[Box]) -> str:
    rows = (f"{box.frame} {box.xyxy} {box.track} {box.confidence}\n" for box in boxes)
    return hashlib.sha256("".join(rows).encode()).hexdigest()[:16]


def _record(folder: pathlib.Path, camera: str, settings: dict[str, Any]) -> None:
    """Note how the crops of a camera are cut; refuse to mix them with others."""
    path = folder / RECORD
    try:
        held = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove it, or give another folder."
        ) from error
    before = held.get(camera)
    if before is not None and before != settings:
        changed = [key for key in settings if before.get(key) != settings[key]]
        raise ValueError(
            f"{folder} holds crops of camera {camera} with other {', '.join(changed)}: was "
            f"{', '.join(str(before.get(key)) for key in changed)}. Give another folder or camera, "
            f"or remove {camera}_* and {camera} from {RECORD}."
        )
    write_json(path, held | {camera: settings})


def _write_table(
    folder: pathlib.Path, camera: str, rows: Sequence[dict[str, Any]], people: bool
) -> None:
    """Write the rows of a camera beside those of others."""
    path = folder / TABLE
    held = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as table:
            held = [row for row in csv.DictReader(table) if row.get("camera") != camera]
    columns = ["path", "person", "camera", "time", "frame", "track", "confidence"]
    columns += ["x", "y", "width", "height"]
    everything = [*held, *rows]
    present = [c for c in columns if any(c in row and row[c] is not None for row in everything)]
    file = io.StringIO()
    writer = csv.DictWriter(file, present or columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(sorted(everything, key=lambda row: row["path"]))
    replace_file(path, file.getvalue().encode())
