"""Command-line arguments of `jaxreid data`."""

from typing import Any

from jaxreid.cli import data, values
from jaxreid.cli.pieces import add_data, add_json, add_verb

SPLITS = ("train", "query", "gallery", "test")


def add_data_verbs(commands: Any) -> None:
    """Add the verb data with its actions."""
    verb = commands.add_parser("data", help="data sets: info, check, sheet, build, clean")
    verb.set_defaults(
        run=lambda args: args.parser.error("expected info, check, sheet, build or clean"),
        parser=verb,
    )
    actions = verb.add_subparsers(metavar="ACTION")
    action = add_verb(
        actions,
        "info",
        data.info,
        "list data sets or show the sizes of one",
        "jaxreid data info synthetic_people/plaza",
    )
    action.add_argument("name", nargs="?", help=f"{values.DATASET} (default: list all)")
    add_data(action)
    add_json(action)
    action = add_verb(
        actions,
        "check",
        data.check,
        "inspect a folder or table of images",
        "jaxreid data check /data/mine --out=sheet.png",
        "Reports the layout, or what the nearest one lacks; counts people, cameras and times; "
        "finds broken images, copies and look-alikes within and across splits, odd shapes, and "
        "people seen by one camera or in training and test. The exit status is 1 if a problem is "
        "found.",
    )
    action.add_argument(
        "place", help="folder or table, or a data set with its place: folder:DIR?pattern={pid}_*"
    )
    action.add_argument("--out", type=values.path, metavar="FILE.png", help="contact sheet to draw")
    add_json(action)
    action = add_verb(
        actions,
        "build",
        data.info,
        "prepare a data set ahead of a run",
        "jaxreid data build market1501:/data/market1501",
        "Runs check and prepare data sets automatically. This verb does so in advance: it checks "
        "that the folder is complete and its images are readable, draws people, and with "
        "--prepared-dir copies images there, for file systems on which many files are slow.",
    )
    action.add_argument("name", help=values.DATASET)
    add_data(action)
    add_json(action)
    action = add_verb(
        actions,
        "clean",
        data.clean,
        "list and remove old prepared copies",
        "jaxreid data clean market1501:/data/market1501 --remove",
        "A changed folder or option gets a copy of its own. This verb lists the copies of a data "
        "set but the one that its folder and options use now, and all copies without a name.",
    )
    action.add_argument("name", nargs="?", help=f"{values.DATASET} (default: list all)")
    add_data(action)
    action.add_argument("--remove", action="store_true", help="remove the listed copies of NAME")
    add_json(action)
    action = add_verb(
        actions,
        "sheet",
        data.sheet,
        "draw a contact sheet with one row per person",
        "jaxreid data sheet market1501:/data/market1501 --split=gallery --people=12",
        "Images of a person are ordered by camera and time.",
    )
    action.add_argument("name", help=values.DATASET)
    add_data(action)
    action.add_argument("--out", type=values.path, help="PNG to write (default: NAME_SPLIT.png)")
    action.add_argument(
        "--split",
        default="train",
        choices=SPLITS,
        help="test shows query and gallery together, queries framed (default: train)",
    )
    action.add_argument("--people", type=values.count, default=16, help="rows (default: 16)")
    action.add_argument(
        "--first", type=values.at_least(0), default=0, help="people to skip (default: 0)"
    )
    action.add_argument(
        "--columns", type=values.count, default=14, help="images per row (default: 14)"
    )
    action.add_argument(
        "--height", type=values.count, default=160, help="image height in pixels (default: 160)"
    )
    action.add_argument(
        "--colours",
        type=values.within(2, 256),
        default=0,
        help="colours of the PNG, 2 to 256, for a smaller file (default: all)",
    )
    add_json(action)
