"""Draws which parts of two images matched, and what each match adds to their score.

For QAConv-MS once for each scale of its features, side by side.

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

OTHERS = 256  # gallery images, at most, that stand for the average one


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(
        description="Draw what a QAConv or QAConv-MS model sees (PNG): pairs of images side by "
        "side, lines between the cells that match best, coloured by what each adds to the score, "
        "and below each pair the sum that makes its score; of QAConv-MS once for each part of its "
        "features, with the patches that its templates see.",
        epilog="Without --images a query of a data set is shown with the best of its gallery, "
        "right ones framed green and wrong ones red; what cells add is told above what they add "
        "with the average gallery image, unless --absolute is given.",
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", type=pathlib.Path, help="work directory of a training")
    model.add_argument(
        "--weights", type=pathlib.Path, metavar="FILE.safetensors",
        help="file of tools/convert_torch.py",
    )  # fmt: skip
    parser.add_argument(
        "--images", nargs=2, type=pathlib.Path, metavar=("A", "B"), help="two JPEG or PNG files"
    )
    parser.add_argument(
        "--dataset",
        help="data set or data set/domain (default: the first that the training is tested on); "
        f"data sets: {', '.join(available())}",
    )
    parser.add_argument(
        "--dir", "--data-dir", "--data_dir", help="folder of a data set that is read from files"
    )
    parser.add_argument(
        "--prepared-dir", "--prepared_dir", help="where prepared copies are kept (default: TFDS's)"
    )
    parser.add_argument("--query", help="number, from 0, or file name of a query (default: 0)")
    parser.add_argument(
        "--parts", nargs="+", metavar="PART",
        help="of QAConv-MS: which to show, of pixel, 1x1, 3x3, 5x5, attention (default: all)",
    )  # fmt: skip
    parser.add_argument("--top", type=int, default=3, help="gallery images (default: 3)")
    parser.add_argument("--matches", type=int, default=12, help="lines in a pair (default: 12)")
    parser.add_argument("--height", type=int, default=384, help="of an image (default: 384 pixels)")
    parser.add_argument(
        "--absolute", action="store_true",
        help="tell what cells add as the model adds it up",
    )  # fmt: skip
    parser.add_argument("--out", type=pathlib.Path, required=True, help="PNG to write")
    given = parser.parse_args(arguments)
    for name in ("top", "matches", "height"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; it must be at least 1.")
    if given.images and (given.dataset or given.query):
        parser.error("--images shows two files; leave out --dataset and --query.")
    if given.weights and not (given.images or given.dataset):
        parser.error("a file of weights knows no data set: give --dataset, or --images.")
    return given


def two_files(reid: ReID, given: argparse.Namespace) -> Explanation:
    """The matches of two image files.

    Raises:
        FileNotFoundError, ValueError: a file is not there, or not an image.
    """
    for path in given.images:
        if not path.is_file():
            raise FileNotFoundError(f"--images: there is no file {path}")
    explanation = reid.explain(*given.images, parts=given.parts)
    return explanation.titled("two images and their strongest matches")


def best_of_gallery(reid: ReID, given: argparse.Namespace) -> Explanation:
    """The matches of a query and the best of the gallery, as the protocol ranks it.

    Raises:
        ValueError: there is no such query.
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
    some = np.linspace(0, len(features) - 1, min(len(features), OTHERS)).astype(int)
    ranked = [f"{rank}. {gallery.name[g]}" for rank, g in enumerate(best, 1)]
    explanation = reid.explain(
        query.image[q],
        *(gallery.image[g] for g in best),
        parts=given.parts,
        reference=None if given.absolute else features[some],
        titles=[query.name[q], *ranked],
        right=[bool(gallery.pid[g] == query.pid[q]) for g in best],
    )
    return explanation.titled(
        f"{name}: query {q} and the best {len(best)} of {len(gallery)} gallery images"
    )


def find(wanted: str, names: Sequence[str]) -> int:
    """The index of a query, from its number or its file name.

    Raises:
        ValueError: there is none; says the range, or the nearest names.
    """
    if wanted.isdigit():
        if int(wanted) < len(names):
            return int(wanted)
        raise ValueError(f"--query={wanted}: the queries are 0 to {len(names) - 1}.")
    for i, name in enumerate(names):
        if wanted in (name, pathlib.PurePath(name).stem):
            return i
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.0)
    raise ValueError(f"--query: no query is named {wanted!r}; the nearest are {', '.join(near)}.")


def draw(given: argparse.Namespace) -> Explanation:
    """Writes the picture; returns what it shows.

    Raises:
        FileNotFoundError, ValueError, OSError: something that was named cannot be used.
    """
    if not given.out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out: there is no folder {given.out.absolute().parent}")
    reid = load(given.weights or given.workdir)
    reid.check_explains(given.parts)
    explanation = (two_files if given.images else best_of_gallery)(reid, given)
    explanation.save(given.out, height=given.height, matches=given.matches)
    return explanation


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool; returns its exit status."""
    given = parse(arguments)
    try:
        explanation = draw(given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(explanation.title)
    for name, group in itertools.groupby(explanation.pairs, key=lambda pair: pair.titles[1]):
        group = list(group)
        first = group[0]
        said = {None: "", True: "the same person", False: "another person"}[first.right]
        score = first.score if first.whole is None else first.whole
        print(f"  {name}  score {score:+.3f}  {said}".rstrip())
        if first.part:
            rest = score - sum(pair.score for pair in group)
            parts = "  ".join(f"{pair.part} {pair.score:+.3f}" for pair in group)
            print(f"    = {parts}  rest {rest:+.3f}")
    print(f"wrote {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
