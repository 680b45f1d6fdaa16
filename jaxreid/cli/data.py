"""Implementation of `jaxreid data`; each action returns its result for --json."""

import argparse
import pathlib
import re
from typing import Any

from jaxreid.cli.values import check_out


def info(args: argparse.Namespace) -> dict[str, Any]:
    """List data sets, or print the sizes of one, preparing it if needed."""
    from jaxreid.data import sets

    if args.name is None:
        print("\n".join(sets.available()))
        return {"datasets": sets.available()}
    sizes = {
        part: {
            "identities": len({int(pid) for pid in split.pid} - {-1}),
            "images": len(split),
            "cameras": len({int(camid) for camid in split.camid} - {-1}),
        }
        for part, split in _splits(args).items()
    }
    print(f"{'split':<8}  {'ids':>8}  {'images':>8}  {'cameras':>8}")
    for part, size in sizes.items():
        print(f"{part:<8}  " + "  ".join(f"{number:>8,}" for number in size.values()))
    print(f"{args.name} is ready.")
    return {"dataset": args.name, "splits": sizes}


def check(args: argparse.Namespace) -> dict[str, Any]:
    """Inspect a folder or table; the exit status is 1 where there are problems."""
    from jaxreid.data import sets
    from jaxreid.data.sets.inspection import inspect

    check_out(args.out, ".png")
    report = inspect(args.place)
    print("\n".join(report.lines()))
    if args.out is not None and report.layout:
        name = args.place if ":" in args.place else f"{report.layout}:{report.path}"
        splits = sets.load(name)
        _draw_sheet(args.out, report.layout, splits, next(iter(splits)))
    args.status = int(report.problems > 0)
    return report.as_dict()


def sheet(args: argparse.Namespace) -> dict[str, Any]:
    """Draw a contact sheet."""
    out = args.out or pathlib.Path(re.sub(r"\W+", "_", f"{args.name}_{args.split}") + ".png")
    check_out(out, ".png")
    form = {
        name: getattr(args, name) for name in ("first", "people", "columns", "height", "colours")
    }
    count = _draw_sheet(out, args.name, _splits(args), args.split, **form)
    return {"dataset": args.name, "split": args.split, "people": count, "out": str(out)}


def clean(args: argparse.Namespace) -> dict[str, Any]:
    """List prepared copies; with --remove, delete those that a data set no longer uses."""
    from jaxreid.data import sets

    if args.remove and args.name is None:
        raise ValueError(
            "--remove needs a data set, whose current copy is kept: jaxreid data clean NAME "
            "[--dir=DIR] --remove."
        )
    options = {"prepared_dir": args.prepared_dir} | sets.parse_options(args.option)
    copies = sets.prepared_copies(args.name, dir=args.dir, **options)
    for copy in copies:
        unfinished = "" if copy.complete else "  (unfinished)"
        print(f"{copy.megabytes:>10,.1f} MB  {copy.prepared:%Y-%m-%d}  {copy.path}{unfinished}")
        if args.remove:
            copy.remove()
    total = sum(copy.megabytes for copy in copies)
    of = f" of {args.name} that its folder and options no longer use" if args.name else ""
    print(f"{len(copies)} prepared copies{of}, {total:,.1f} MB{', removed' * args.remove}.")
    if args.name and copies and not args.remove:
        print("Remove them with --remove; a copy is made again where its images still are.")
    listed = [{"path": str(copy.path), "megabytes": copy.megabytes} for copy in copies]
    return {"copies": listed, "removed": bool(args.remove)}


def _draw_sheet(
    out: pathlib.Path,
    name: str,
    splits: Any,
    split: str,
    *,
    first: int = 0,
    people: int = 16,
    columns: int = 14,
    height: int = 160,
    colours: int = 0,
) -> int:
    """Draw people of a split; return their number."""
    from jaxreid.pictures.canvas import save
    from jaxreid.pictures.contact_sheet import people_of, sheet_picture, sheet_title

    if split not in splits and split != "test":
        raise ValueError(f"{name} has no {split} split; it has {', '.join(splits)}.")
    everybody = people_of(splits, split)
    chosen = everybody[first : first + people]
    if not chosen:
        raise ValueError(f"--first={first} skips all {len(everybody)} people of {split}.")
    title = sheet_title(name, splits, split)
    save(sheet_picture(title, chosen, columns=columns, height=height), out, colours=colours)
    print(f"wrote {out} ({len(chosen)} of {len(everybody)} people)")
    return len(chosen)


def _splits(args: argparse.Namespace) -> Any:
    from jaxreid.data import sets

    options = sets.parse_options(args.option)
    return sets.load(args.name, dir=args.dir, prepared_dir=args.prepared_dir, **options)
