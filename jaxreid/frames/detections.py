"""Boxes around people: COCO and plain JSON, CSV, the text files of MOTChallenge, or Python objects.

frame,x,y,w,h,id,confidence         CSV; or x1,y1,x2,y2, and columns as of supervision's CSVSink
1,7,912,484,97,109,0.93,-1,-1,-1    det.txt or gt.txt of MOTChallenge
{"frame": 3, "xyxy": [10, 20, 60, 170], "id": 7}     plain JSON: a list of these, or one a line
{"img_3.jpg": [[10, 20, 60, 170, 0.9]]}              or corners by frame, with the confidence
{"images": [...], "annotations": [...]}              COCO, its ground truth or results
"""

import csv
import io
import json
import math
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxreid.data.sets.files import some
from jaxreid.places import expanded

FORMATS = (".json", ".jsonl", ".csv", ".tsv", ".txt")
# Names of columns and keys, in the order in which they are looked for.
_FRAME = ("frame", "frame_number", "frame_index", "frame_id", "file", "file_name", "image")
_CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("xmin", "ymin", "xmax", "ymax"),
)
_SIDES = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("left", "top", "width", "height"),
    ("bb_left", "bb_top", "bb_width", "bb_height"),
)
_TRACK = ("id", "track", "track_id", "tracker_id")
_CONFIDENCE = ("confidence", "score", "conf")
_CATEGORY = ("category", "category_id", "class", "class_id", "class_name")
_PERSON = ("person", "pedestrian", "people")


class Box(NamedTuple):
    """A box around a person.

    Attributes:
        frame: number of the frame, or name of its file.
        xyxy: left, top, right and bottom edge in pixels; right and bottom are outside.
        track: the detector's or tracker's name of the person; "" without one.
        confidence: of the detector; NaN without one.
        category: category of the object; "" without one.
        place: where the box is written, for messages.
    """

    frame: int | str
    xyxy: tuple[float, float, float, float]
    track: str = ""
    confidence: float = math.nan
    category: str = ""
    place: str = ""


class Detections(NamedTuple):
    """Boxes of people.

    Attributes:
        boxes: in the order of the file.
        first: number of the first frame by the convention of the format; None for no convention.
        notices: sentences about boxes that are not of people.
    """

    boxes: list[Box]
    first: int | None = None
    notices: tuple[str, ...] = ()


def read_detections(source: Any, *, category: str | None = None) -> Detections:
    """Read boxes.

    Args:
        source: path of a file (`FORMATS`), or boxes by frame: a mapping from its number or file
            name, or a sequence from frame 0 on, of `supervision.Detections`, or of arrays [N, 4]
            of corners (xyxy).
        category: name or number of the category to read. None: those called person or pedestrian,
            if there are names of categories; without names there may be one category only.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, or a box that cannot be read; the message names its place.
    """
    if not isinstance(source, str | os.PathLike):
        return _of_people(_from_objects(source), None, category, "the detections")
    path = expanded(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; expected boxes around people ({', '.join(FORMATS)})."
        )
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"{path}: expected boxes in a file that ends in {', '.join(FORMATS)}: COCO or plain "
            "JSON, CSV with a header, or the text of MOTChallenge."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}).") from error
    first: int | None = None
    names: dict[str, str] = {}
    if suffix == ".txt" or (suffix == ".csv" and not re.search("[A-Za-z]", text.split("\n")[0])):
        boxes, first = _from_mot(path, text), 1
    elif suffix in (".csv", ".tsv"):
        boxes = _from_csv(path, text)
    else:
        boxes, names = _from_json(path, text)
    if not boxes:
        raise ValueError(f"{path} holds no boxes; expected one or more.")
    return _of_people(boxes, first, category, str(path), names)


def corners(source: Any) -> np.ndarray:
    """Return boxes as float64 [N, 4]: left, top, right, bottom.

    Args:
        source: numbers [N, 4], or an object with them as `xyxy`, as `supervision.Detections`.

    Raises:
        ValueError: another shape, or not numbers.
    """
    values = getattr(source, "xyxy", source)
    try:
        boxes = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"boxes cannot be read as numbers [N, 4] (xyxy): {error}") from error
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"boxes are {list(boxes.shape)}; expected [N, 4]: left, top, right and bottom edge of "
            "each, in pixels."
        )
    return boxes


def _of_people(
    boxes: Sequence[Box],
    first: int | None,
    category: str | None,
    where: str,
    names: Mapping[str, str] | None = None,
) -> Detections:
    """Keep the boxes of people."""
    names = dict(names or {})
    known = sorted({box.category for box in boxes} - {""})
    if category is not None:
        wanted = {c for c in known if category.lower() in (c.lower(), names.get(c, "").lower())}
        if not wanted:
            held = ", ".join(names.get(c, c) for c in known) or "no categories"
            raise ValueError(f"{where} holds no boxes of {category!r}; it has {held}.")
    else:
        named = {c for c in known if names.get(c, c).lower() in _PERSON}
        wanted = named or set(known)
        if not named and len(known) > 1:
            held = ", ".join(names.get(c, c) for c in known[:10])
            raise ValueError(
                f"{where} holds boxes of several categories ({held}), and none is called person; "
                "choose one, as in --category=1 (category= in Python)."
            )
    kept = [box for box in boxes if not box.category or box.category in wanted]
    counts = Counter(names.get(b.category, b.category) for b in boxes) if wanted else Counter()
    others = {
        name: n
        for name, n in counts.items()
        if name and name not in {names.get(c, c) for c in wanted}
    }
    counted = ", ".join(f"{count} of {name}" for name, count in sorted(others.items()))
    notices = [f"{where}: boxes of others are left out: {counted}."] if others else []
    return Detections(kept, first, tuple(notices))


def _from_objects(source: Any) -> list[Box]:
    """Read boxes by frame: arrays, or supervision's `Detections`."""
    pairs = source.items() if isinstance(source, Mapping) else enumerate(source)
    boxes = []
    for frame, held in pairs:
        frame = frame if isinstance(frame, str) else int(frame)
        columns = {
            name: getattr(held, attribute, None)
            for name, attribute in (("track", "tracker_id"), ("confidence", "confidence"))
        }
        kinds = getattr(held, "class_id", None)
        words = (getattr(held, "data", None) or {}).get("class_name")
        for i, (left, top, right, bottom) in enumerate(corners(held).tolist()):
            track, confidence = (None if c is None else c[i] for c in columns.values())
            kind = words[i] if words is not None else None if kinds is None else kinds[i]
            boxes.append(
                Box(
                    frame,
                    (left, top, right, bottom),
                    track="" if track is None else str(track),
                    confidence=math.nan if confidence is None else float(confidence),
                    category="" if kind is None else str(kind),
                    place=f"frame {frame}, box {i}",
                )
            )
    return boxes


def _from_mot(path: pathlib.Path, text: str) -> list[Box]:
    """Read text of MOTChallenge: frame, id, left, top, width, height, confidence or flag, class.

    Source: Milan et al., MOT16, arXiv 1603.00831, Table 5: in ground truth the seventh number says
        whether a box counts, and class 1 is a pedestrian. Detections have -1 in place of a class.
    """
    boxes = []
    for number, line in enumerate(text.splitlines(), 1):
        cells = [cell for cell in re.split(r"[,\s]+", line.strip()) if cell]
        if not cells:
            continue
        place = f"{path}, line {number}"
        try:
            values = [float(cell) for cell in cells]
        except ValueError:
            raise ValueError(
                f"{place}: {line[:60]!r}; expected numbers: frame, id, left, top, width, "
                "height, ..."
            ) from None
        if len(values) < 6:
            raise ValueError(
                f"{place}: {len(values)} numbers; expected at least six: frame, id, left, top, "
                "width, height."
            )
        frame, track, left, top, width, height, *rest = values
        kind = int(rest[1]) if len(rest) > 1 and math.isfinite(rest[1]) else -1
        if kind > 0 and rest[0] == 0:
            continue
        boxes.append(
            Box(
                _frame(frame, place),
                (left, top, left + width, top + height),
                track=f"{track:.15g}" if track >= 0 else "",
                confidence=rest[0] if rest and kind <= 0 else math.nan,
                category="" if kind <= 0 else "person" if kind == 1 else f"class {kind}",
                place=place,
            )
        )
    return boxes


def _from_csv(path: pathlib.Path, text: str) -> list[Box]:
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    rows = list(csv.DictReader(io.StringIO(text), delimiter=separator))
    rows = [{str(k).strip().lower(): v for k, v in row.items()} for row in rows]
    return [_from_row(row, f"{path}, row {i}") for i, row in enumerate(rows, 1)]


def _from_json(path: pathlib.Path, text: str) -> tuple[list[Box], dict[str, str]]:
    """Read JSON; return the boxes and the names of its categories."""
    try:
        if path.suffix.lower() == ".jsonl":
            held: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    if isinstance(held, dict) and "annotations" in held:
        return _from_coco(path, held)
    if isinstance(held, dict):
        boxes = []
        for frame, rows in held.items():
            frame = int(frame) if re.fullmatch("[0-9]{1,15}", frame) else frame
            for i, row in enumerate(_a_list(rows, f"{path}, frame {frame}")):
                place = f"{path}, frame {frame}, box {i}"
                row = {"frame": frame} | (row if isinstance(row, dict) else _plain(row, place))
                boxes.append(_from_row(row, place))
        return boxes, {}
    rows = _a_list(held, str(path))
    if wrong := [i for i, row in enumerate(rows) if not isinstance(row, dict)]:
        raise ValueError(
            f'{path}: entry {wrong[0]} is not an object; expected {{"frame": ..., "xyxy": [...]}}.'
        )
    # Results of COCO are a list of annotations.
    keyed = [{**row, "frame": row["image_id"]} if "image_id" in row else row for row in rows]
    return [_from_row(row, f"{path}, entry {i}") for i, row in enumerate(keyed)], {}


def _from_coco(path: pathlib.Path, held: Mapping[str, Any]) -> tuple[list[Box], dict[str, str]]:
    try:
        files = {image["id"]: str(image["file_name"]) for image in held.get("images", ())}
        names = {str(kind["id"]): str(kind["name"]) for kind in held.get("categories", ())}
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: an image or category of COCO lacks {error}; expected images with id and "
            "file_name, categories with id and name."
        ) from error
    boxes = []
    for i, row in enumerate(_a_list(held["annotations"], f"{path}, annotations")):
        place = f"{path}, annotation {i}"
        if not isinstance(row, dict) or row.get("image_id") not in files:
            raise ValueError(f"{place}: expected an object with the image_id of one of its images.")
        # The id of an annotation numbers boxes, not people.
        kept = {k: v for k, v in row.items() if k not in ("id", "image_id")}
        boxes.append(_from_row({**kept, "frame": files[row["image_id"]]}, place))
    return boxes, names


def _from_row(row: Mapping[str, Any], place: str) -> Box:
    """Read one box by the names of its columns or keys."""

    def cell(names: Iterable[str]) -> Any:
        return next((row[n] for n in names if row.get(n) not in (None, "")), None)

    frame = cell(_FRAME)
    if frame is None:
        raise ValueError(f"{place}: no frame; expected one of {', '.join(_FRAME)}.")
    if isinstance(frame, str) and not re.fullmatch(r"[-+]?[0-9]{1,15}(\.[0-9]*)?", frame):
        number: int | str = frame
    else:
        number = _frame(float(frame), place)
    track, category = cell(_TRACK), cell(_CATEGORY)
    confidence = cell(_CONFIDENCE)
    return Box(
        number,
        _edges(row, place),
        track="" if track is None or str(track) == "-1" else str(track),
        confidence=math.nan if confidence is None else _number(confidence, place),
        category="" if category is None else str(category),
        place=place,
    )


def _edges(row: Mapping[str, Any], place: str) -> tuple[float, float, float, float]:
    if "xyxy" in row:
        return _four(row["xyxy"], place)
    for key in ("bbox", "xywh"):
        if key in row:
            left, top, width, height = _four(row[key], place)
            return left, top, left + width, top + height
    for names in _CORNERS:
        if all(name in row for name in names):
            return _four([row[name] for name in names], place)
    for names in _SIDES:
        if all(name in row for name in names):
            left, top, width, height = _four([row[name] for name in names], place)
            return left, top, left + width, top + height
    raise ValueError(
        f"{place}: no box among {', '.join(map(str, row))}; expected x1, y1, x2, y2, or x, y, w, h "
        "(in JSON also xyxy, or bbox: left, top, width, height)."
    )


def _plain(row: Any, place: str) -> dict[str, Any]:
    """Read corners, and the confidence if a fifth number is there."""
    values = _a_list(row, place)
    if len(values) not in (4, 5):
        raise ValueError(
            f"{place}: {len(values)} numbers; expected left, top, right, bottom, and possibly the "
            "confidence."
        )
    return {"xyxy": values[:4], "confidence": values[4] if len(values) == 5 else None}


def _four(values: Any, place: str) -> tuple[float, float, float, float]:
    values = _a_list(values, place)
    if len(values) != 4:
        raise ValueError(f"{place}: a box of {len(values)} numbers; expected four.")
    a, b, c, d = (_number(value, place) for value in values)
    return a, b, c, d


def _number(value: Any, place: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{place}: {value!r} is not a number.") from None


def _frame(value: float, place: str) -> int:
    if not (math.isfinite(value) and value >= 0 and value == int(value)):
        raise ValueError(f"{place}: frame {value:g}; expected a whole number of at least 0.")
    return int(value)


def _a_list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{place}: {str(value)[:60]!r}; expected a list.")
    return list(value)


def listed_frames(boxes: Iterable[Box]) -> str:
    """Return the frames of the first boxes, for messages."""
    return some(dict.fromkeys(str(box.frame) for box in boxes))
