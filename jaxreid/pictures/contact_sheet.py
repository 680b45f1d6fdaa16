"""Contact sheets: the images of a data set, a row for each person."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from jaxreid.data.images.pillow import ImageSource
from jaxreid.data.split import Split
from jaxreid.pictures.canvas import DARK, Canvas, grid

GAP, CAPTION, LABEL, HEADING = 4, 15, 76, 44
# Frame colour of a query.
QUERY = (255, 208, 60)

# Image, caption, and whether it is framed.
Shot = tuple[ImageSource, str, bool]


def people_of(splits: Mapping[str, Split], split: str) -> list[tuple[str, list[Shot]]]:
    """Group the images of a split by person, and sort them by camera and time.

    Args:
        splits: splits of a data set, by name.
        split: name of a split, or "test" for query and gallery together, with queries framed.

    Returns:
        For each person, by id with distractors (pid 0) last: a label and the images.
    """
    parts = ("query", "gallery") if split == "test" else (split,)
    people: dict[int, list] = {}
    for part in parts:
        s = splits[part]
        framed = split == "test" and part == "query"
        for image, pid, camid, time in zip(s.image, s.pid, s.camid, s.time, strict=True):
            people.setdefault(int(pid), []).append((int(camid), float(time), image, framed))
    result = []
    for pid in sorted(people, key=lambda pid: (pid <= 0, pid)):
        seen = sorted(people[pid], key=lambda item: (item[0], np.nan_to_num(item[1]), item[2]))
        shots = [(image, _caption(camid, time), framed) for camid, time, image, framed in seen]
        result.append((f"pid {pid}" if pid > 0 else "others", shots))
    return result


def sheet_title(name: str, splits: Mapping[str, Split], split: str) -> str:
    """Return two lines: the data set and split, and the size of each split of the data set."""
    sizes = []
    for part, s in splits.items():
        known, others = len(np.unique(s.pid[s.pid > 0])), int((s.pid == 0).sum())
        distractors = f" ({others:,} of others)" if others else ""
        cameras = len(np.unique(s.camid[s.camid >= 0]))
        counts = [
            _counted(len(s), "image", "images") + distractors,
            _counted(known, "person", "people"),
            _counted(cameras, "camera", "cameras"),
        ]
        sizes.append(f"{part}: {', '.join(counts)}")
    return f"{name}, {split}\n" + "    ".join(sizes)


def sheet_picture(
    title: str, people: Sequence[tuple[str, Sequence[Shot]]], *, columns: int, height: int
) -> Image.Image:
    """Draw people from `people_of` as a contact sheet, with `columns` images in a row.

    Of a person with more images, evenly spaced ones are shown. Images are `height` pixels high and
    half as wide, but at least 56.
    """
    width = max(56, height // 2)
    step = width + GAP, height + CAPTION + GAP
    canvas = Canvas(
        (LABEL + columns * step[0], HEADING + max(1, len(people)) * step[1]), palette=DARK
    )
    canvas.text((8, 4), title, 14)
    rows = grid(len(people), 1, step, (0, HEADING))
    for (label, shots), (_, top) in zip(people, rows, strict=True):
        canvas.text((8, top + 4), label, 14)
        count = _counted(len(shots), "image", "images")
        canvas.text((8, top + 24), count, 11, colour=DARK.faint)
        if len(shots) > columns:
            shots = [shots[i * len(shots) // columns] for i in range(columns)]
        corners = grid(len(shots), columns, step, (LABEL, top))
        for (image, caption, framed), corner in zip(shots, corners, strict=True):
            x, y = canvas.cell(corner, image, (width, height))
            if framed:
                canvas.rectangle((*corner, x + width, y), outline=QUERY, width=2)
            canvas.text((x + 1, y + 1), caption, 11, colour=DARK.faint, width=step[0] - 2)
    return canvas.picture()


def _caption(camid: int, time: float) -> str:
    camera = f"c{camid + 1}" if camid >= 0 else ""
    return camera if np.isnan(time) else f"{camera} {_clock(time)}".strip()


def _counted(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _clock(seconds: float) -> str:
    whole, tenths = divmod(round(seconds * 10), 10)
    minutes, second = divmod(whole, 60)
    return f"{minutes}:{second:02d}.{tenths}"
