"""The verb crop: people cut out of the frames of a camera."""

import argparse
import datetime
import re
from typing import Any

from jaxreid.cli import values
from jaxreid.cli.pieces import add_json, add_verb


def add_crop(commands: Any) -> None:
    """Add the verb crop."""
    verb = add_verb(
        commands,
        "crop",
        run,
        "cut people out of a video or a folder of frames",
        "jaxreid crop door.mp4 --detections=door.json --out=crops --start=2026-11-27T09:30:00",
        "Names and table of the crops hold camera, frame and time, for folder: and table: data "
        "sets. Call it once for each camera to collect several in a folder; the same command "
        "resumes a stopped call. Videos need PyAV: pip install 'jaxreid[video]'.",
    )
    verb.add_argument("frames", type=values.path, help="video, or folder with an image per frame")
    verb.add_argument(
        "--detections",
        required=True,
        type=values.path,
        metavar="FILE",
        help="boxes around people: COCO or plain JSON, JSON lines, CSV with a header, or text of "
        "MOTChallenge (det.txt, gt.txt)",
    )
    verb.add_argument(
        "--out", required=True, type=values.path, metavar="FOLDER", help="folder of the crops"
    )
    verb.add_argument("--camera", help="name of the camera (default: that of the video or folder)")
    verb.add_argument(
        "--start",
        type=_seconds,
        default=0.0,
        metavar="TIME",
        help="time of the first frame: seconds, or a date in ISO 8601 (UTC without a zone), so "
        "that cameras share a clock (default: 0)",
    )
    verb.add_argument(
        "--fps",
        type=values.positive,
        help="frames per second (default: that of the video; 25 for a folder)",
    )
    verb.add_argument(
        "--first-frame",
        type=values.at_least(0),
        metavar="N",
        help="number of the first frame in the detections (default: 1 for text of MOTChallenge, "
        "else 0; images are counted by the numbers in their names)",
    )
    verb.add_argument(
        "--every", type=values.count, default=1, metavar="N", help="cut every N-th frame with boxes"
    )
    verb.add_argument(
        "--margin",
        type=values.real,
        default=0.0,
        help="share of a box to add on each side (default: 0)",
    )
    verb.add_argument(
        "--least",
        type=_size,
        default=(32, 16),
        metavar="HxW",
        help="smallest crop in pixels (default: 32x16)",
    )
    verb.add_argument(
        "--confidence", type=values.real, default=0.0, help="smallest confidence (default: 0)"
    )
    verb.add_argument(
        "--category", help="name or number of the category of people (default: person)"
    )
    verb.add_argument(
        "--people",
        action="store_true",
        help="the ids of the boxes are people, not tracks: a sub-folder for each",
    )
    add_json(verb)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Cut people out of frames; return counts."""
    from jaxreid.frames.crops import PATTERN, TABLE, crop

    names = ("camera", "start", "fps", "every", "margin", "least", "confidence", "category")
    options = {name: getattr(args, name) for name in (*names, "people")}
    crops = crop(args.frames, args.detections, args.out, first=args.first_frame, **options)
    for notice in crops.notices:
        print(notice)
    there = f" ({crops.there} of them existed already)" if crops.there else ""
    print(
        f"{len(crops.files)} crops of {crops.frames} frames of camera {crops.camera} in "
        f"{crops.folder}{there}; {crops.clipped} boxes reached over the edge and were clipped."
    )
    for reason, places in crops.left_out.items():
        print(
            f"left out, {reason}: {len(places)} ({', '.join(places[:3])}"
            f"{', ...' if len(places) > 3 else ''})"
        )
    known = "" if args.people else "&split=none"
    print(
        f"read them as 'folder:{crops.folder}?pattern={PATTERN}{known}' or "
        f"'table:{crops.folder / TABLE}{known.replace('&', '?')}'"
    )
    return {
        "out": str(crops.folder),
        "camera": crops.camera,
        "frames": crops.frames,
        "crops": len(crops.files),
        "there": crops.there,
        "clipped": crops.clipped,
        "left_out": {reason: len(places) for reason, places in crops.left_out.items()},
        "table": str(crops.folder / TABLE),
    }


def _seconds(text: str) -> float:
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text):
        return float(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected seconds, or a date such as 2026-11-27T09:30:00, got {text!r}"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(
            f"expected HEIGHTxWIDTH in pixels, such as 32x16, got {text!r}"
        )
    return int(match[1]), int(match[2])
