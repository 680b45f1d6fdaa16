"""The command `jaxreid VERB`: each verb is a few lines on the public face of the package.

argparse, not typer: nothing more to install, an answer to --help in a tenth of a second, and every
message and exit status (0 done, 1 failed, 2 not understood) in our hands. What a verb needs is
imported when it runs, so that --help and `recipes` need neither JAX nor TensorFlow.
"""

import argparse
import ast
import contextlib
import json
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
SPLITS = ("train", "query", "gallery", "test")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: command line without the program's name; the process's own if None.

    Returns:
        Exit status: 0 done, 1 failed; of `train` 75 or 130 as well, stopped and ready to go on.
        Arguments that are not understood end the process with 2.
    """
    parser = make_parser()
    args, rest = parser.parse_known_args(arguments)
    if rest and not args.passes_on:
        args.parser.error(f"unknown arguments: {' '.join(rest)}")
    args.rest = rest
    try:
        with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
            result = args.run(args)
        if args.json:
            print(json.dumps(result, indent=2, ensure_ascii=False))
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in: jaxreid recipes | head -1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        fault = isinstance(error, ModuleNotFoundError) and "pip install" not in str(error)
        if args.traceback or fault:
            traceback.print_exc()
        else:
            print(f"error: {error}\n(--traceback shows where it arose)", file=sys.stderr)
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The arguments of all verbs."""
    parser = argparse.ArgumentParser(
        prog="jaxreid",
        description="Find the same person across cameras that a model has never seen.",
        epilog="example: jaxreid train qaconv --workdir=runs/qaconv",
    )
    parser.add_argument("--version", action="store_true", help="print the version, and end")
    parser.set_defaults(run=_version, parser=parser, json=False, traceback=False, passes_on=False)
    verbs = parser.add_subparsers(metavar="VERB", title="verbs (jaxreid VERB --help explains one)")

    verb = _verb(
        verbs,
        "train",
        train,
        "train a model, or continue a training",
        "jaxreid train qaconv:market1501,small --workdir=runs/market --config.data.dir=/data",
        "Settings follow as --config.PATH=VALUE; --print_config lists them.",
    )
    verb.add_argument("recipe", help="recipe, or path of one, with its argument after a colon")
    verb.add_argument("--workdir", help="directory of the run")
    verb.set_defaults(passes_on=True)

    verb = _verb(
        verbs,
        "evaluate",
        evaluate,
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
        verbs,
        "embed",
        embed,
        "features of images",
        "jaxreid embed runs/qaconv photographs/ --out=features.npz",
        "The file holds `features` [N, ...] float32 and `names` [N].",
    )
    _add_model(verb)
    _add_images(verb, "images", "image files, or folders of them")
    verb.add_argument("--out", type=_path, metavar="FILE.npz", help="file to write")
    _add_json(verb)

    verb = _verb(
        verbs,
        "compare",
        compare,
        "score of two images; larger is more alike",
        "jaxreid compare runs/qaconv a.jpg b.jpg",
    )
    _add_model(verb)
    verb.add_argument("a", type=_path, help="image file")
    verb.add_argument("b", type=_path, help="image file")
    _add_json(verb)

    verb = _verb(
        verbs,
        "rank",
        rank,
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
        verbs,
        "explain",
        explain,
        "draw the matches that make the score of two images",
        "jaxreid explain runs/qaconv a.jpg b.jpg --out=why.png",
    )
    _add_model(verb)
    verb.add_argument("a", type=_path, help="image file")
    verb.add_argument("b", type=_path, help="image file")
    verb.add_argument("--out", type=_path, required=True, metavar="FILE.png", help="picture")
    _add_json(verb)

    verb = _verb(
        verbs,
        "weights",
        weights,
        "write a run as one file of weights",
        "jaxreid weights runs/qaconv qaconv.safetensors",
    )
    _add_model(verb)
    verb.add_argument("out", type=_path, metavar="FILE.safetensors", help="file to write")
    _add_json(verb)

    verb = _verb(
        verbs,
        "convert",
        convert,
        "convert a PyTorch checkpoint to a file of weights",
        "jaxreid convert resnet50_ibn_b.pth --arch=resnet50_ibn_b --out=resnet50_ibn_b.safetensors",
        "Reads .pth, .pth.tar, .pt and .safetensors of official names: ImageNet weights of "
        "torchvision and IBN-Net, OSNet of torchreid, models of QAConv 1.0 to 2.1. Code in a "
        "checkpoint is never run. Start from the result with --config.init_from=FILE.",
    )
    _add_convert(verb)
    _add_json(verb)

    verb = verbs.add_parser("data", help="data sets: info, sheet, build")
    verb.set_defaults(
        run=lambda args: args.parser.error("expected info, sheet or build"), parser=verb
    )
    actions = verb.add_subparsers(metavar="ACTION")
    action = _verb(
        actions,
        "info",
        data_info,
        "the data sets there are, or the sizes of one",
        "jaxreid data info synthetic_people/plaza",
    )
    action.add_argument("name", nargs="?", help="data set or data set/domain (default: list them)")
    _add_data(action)
    _add_json(action)
    action = _verb(
        actions,
        "build",
        data_info,
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
        data_sheet,
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
        verbs,
        "recipes",
        recipes,
        "the recipes there are, or what one of them takes",
        "jaxreid recipes qaconv",
    )
    verb.add_argument("name", nargs="?", help="recipe (default: list them)")
    _add_json(verb)
    return parser


def train(args: argparse.Namespace) -> None:
    """Trains, as `python -m jaxreid.main` does."""
    from absl import app

    from jaxreid import main as program

    workdir = [f"--workdir={args.workdir}"] if args.workdir else []
    sys.argv = ["jaxreid train", f"--config={args.recipe}", *workdir, *args.rest]
    if args.traceback:
        sys.argv.append("--traceback")
    app.run(program.main, flags_parser=program.parse_flags)  # ends the process


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluates a model; returns metrics by test set."""
    reid = _load(args)
    if not args.test and reid.step is None:
        raise ValueError(f"{args.model} names no test sets: give one, as in --test market1501.")
    ways = {name: True for name in ("rerank", "tlift", "flip") if getattr(args, name)}
    workdir = reid.path if reid.step is not None else None
    folders = {"dir": args.dir, "prepared_dir": args.prepared_dir}
    results = reid.evaluate(args.test, workdir=workdir, **folders, **ways)
    if workdir is None:
        for name, result in results.items():
            print(f"{name}: {result}")
    return {name: dict(result.metrics) for name, result in results.items()}


def embed(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the features of images; returns their names and shape."""
    import numpy as np

    _check_out(args.out, ".npz")
    paths = _images(args.images)
    features = _load(args).embed(paths)
    names = [str(path) for path in paths]
    if args.out:
        np.savez(args.out, features=features, names=np.array(names))
    saved = f", in {args.out}" if args.out else " (--out=FILE.npz keeps them)"
    print(f"{len(paths)} images: features {list(features.shape)} float32{saved}")
    return {"images": names, "shape": list(features.shape), "out": args.out and str(args.out)}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the score of two images."""
    paths = _images([args.a, args.b])
    reid = _load(args)
    features = reid.embed(paths)
    score = float(reid.score(features[:1], features[1:])[0, 0])
    print(f"{score:+.3f}  (a score of this model; larger is more alike)")
    return {"a": str(args.a), "b": str(args.b), "score": score}


def rank(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the best of a gallery."""
    _check_out(args.out, ".png")
    (query,), gallery = _images([args.query]), _images(args.gallery)
    hits = _load(args).rank(query, gallery, top=args.top)
    for place, hit in enumerate(hits, 1):
        print(f"{place:3}. {hit.score:+8.3f}  {hit.image}")
    if args.out:
        hits.save(args.out)
        print(f"wrote {args.out}")
    listed = [{"image": str(hit.image), "score": float(hit.score)} for hit in hits]
    return {"query": str(query), "hits": listed}


def explain(args: argparse.Namespace) -> dict[str, Any]:
    """Draws the matches of two images."""
    _check_out(args.out, ".png")
    explanation = _load(args).explain(*_images([args.a, args.b]))
    explanation.save(args.out)
    print(f"wrote {args.out}")
    return {"a": str(args.a), "b": str(args.b), "out": str(args.out)}


def weights(args: argparse.Namespace) -> dict[str, Any]:
    """Writes a model as a file of weights."""
    _check_out(args.out, ".safetensors")
    reid = _load(args)
    reid.save(args.out)
    print(f"wrote {args.out}\nuse it: --config.init_from={args.out}")
    return {"model": str(args.model), "step": reid.step, "out": str(args.out)}


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Converts a PyTorch checkpoint."""
    from jaxreid.weights.torch_checkpoint import Misfit, convert_file, report_lines

    names = ("input_size", "normalisation", "cut", "skip", "memory", "source")
    options = {name: getattr(args, name) for name in names}
    try:
        made = convert_file(args.checkpoint, args.out, args.arch, **options)
    except Misfit as error:
        print("\n".join(report_lines(error.report, every_name=args.verbose)))
        raise
    print("\n".join(report_lines(made.report, every_name=args.verbose)))
    card = made.card
    print(
        f"{made.path}: {card['backbone']['name']}, neck {card['neck']['name']}, matcher "
        f"{card['matcher']['name']}, {card['height']}x{card['width']}, mean {card['mean']}"
    )
    print(f"use it: --config.init_from={made.path}")
    return {"out": str(made.path), "model": card, "loaded": len(made.report.loaded)}


def data_info(args: argparse.Namespace) -> dict[str, Any]:
    """Prints the sizes of a data set, which is prepared where that has not been done."""
    from jaxreid.data import sets

    if args.name is None:
        print("\n".join(sets.available()))
        return {"datasets": sets.available()}
    sizes = {
        part: {
            "identities": split.num_classes,
            "images": len(split),
            "cameras": len({int(camid) for camid in split.camid}),
        }
        for part, split in _splits(args).items()
    }
    print(f"{'split':<8}  {'ids':>8}  {'images':>8}  {'cameras':>8}")
    for part, size in sizes.items():
        print(f"{part:<8}  " + "  ".join(f"{number:>8,}" for number in size.values()))
    print(f"{args.name} is ready.")
    return {"dataset": args.name, "splits": sizes}


def data_sheet(args: argparse.Namespace) -> dict[str, Any]:
    """Draws a contact sheet."""
    from jaxreid.pictures.canvas import save
    from jaxreid.pictures.contact_sheet import people_of, sheet_picture, sheet_title

    out = args.out or pathlib.Path(f"{args.name.replace('/', '_')}_{args.split}.png")
    _check_out(out, ".png")
    splits = _splits(args)
    people = people_of(splits, args.split)
    chosen = people[args.first : args.first + args.people]
    if not chosen:
        raise ValueError(f"--first={args.first} passes over all {len(people)} of {args.split}.")
    title = sheet_title(args.name, splits, args.split)
    save(sheet_picture(title, chosen, columns=args.columns, height=args.height), out)
    print(f"wrote {out} ({len(chosen)} of {len(people)} people)")
    return {"dataset": args.name, "split": args.split, "people": len(chosen), "out": str(out)}


def recipes(args: argparse.Namespace) -> dict[str, Any]:
    """Lists the recipes, or prints what one of them takes."""
    from jaxreid import configs
    from jaxreid.names import check_name

    def words(name: str) -> str:
        return ast.get_docstring(ast.parse((configs.FOLDER / f"{name}.py").read_text())) or ""

    if args.name is None:
        lines = {name: words(name).partition("\n")[0] for name in configs.recipes()}
        print("\n".join(f"{name:<14}{line}" for name, line in lines.items()))
        print(
            "\njaxreid recipes NAME explains one; jaxreid train NAME --print_config lists its "
            "settings."
        )
        return lines
    text = words(check_name(args.name, configs.recipes(), "recipe"))
    print(text)
    return {args.name: text}


def _version(args: argparse.Namespace) -> dict[str, Any]:
    import jaxreid

    if not args.version:
        args.parser.error("expected a verb; --help lists them")
    print(f"jaxreid {jaxreid.__version__}")
    return {}


def _verb(
    verbs: Any, name: str, run: Callable[..., Any], title: str, example: str, more: str = ""
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
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


def _load(args: argparse.Namespace) -> Any:
    """The model, after it is clear that there is a device."""
    import jaxreid
    from jaxreid.mesh import check_devices, remember_compiled

    check_devices()
    remember_compiled()
    return jaxreid.load(args.model)


def _images(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The image files among some paths; folders stand for the images in them, by name."""
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise ValueError(f"{path} holds no images ({', '.join(SUFFIXES)}).")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"no file {path}; expected an image, or a folder of images.")
    return found


def _check_out(path: pathlib.Path | None, suffix: str) -> None:
    """Raises before any work where a result could not be written."""
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path} must end in {suffix}.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}, in which to write {path.name}.")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise OSError(f"{path} cannot be written.")


def _splits(args: argparse.Namespace) -> Any:
    from jaxreid.data import sets

    options = sets.parse_options(args.option)
    return sets.load(args.name, dir=args.dir, prepared_dir=args.prepared_dir, **options)


if __name__ == "__main__":
    sys.exit(main())
