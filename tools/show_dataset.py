"""Writes a contact sheet of a data set: one row for each person, ordered by camera and time.

python tools/show_dataset.py synthetic_people/plaza --out=plaza.png
python tools/show_dataset.py market1501 --dir=/data/market1501 --split=gallery --people=12
"""

import argparse
import pathlib
import sys

from jaxreid.data import sets as datasets
from jaxreid.pictures.canvas import save
from jaxreid.pictures.contact_sheet import people_of, sheet_picture, sheet_title


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
    people = people_of(splits, given.split)
    chosen = people[given.first : given.first + given.people]
    if not chosen:
        print(
            f"error: --first={given.first} passes over all {len(people)} people of {given.split}",
            file=sys.stderr,
        )
        return 2
    title = sheet_title(given.dataset, splits, given.split)
    save(sheet_picture(title, chosen, columns=given.columns, height=given.height), out)
    print(f"wrote {out} ({len(chosen)} of {len(people)} people)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
