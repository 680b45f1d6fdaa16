"""Writes a contact sheet of a data set: one row for each person, ordered by camera and time.

python tools/show_dataset.py synthetic_people/plaza --out=plaza.png
python tools/show_dataset.py market1501 --dir=/data/market1501 --split=gallery --people=12
"""

import argparse
import io
import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxreid.data.sets import loading as datasets

_GAP, _CAPTION, _LABEL, _TITLE = 4, 15, 76, 44
_BACK, _INK, _FAINT = (24, 26, 30), (236, 236, 232), (160, 164, 170)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(
        description="Write a contact sheet (PNG) of a data set: a row for each person, their "
        "images ordered by camera and time, with camera number and time of sighting under each.",
        epilog="A data set that was not used before is prepared first, which takes a while.",
    )
    parser.add_argument(
        "dataset", help=f"data set or data set/domain; data sets: {', '.join(datasets.available())}"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, help="PNG to write (default: DATASET_SPLIT.png)"
    )
    parser.add_argument("--dir", help="folder of a data set that is read from files")
    parser.add_argument(
        "--prepared-dir", "--prepared_dir", help="where prepared copies are kept (default: TFDS's)"
    )
    parser.add_argument(
        "--split",
        default="train",
        choices=("train", "query", "gallery", "test"),
        help="test is query and gallery together, queries framed (default: train)",
    )
    parser.add_argument("--people", type=int, default=16, help="rows (default: 16)")
    parser.add_argument("--first", type=int, default=0, help="people to pass over (default: 0)")
    parser.add_argument("--columns", type=int, default=14, help="images in a row (default: 14)")
    parser.add_argument("--height", type=int, default=160, help="of an image (default: 160 pixels)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE",
        help="option of the data set, for example seed=3 or time_rule=corrected; repeatable",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    for name in ("people", "columns", "height"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; it must be at least 1.")
    if given.first < 0:
        parser.error(f"--first is {given.first}; it must be at least 0.")
    try:
        given.options = datasets.parse_options(given.option)
    except ValueError as error:
        parser.error(str(error))
    return given


def rows(splits: dict, split: str) -> list[tuple[str, list[tuple[bytes, str, bool]]]]:
    """Orders the images of a split by person, camera and time.

    Args:
        splits: from `jaxreid.data.sets.loading.load`.
        split: train, query, gallery or test.

    Returns:
        For each person, by id with distractors (pid 0) last: a label, and for each image its bytes,
        its caption, and whether it is to be framed.
    """
    parts = ("query", "gallery") if split == "test" else (split,)
    people: dict[int, list] = {}
    for part in parts:
        s = splits[part]
        for image, pid, camid, time in zip(s.image, s.pid, s.camid, s.time, strict=True):
            framed = split == "test" and part == "query"
            people.setdefault(int(pid), []).append((int(camid), float(time), image, framed))
    result = []
    for pid in sorted(people, key=lambda pid: (pid <= 0, pid)):
        seen = sorted(people[pid], key=lambda item: (item[0], np.nan_to_num(item[1]), item[2]))
        images = [
            (image, f"c{camid + 1}" + ("" if np.isnan(time) else f" {_clock(time)}"), framed)
            for camid, time, image, framed in seen
        ]
        result.append((f"pid {pid}" if pid > 0 else "others", images))
    return result


def _clock(seconds: float) -> str:
    whole, tenths = divmod(round(seconds * 10), 10)
    minutes, second = divmod(whole, 60)
    return f"{minutes}:{second:02d}.{tenths}"


def sheet(title: str, people: list, columns: int, height: int) -> Image.Image:
    """Draws a contact sheet.

    Args:
        title: written at the top; may have two lines.
        people: from `rows`.
        columns: images in a row; of a person with more, evenly spaced ones are shown.
        height: of each image in pixels; they are half as wide.

    Returns:
        RGB image.
    """
    width = max(56, height // 2)
    step_x, step_y = width + _GAP, height + _CAPTION + _GAP
    page = Image.new(
        "RGB", (_LABEL + columns * step_x, _TITLE + max(1, len(people)) * step_y), _BACK
    )
    draw = ImageDraw.Draw(page)
    font, small = ImageFont.load_default(14), ImageFont.load_default(11)
    draw.multiline_text((8, 4), title, fill=_INK, font=font, spacing=3)
    for row, (label, images) in enumerate(people):
        y = _TITLE + row * step_y
        draw.text((8, y + 4), label, fill=_INK, font=font)
        draw.text((8, y + 24), f"{len(images)} images", fill=_FAINT, font=small)
        if len(images) > columns:
            images = [images[i * len(images) // columns] for i in range(columns)]
        for column, (data, caption, framed) in enumerate(images):
            x = _LABEL + column * step_x
            picture = Image.open(io.BytesIO(data)).convert("RGB")
            page.paste(picture.resize((width, height), Image.Resampling.BICUBIC), (x, y))
            if framed:
                draw.rectangle(
                    (x, y, x + width - 1, y + height - 1), outline=(255, 208, 60), width=2
                )
            draw.text((x + 1, y + height + 1), caption, fill=_FAINT, font=small)
    return page


def title_of(name: str, splits: dict, split: str) -> str:
    """Returns the two lines at the top of a sheet: what is shown, and the size of each split."""
    sizes = []
    for part, s in splits.items():
        known = len(np.unique(s.pid[s.pid > 0]))
        others = int((s.pid == 0).sum())
        extra = f" + {others:,} of others" if others else ""
        cameras = len(np.unique(s.camid))
        sizes.append(f"{part}: {len(s):,} images{extra and ' (' + extra[3:] + ')'}, "
                     f"{known:,} people, {cameras} cameras")  # fmt: skip
    return f"{name}, {split}\n" + "    ".join(sizes)


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool; returns its exit status."""
    given = parse(arguments)
    out = given.out or pathlib.Path(f"{given.dataset.replace('/', '_')}_{given.split}.png")
    if not out.absolute().parent.is_dir():
        print(f"error: --out: there is no folder {out.absolute().parent}", file=sys.stderr)
        return 2
    try:
        splits = datasets.load(
            given.dataset, dir=given.dir, prepared_dir=given.prepared_dir, **given.options
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    people = rows(splits, given.split)
    chosen = people[given.first : given.first + given.people]
    if not chosen:
        print(
            f"error: --first={given.first} passes over all {len(people)} people of {given.split}",
            file=sys.stderr,
        )
        return 2
    title = title_of(given.dataset, splits, given.split)
    page = sheet(title, chosen, given.columns, given.height)
    page.save(out, "PNG")
    print(f"wrote {out} ({len(chosen)} of {len(people)} people)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
