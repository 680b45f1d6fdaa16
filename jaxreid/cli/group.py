"""The verb group: images of unknown people, by person."""

import argparse
from typing import Any

from jaxreid.cli import values
from jaxreid.cli.pieces import add_chosen_model, add_json, add_verb


def add_group(commands: Any) -> None:
    """Add the verb group."""
    verb = add_verb(
        commands,
        "group",
        run,
        "group images of unknown people by person",
        "jaxreid group crops/crops.csv --model=runs/qaconv --threshold=2 --out=people",
        "Writes people.csv, a table for data sets (table:OUT/people.csv), and people.html, a page "
        "to correct the groups: open it, drag pictures to their person, save the table, and give "
        "it to --apply. Two images of one camera at one moment are two people.",
    )
    verb.add_argument(
        "place",
        nargs="?",
        help="folder or table of images, or a data set with its place: "
        "folder:DIR?pattern={camid}_t{time}_f*",
    )
    verb.add_argument(
        "--apply",
        type=values.path,
        metavar="FILE.csv",
        help="write the people of this corrected table instead of grouping",
    )
    verb.add_argument(
        "--out", required=True, type=values.path, metavar="FOLDER", help="folder to write"
    )
    add_chosen_model(verb)
    verb.add_argument(
        "--threshold",
        type=values.real,
        metavar="SIMILARITY",
        help="join groups from this mean similarity of their images on: a probability if the model "
        "is calibrated (default: 0.3), else a score of the model",
    )
    verb.add_argument(
        "--people", type=values.count, metavar="N", help="make N groups, instead of a threshold"
    )
    verb.add_argument(
        "--together",
        action="store_true",
        help="let images of one camera at one moment join, where detectors see people twice",
    )
    verb.add_argument(
        "--folders",
        choices=("link", "copy"),
        help="also write a sub-folder of links or copies for each person",
    )
    verb.add_argument(
        "--labels",
        action="store_true",
        help="compare the groups with the people in the names or the table",
    )
    add_json(verb)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Group images, or write the people of a corrected table."""
    from jaxreid.reid.groups import PAGE, TABLE, check_folders

    if (args.place is None) == (args.apply is None):
        args.parser.error("expected a folder or table to group, or --apply=FILE.csv")
    if args.folders:
        check_folders(args.out, args.folders)
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"{args.out} is a file; expected a folder to write.")
    if args.apply is not None:
        return _apply(args)
    import numpy as np

    from jaxreid.cli.verbs import load_model
    from jaxreid.data.sets.photos import photos_at
    from jaxreid.evaluation.grouping import check_count

    photos, notices = photos_at(args.place)
    check_count(len(photos))
    for notice in notices:
        print(notice)
    known = [photo.person for photo in photos]
    if args.labels and not any(known):
        raise ValueError(
            f"{args.place} names no people; expected people in sub-folders, in a pattern or in the "
            "column person, to compare with (--labels)."
        )
    reid = load_model(args)
    groups = reid.group(
        [str(photo.image) for photo in photos],
        camera=[photo.camera for photo in photos],
        time=[photo.time for photo in photos],
        threshold=args.threshold,
        people=args.people,
        keep_apart=not args.together,
    )
    sizes = np.bincount(groups.group)
    how = f"joined from a {groups.kind} of {groups.threshold}"
    if groups.threshold is None:
        how = "as many as requested"
    print(
        f"{len(photos)} images of {len(groups)} people ({how}), {(sizes == 1).sum()} of them on "
        f"one image; the largest on {sizes[0]}. Kept apart, of one camera at one moment: "
        f"{groups.separate} pairs."
    )
    result: dict[str, Any] = {
        "out": str(args.out),
        "images": len(photos),
        "people": len(groups),
        "sizes": sizes.tolist(),
        "kind": groups.kind,
        "threshold": groups.threshold,
        "apart": groups.separate,
    }
    if args.labels:
        result["agreement"] = _agreement(groups.group, known)
    groups.save(args.out, form=args.folders)
    print(
        f"wrote {args.out / TABLE}, and {args.out / PAGE} to correct it: open it in a browser, "
        f"save the table, then: jaxreid group --apply=corrected.csv --out={args.out}"
    )
    return result


def _apply(args: argparse.Namespace) -> dict[str, Any]:
    """Write the people of a table."""
    from collections import Counter

    from jaxreid.data.sets import table
    from jaxreid.reid.groups import TABLE, write_people

    _, photos, notices = table.read_photos(args.apply)
    for notice in notices:
        print(notice)
    write_people(args.out, photos, form=args.folders)
    count = Counter(photo.person for photo in photos)
    junk, nobody = count.pop("-1", 0), count.pop("", 0)
    several = sum(number > 1 for number in count.values())
    print(
        f"wrote {args.out / TABLE}: {sum(count.values())} images of {len(count)} people, {several} "
        f"of them on two or more; {junk} set aside, {nobody} without a person. Train on them: "
        f"jaxreid finetune RUN --data=table:{args.out / TABLE} --workdir=runs/own"
    )
    return {"out": str(args.out), "people": len(count), "images": len(photos), "aside": junk}


def _agreement(group: Any, known: list[str]) -> dict[str, float]:
    """Compare groups with the people whose names are known, and print it."""
    import numpy as np

    from jaxreid.evaluation.grouping import agreement

    named = np.array([bool(name) for name in known])
    numbers = {name: i for i, name in enumerate(dict.fromkeys(known))}
    measures = agreement(group[named], np.array([numbers[name] for name in known])[named])
    print(
        f"against {measures['people']} known people on {named.sum()} images: "
        f"ARI {measures['ari']:.3f}, NMI {measures['nmi']:.3f}; pairs: "
        f"precision {measures['precision']:.3f}, recall {measures['recall']:.3f}, "
        f"F1 {measures['f1']:.3f}"
    )
    return measures
