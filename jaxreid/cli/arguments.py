"""The arguments of every verb."""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

from jaxreid.cli import verbs

SPLITS = ("train", "query", "gallery", "test")


def make_parser() -> argparse.ArgumentParser:
    """The arguments of all verbs."""
    parser = argparse.ArgumentParser(
        prog="jaxreid",
        description="Find the same person across cameras that a model has never seen.",
        epilog="example: jaxreid train qaconv --workdir=runs/qaconv",
    )
    parser.add_argument("--version", action="store_true", help="print the version, and end")
    parser.set_defaults(
        run=verbs.version, parser=parser, json=False, traceback=False, passes_on=False
    )
    places = parser.add_subparsers(metavar="VERB", title="verbs (jaxreid VERB --help explains one)")

    verb = _verb(
        places,
        "train",
        verbs.train,
        "train a model, or continue a training",
        "jaxreid train qaconv:market1501,small --workdir=runs/market --config.data.dir=/data",
        "Settings follow as --config.PATH=VALUE; --print_config lists them.",
    )
    verb.add_argument("recipe", help="recipe, or path of one, with its argument after a colon")
    verb.add_argument("--workdir", help="directory of the run")
    verb.set_defaults(passes_on=True)

    verb = _verb(
        places,
        "evaluate",
        verbs.evaluate,
        "metrics of a model on test sets",
        "jaxreid evaluate runs/qaconv --test synthetic_people/mall --rerank",
        "The results of a run are written into its work directory as well.",
    )
    _add_model(verb)
    verb.add_argument(
        "--test",
        action="append",
        metavar="NAME",
        help="test set, as data set or data set/domain (default: those of the run); repeatable",
    )
    verb.add_argument("--rerank", action="store_true", help="with k-reciprocal re-ranking as well")
    verb.add_argument("--tlift", action="store_true", help="with TLift as well")
    verb.add_argument("--flip", action="store_true", help="features of both mirror images")
    _add_folders(verb)
    _add_json(verb)

    verb = _verb(
        places,
        "embed",
        verbs.embed,
        "features of images",
        "jaxreid embed runs/qaconv photographs/ --out=features.npz",
        "The file holds `features` [N, ...] float32 and `names` [N].",
    )
    _add_model(verb)
    _add_images(verb, "images", "image files, or folders of them")
    verb.add_argument("--out", type=_path, metavar="FILE.npz", help="file to write")
    _add_json(verb)

    verb = _verb(
        places,
        "compare",
        verbs.compare,
        "score of two images; larger is more alike",
        "jaxreid compare runs/qaconv a.jpg b.jpg",
    )
    _add_model(verb)
    verb.add_argument("a", type=_path, help="image file")
    verb.add_argument("b", type=_path, help="image file")
    _add_json(verb)

    verb = _verb(
        places,
        "rank",
        verbs.rank,
        "the images of a gallery that are most like a query",
        "jaxreid rank runs/qaconv query.jpg photographs/ --top=5 --out=page.png",
    )
    _add_model(verb)
    verb.add_argument("query", type=_path, help="image file")
    _add_images(verb, "gallery", "image files, or folders of them")
    verb.add_argument("--top", type=_count, default=10, help="length of the list (default: 10)")
    verb.add_argument("--out", type=_path, metavar="FILE.png", help="picture to write")
    _add_json(verb)

    verb = _verb(
        places,
        "explain",
        verbs.explain,
        "draw the matches that make the score of two images",
        "jaxreid explain runs/qaconv a.jpg b.jpg --out=why.png",
    )
    _add_model(verb)
    verb.add_argument("a", type=_path, help="image file")
    verb.add_argument("b", type=_path, help="image file")
    verb.add_argument("--out", type=_path, required=True, metavar="FILE.png", help="picture")
    _add_json(verb)

    verb = _verb(
        places,
        "weights",
        verbs.weights,
        "write a run as one file of weights",
        "jaxreid weights runs/qaconv qaconv.safetensors",
    )
    _add_model(verb)
    verb.add_argument("out", type=_path, metavar="FILE.safetensors", help="file to write")
    _add_json(verb)

    verb = _verb(
        places,
        "convert",
        verbs.convert,
        "convert a PyTorch checkpoint to a file of weights",
        "jaxreid convert resnet50_ibn_b.pth --arch=resnet50_ibn_b --out=resnet50_ibn_b.safetensors",
        "Reads .pth, .pth.tar, .pt and .safetensors of official names: ImageNet weights of "
        "torchvision and IBN-Net, OSNet of torchreid, models of QAConv 1.0 to 2.1. Code in a "
        "checkpoint is never run. Start from the result with --config.init_from=FILE.",
    )
    _add_convert(verb)
    _add_json(verb)

    verb = places.add_parser("data", help="data sets: info, sheet, build")
    verb.set_defaults(
        run=lambda args: args.parser.error("expected info, sheet or build"), parser=verb
    )
    actions = verb.add_subparsers(metavar="ACTION")
    action = _verb(
        actions,
        "info",
        verbs.data_info,
        "the data sets there are, or the sizes of one",
        "jaxreid data info synthetic_people/plaza",
    )
    action.add_argument("name", nargs="?", help="data set or data set/domain (default: list them)")
    _add_data(action)
    _add_json(action)
    action = _verb(
        actions,
        "build",
        verbs.data_info,
        "prepare a data set ahead of a run",
        "jaxreid data build market1501 --dir=/data/market1501",
        "A run prepares what it needs by itself. This does it earlier, and checks that a folder is "
        "complete and that its images can be read.",
    )
    action.add_argument("name", help="data set or data set/domain")
    _add_data(action)
    _add_json(action)
    action = _verb(
        actions,
        "sheet",
        verbs.data_sheet,
        "draw a contact sheet: a row for each person",
        "jaxreid data sheet market1501 --dir=/data/market1501 --split=gallery --people=12",
        "The images of a person are ordered by camera and time. A data set that was not used "
        "before is prepared first, which takes a while.",
    )
    action.add_argument("name", help="data set or data set/domain")
    _add_data(action)
    action.add_argument("--out", type=_path, help="PNG to write (default: NAME_SPLIT.png)")
    action.add_argument(
        "--split",
        default="train",
        choices=SPLITS,
        help="test is query and gallery together, queries framed (default: train)",
    )
    action.add_argument("--people", type=_count, default=16, help="rows (default: 16)")
    action.add_argument("--first", type=_least(0), default=0, help="people to pass over")
    action.add_argument("--columns", type=_count, default=14, help="images in a row (default: 14)")
    action.add_argument("--height", type=_count, default=160, help="of an image (default: 160)")
    _add_json(action)

    verb = _verb(
        places,
        "recipes",
        verbs.recipes,
        "the recipes there are, or what one of them takes",
        "jaxreid recipes qaconv",
    )
    verb.add_argument("name", nargs="?", help="recipe (default: list them)")
    _add_json(verb)
    return parser


def _verb(
    places: Any, name: str, run: Callable[..., Any], title: str, example: str, more: str = ""
) -> argparse.ArgumentParser:
    verb = places.add_parser(
        name,
        help=title,
        description=f"{title[0].upper()}{title[1:]}. {more}",
        epilog=f"example: {example}",
        allow_abbrev=False,
    )
    verb.add_argument("--traceback", action="store_true", help="show where an error arose")
    verb.set_defaults(run=run, parser=verb, json=False, passes_on=False)
    return verb


def _add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "model",
        help="work directory of a run, a step of it (RUN/checkpoints/500), or a file of "
        "weights (.safetensors)",
    )


def _add_images(verb: argparse.ArgumentParser, name: str, title: str) -> None:
    verb.add_argument(name, nargs="+", type=_path, help=title)


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print the result as JSON alone")


def _add_folders(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--dir", help="folder of a data set that is read from files")
    verb.add_argument(
        "--prepared-dir", "--prepared_dir", help="where prepared copies are kept (default: TFDS's)"
    )


def _add_data(verb: argparse.ArgumentParser) -> None:
    _add_folders(verb)
    verb.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the data set, for example seed=3 or time_rule=corrected; repeatable",
    )


def _add_convert(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("checkpoint", type=_path, help="file to read")
    verb.add_argument(
        "--arch",
        required=True,
        metavar="NAME",
        help="its backbone, such as resnet50_ibn_b; a wrong name lists them",
    )
    verb.add_argument(
        "--out", required=True, type=_path, metavar="FILE.safetensors", help="file to write"
    )
    verb.add_argument(
        "--input-size",
        type=_size,
        metavar="HxW",
        help="of its images, in pixels (default: 384x128 for QAConv, 256x128 for OSNet, 224x224 "
        "for ImageNet weights of a ResNet)",
    )
    verb.add_argument(
        "--normalisation",
        choices=("imagenet", "none"),
        help="of its pixels, which are in [0, 1] before (default: none for QAConv, else imagenet)",
    )
    verb.add_argument(
        "--cut",
        choices=("layer2", "layer3", "layer4"),
        help="last layer of a QAConv model without a neck",
    )
    verb.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="PREFIX",
        help="leave out what begins with this, in the names that the report prints: criterion, "
        "neck_, classifier, base.layer4, ...; repeatable",
    )
    verb.add_argument(
        "--memory", action="store_true", help="keep the class memory of a QAConv 1.x model"
    )
    verb.add_argument("--source", default="", help="where the file is from, for the record")
    verb.add_argument("--verbose", action="store_true", help="list every name")


def _path(text: str) -> pathlib.Path:
    return pathlib.Path(text).expanduser()


def _least(low: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.strip("+").isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {low}")
        return int(text)

    return number


_count = _least(1)


def _size(text: str) -> tuple[int, int]:
    """Height and width from text like "384x128"."""
    try:
        height, width = (int(number) for number in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a HEIGHTxWIDTH such as 384x128"
        ) from None
    if min(height, width) < 32:
        raise argparse.ArgumentTypeError(f"{text} is too small; both must be at least 32")
    return height, width
