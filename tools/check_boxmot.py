"""Track drawn people with BoxMOT and an exported model; BoxMOT has an environment of its own.

    python tools/check_boxmot.py draw people.npz
    jaxreid export runs/osnet --format=onnx --like=boxmot --out=osnet_exported.onnx
    boxmot/bin/python tools/check_boxmot.py track osnet_exported.onnx people.npz

`boxmot` is an environment with `pip install boxmot onnxruntime`. BoxMOT's licence is the AGPL, so
it is a peer for this check, and nothing of the package needs it.

Eight people stand side by side for 40 frames. Then nobody is detected for 12 frames, in which
neighbours change places, and other pictures of the same people follow for 38. A tracker that goes
by motion takes each for its neighbour. Printed for each tracker: people who have the number from
before, people who have the number of somebody else, and numbers in all.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

PEOPLE, FRAMES, HIDDEN = 8, 90, range(40, 52)
HEIGHT, WIDTH = 128, 64


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("draw", help="draw the people (needs jaxreid)").add_argument(
        "people", type=pathlib.Path, metavar="FILE.npz"
    )
    track = parts.add_parser("track", help="track them (needs BoxMOT)")
    track.add_argument("model", type=pathlib.Path, metavar="FILE.onnx")
    track.add_argument("people", type=pathlib.Path, metavar="FILE.npz")
    args = parser.parse_args(arguments)
    if args.part == "draw":
        np.savez(args.people, people=drawn())
        return 0
    with np.load(args.people) as held:
        people = held["people"]
    for name, make in trackers(args.model).items():
        kept, taken, numbers = followed(make(), people)
        print(f"{name}: {kept} keep their number, {taken} have another's, {numbers} numbers")
    return 0


def drawn() -> np.ndarray:
    """Return two pictures of each person by one camera, uint8 [P, 2, h, w, 3]."""
    from jaxreid.data.images.pillow import read_image, resize
    from jaxreid.data.sets.synthetic_people import find

    pictures: dict[int, list[np.ndarray]] = {}
    splits = find("mall", train_ids=10, test_ids=40).splits
    for record in (record for name in ("query", "gallery") for record in splits[name]):
        if record.pid > 0 and record.camid == 1:
            image = resize(read_image(record.image), HEIGHT, WIDTH, "bilinear")
            pictures.setdefault(record.pid, []).append(image)
    return np.array([shots[:2] for shots in pictures.values() if len(shots) > 1][:PEOPLE])


def trackers(model: pathlib.Path) -> dict[str, Callable[[], Any]]:
    """Return makers of trackers, with the model and without one."""
    from boxmot import BotSort, ByteTrack, OcSort, StrongSort

    longest = FRAMES
    return {
        "StrongSORT, model": lambda: StrongSort(reid_weights=model, max_age=longest),
        "BoT-SORT, model": lambda: BotSort(
            reid_weights=model, use_cmc=False, proximity_thresh=1.0, track_buffer=longest
        ),
        "BoT-SORT": lambda: BotSort(use_embeddings=False, use_cmc=False, track_buffer=longest),
        "ByteTrack": lambda: ByteTrack(track_buffer=longest),
        "OC-SORT": lambda: OcSort(max_age=longest),
    }


def followed(tracker: Any, people: np.ndarray) -> tuple[int, int, int]:
    """Track the people; return how many keep their number or have another's, and all numbers."""
    random = np.random.default_rng(0)
    before: dict[int, set[int]] = {person: set() for person in range(len(people))}
    after: dict[int, set[int]] = {person: set() for person in range(len(people))}
    for time in range(FRAMES):
        frame = random.integers(120, 136, (2 * HEIGHT, 80 * (len(people) + 1), 3), np.uint8)
        boxes = []
        for person, shots in enumerate(people if time not in HIDDEN else ()):
            late = time >= HIDDEN.stop
            # 0 and 1, 2 and 3, ... change places; all walk slowly to the right.
            left = 40 + 80 * (person ^ 1 if late else person) + time % HIDDEN.start // 4
            top = HEIGHT // 2
            frame[top : top + HEIGHT, left : left + WIDTH] = shots[int(late)]
            boxes.append([left, top, left + WIDTH, top + HEIGHT, 0.9, 0])
        # BGR, as OpenCV reads frames.
        rows = tracker.update(np.array(boxes, np.float32).reshape(-1, 6), frame[..., ::-1].copy())
        for row in np.asarray(rows):
            (after if time >= HIDDEN.stop else before)[int(row[7])].add(int(row[4]))
    kept = sum(bool(before[p] & after[p]) for p in before)
    taken = sum(any(before[q] & after[p] for q in before if q != p) for p in before)
    return kept, taken, len(set().union(*before.values(), *after.values()))


if __name__ == "__main__":
    sys.exit(main())
