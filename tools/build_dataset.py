"""Prepares a data set ahead of a run, and prints what is in it.

    python tools/build_dataset.py market1501 --dir /data/Market-1501-v15.09.15
    python tools/build_dataset.py synthetic_people/plaza

A run prepares what it needs by itself. This is for doing it earlier, and for checking that a folder
is complete and that its images can be read.
"""

import argparse
import sys
import time

import numpy as np

from jaxreid.data import sets as datasets


def main(argv: list[str] | None = None) -> int:
    """Runs the tool.

    Args:
        argv: command line without the program's name; the process's own if None.

    Returns:
        Exit status: 0, or 1 after an error that its message explains.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "name", help=f"data set, or data set/domain; data sets: {', '.join(datasets.available())}"
    )
    parser.add_argument("--dir", help="folder of a data set that is read from files")
    parser.add_argument(
        "--prepared-dir",
        "--prepared_dir",
        help="where prepared copies are kept (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the data set, for example time_rule=corrected; may be repeated",
    )
    args = parser.parse_args(argv)
    start = time.monotonic()
    try:
        splits = datasets.load(
            args.name,
            dir=args.dir,
            prepared_dir=args.prepared_dir,
            **datasets.parse_options(args.option),
        )
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(table(splits))
    print(f"{args.name} is ready ({time.monotonic() - start:.1f} s).")
    return 0


def table(splits: dict[str, datasets.Split]) -> str:
    """Returns the sizes of splits as aligned text, one line each below a header.

    Args:
        splits: by name.
    """
    rows = [("split", "ids", "images", "cameras")]
    for name, split in splits.items():
        cameras = len(np.unique(split.camid))
        rows.append((name, f"{split.num_classes:,}", f"{len(split):,}", f"{cameras:,}"))
    return "\n".join(f"{n:<8}  {ids:>8}  {images:>8}  {cams:>8}" for n, ids, images, cams in rows)


if __name__ == "__main__":
    sys.exit(main())
