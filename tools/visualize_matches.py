"""Draw local matches of image pairs and the contribution of each match to the score.

For QAConv-MS, each scale of the features is drawn side by side.

python tools/visualize_matches.py --workdir=runs/qaconv --query=3 --out=matches.png
python tools/visualize_matches.py --weights=qaconv.safetensors --images a.jpg b.jpg --out=pair.png
"""

import argparse
import difflib
import itertools
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from jaxreid import ReID, load
from jaxreid.data.sets import available, load_sets
from jaxreid.evaluation.ranking import top_matches
from jaxreid.reid.explanation import Explanation

# Maximum number of gallery images that represent the average gallery image.
OTHERS = 256


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Draw the matches of a QAConv or QAConv-MS model as PNG: pairs of images side "
        "by side, lines between the best matching cells, coloured by their contribution to the "
        "score, and below each pair the sum that makes up its score. QAConv-MS is drawn once for "
        "each part of its features, with the patches seen by its templates.",
        epilog="Without --images, draws a query of a data set with the best matches in its "
        "gallery, framed green if correct and red if wrong. Contributions are measured relative to "
        "the average gallery image unless --absolute is given.",
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", type=pathlib.Path, help="work directory of a run")
    model.add_argument(
        "--weights", type=pathlib.Path, metavar="FILE.safetensors",
        help="weights file from tools/convert_torch.py",
    )  # fmt: skip
    parser.add_argument(
        "--images", nargs=2, type=pathlib.Path, metavar=("A", "B"), help="two JPEG or PNG files"
    )
    parser.add_argument(
        "--dataset",
        help="DATASET or DATASET/DOMAIN (default: the first test set of the run); "
        f"data sets: {', '.join(available())}",
    )
    parser.add_argument(
        "--dir",
        "--data-dir",
        "--data_dir",
        help="source folder of a data set that is read from files",
    )
    parser.add_argument(
        "--prepared-dir",
        "--prepared_dir",
        help="folder of prepared copies (default: that of TFDS)",
    )
    parser.add_argument("--query", help="index, from 0, or file name of a query (default: 0)")
    parser.add_argument(
        "--parts", nargs="+", metavar="PART",
        help="QAConv-MS parts to draw, such as pixel, 1x1, 3x3, 5x5, attention (default: all)",
    )  # fmt: skip
    parser.add_argument("--top", type=int, default=3, help="gallery images (default: 3)")
    parser.add_argument("--matches", type=int, default=12, help="lines per pair (default: 12)")
    parser.add_argument(
        "--height", type=int, default=384, help="image height in pixels (default: 384)"
    )
    parser.add_argument(
        "--absolute", action="store_true",
        help="show contributions as summed by the model, not relative to the average image",
    )  # fmt: skip
    parser.add_argument("--out", type=pathlib.Path, required=True, help="PNG to write")
    args = parser.parse_args(arguments)
    for name in ("top", "matches", "height"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; expected at least 1.")
    if args.images and (args.dataset or args.query):
        parser.error("--images draws two files; omit --dataset and --query.")
    if args.weights and not (args.images or args.dataset):
        parser.error("a weights file names no data set: give --dataset or --images.")
    return args


def two_files(reid: ReID, given: argparse.Namespace) -> Explanation:
    """Explain the score of two image files.

    Raises:
        FileNotFoundError, ValueError: a file does not exist or is not an image.
    """
    for path in given.images:
        if not path.is_file():
            raise FileNotFoundError(f"--images: no file {path}")
    explanation = reid.explain(*given.images, parts=given.parts)
    return explanation.titled("two images and their strongest matches")


def best_of_gallery(reid: ReID, given: argparse.Namespace) -> Explanation:
    """Explain a query's scores with its best gallery images, ranked by the evaluation protocol.

    Raises:
        ValueError: unknown query.
    """
    data = dict(reid.settings.get("data", {}))
    name = given.dataset or data["test"][0]
    folders = {"dir": given.dir, "prepared_dir": given.prepared_dir}
    data.update({key: value for key, value in folders.items() if value})
    splits = load_sets(**data | {"train": None, "test": (name,)})[1][name]
    query, gallery = splits["query"], splits["gallery"]
    q = find(given.query or "0", query.name)
    features = reid.embed(gallery.image, names=gallery.name)
    scores = reid.score(reid.embed(query.image[q], names=[query.name[q]]), features)[0]
    ids = query.pid[q], query.camid[q], gallery.pid, gallery.camid
    best = top_matches(scores, *ids, given.top)
    best = best[best >= 0]
    sample = np.linspace(0, len(features) - 1, min(len(features), OTHERS)).astype(int)
    ranked = [f"{rank}. {gallery.name[g]}" for rank, g in enumerate(best, 1)]
    explanation = reid.explain(
        query.image[q],
        *(gallery.image[g] for g in best),
        parts=given.parts,
        reference=None if given.absolute else features[sample],
        titles=[query.name[q], *ranked],
        right=[bool(gallery.pid[g] == query.pid[q]) for g in best],
    )
    return explanation.titled(
        f"{name}: query {q} and the best {len(best)} of {len(gallery)} gallery images"
    )


def find(wanted: str, names: Sequence[str]) -> int:
    """Return the index of a query from its index or file name.

    Raises:
        ValueError: unknown query; the message gives the valid range or the nearest names.
    """
    if wanted.isdigit():
        if int(wanted) < len(names):
            return int(wanted)
        raise ValueError(f"--query={wanted}: expected an index from 0 to {len(names) - 1}.")
    for i, name in enumerate(names):
        if wanted in (name, pathlib.PurePath(name).stem):
            return i
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.0)
    raise ValueError(f"--query: no query is named {wanted!r}; nearest names: {', '.join(near)}.")


def draw(given: argparse.Namespace) -> Explanation:
    """Write the picture; return the explanation it shows.

    Raises:
        FileNotFoundError, ValueError, OSError: an argument is invalid or a file is unusable.
    """
    if not given.out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out: no folder {given.out.absolute().parent}")
    reid = load(given.weights or given.workdir)
    reid.check_explains(given.parts)
    explanation = (two_files if given.images else best_of_gallery)(reid, given)
    explanation.save(given.out, height=given.height, matches=given.matches)
    return explanation


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    args = parse(arguments)
    try:
        explanation = draw(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(explanation.title)
    for name, group in itertools.groupby(explanation.pairs, key=lambda pair: pair.titles[1]):
        group = list(group)
        first = group[0]
        verdict = {None: "", True: "the same person", False: "another person"}[first.right]
        score = first.score if first.whole is None else first.whole
        print(f"  {name}  score {score:+.3f}  {verdict}".rstrip())
        if first.part:
            rest = score - sum(pair.score for pair in group)
            parts = "  ".join(f"{pair.part} {pair.score:+.3f}" for pair in group)
            print(f"    = {parts}  rest {rest:+.3f}")
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
