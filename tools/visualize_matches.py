"""Draws which parts of two images matched, and what each match adds to their score.

For QAConv-MS once for each scale of its features, side by side.

python tools/visualize_matches.py --workdir=runs/qaconv --query=3 --out=matches.png
python tools/visualize_matches.py --weights=qaconv.safetensors --images a.jpg b.jpg --out=pair.png
"""

import argparse
import difflib
import functools
import itertools
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from jaxreid.data.sets import available, load_sets
from jaxreid.evaluation.ranking import top_matches
from jaxreid.evaluation.scoring import Evaluator
from jaxreid.mesh import make_mesh, shardings
from jaxreid.models.model import init_variables, make_model
from jaxreid.names import check_name
from jaxreid.pictures.matches import Pair, correspondence_picture
from jaxreid.pictures.ranking import save
from jaxreid.runs.workdir import holds_checkpoint
from jaxreid.weights.checkpoint import Checkpoints
from jaxreid.weights.file import load_weights, read_card

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


class Shown(NamedTuple):
    """An image to be drawn: its bytes, title and feature map, and whether it is right."""

    image: bytes
    title: str
    feature: np.ndarray
    right: bool | None = None


class Matcher:
    """A trained QAConv or QAConv-MS model, ready to compare images.

    Args:
        workdir: of a training, or None.
        weights: a file of weights, where there is no work directory.
        parts: of QAConv-MS, those to tell of; None for all.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: it is another model or has no such part, or a file is damaged.
    """

    def __init__(
        self,
        workdir: pathlib.Path | None,
        weights: pathlib.Path | None,
        parts: Sequence[str] | None = None,
    ) -> None:
        if weights:
            self.settings = {"model": read_card(weights)}
        elif holds_checkpoint(workdir):
            self.settings = json.loads((workdir / "config.json").read_text())["config"]
        else:
            raise FileNotFoundError(
                f"{workdir} holds no checkpoint; give the work directory of a training, or a file "
                "of weights with --weights."
            )
        card = self.settings["model"]
        if card["matcher"]["name"] not in ("qaconv", "qaconv_ms"):
            raise ValueError(
                f"the model of {weights or workdir} has the matcher {card['matcher']['name']!r}, "
                "which compares images as wholes; only 'qaconv' and 'qaconv_ms' match their parts."
            )
        self.model, self._mesh = make_model(**card), make_mesh()
        self._reaches = self.model.neck.features.reaches
        if parts and not self._reaches:
            raise ValueError("--parts chooses among those of QAConv-MS, and this is QAConv.")
        self._shown = list(dict.fromkeys(parts or self._reaches or [None]))
        for part in parts or ():
            check_name(part, tuple(self._reaches), "--parts")
        if weights:
            variables, _ = load_weights(weights, card, skip=("memory",), whole=True)
            self._variables = jax.device_put(variables, shardings(self._mesh, P()))
        else:
            abstract = jax.eval_shape(lambda: init_variables(self.model, 0))
            with Checkpoints(workdir, {"model": card}, every_steps=1) as checkpoints:
                self._variables = checkpoints.restore_variables(abstract, self._mesh)
        size = 32 * self._mesh.size
        self._evaluator = Evaluator(
            self.model, self._mesh, batch_size=size, query_tile=1, gallery_tile=8 * size
        )

        @jax.jit
        def explain(variables: Any, query: jax.Array, gallery: jax.Array) -> Any:
            """The `Explanation` of each part, by name, contributions scaled; and the logits."""
            with jax.default_matmul_precision("highest"):
                method = lambda model, *maps: model.matcher.explain(*maps)  # noqa: E731
                told = self.model.apply(variables, query, gallery, method=method)
            parts = getattr(told, "parts", {None: told})
            sides = ("from_query", "from_gallery")
            scaled = {
                name: part._replace(**{side: part.gain * getattr(part, side) for side in sides})
                for name, part in parts.items()
            }
            return {name: scaled[name] for name in self._shown}, told.logit

        self._explain = explain

    def features(self, images: Sequence[bytes], names: Sequence[str]) -> np.ndarray:
        """Feature maps [N, h, w, d] of N encoded images."""
        from jaxreid.data import pipeline  # late: TensorFlow, which --help does not need

        store = pipeline.ImageStore(images, names)
        batches = pipeline.eval_batches(
            store, **self.model.image_format, batch_size=32 * self._mesh.size
        )
        with tqdm(total=len(images), desc="features", unit="img", disable=None) as bar:
            return self._evaluator.features(self._variables, batches, len(images), bar.update)

    def scores(self, query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Scores [G] of one feature map [h, w, d] with those of a gallery."""
        return self._evaluator.scores(self._variables, query[None], gallery)[0]

    def pairs(
        self, query: Shown, gallery: Sequence[Shown], others: np.ndarray | None = None
    ) -> list[Pair]:
        """A query with each of some gallery images, to be drawn; once for each part.

        Args:
            query: an image.
            gallery: G images.
            others: [R, h, w, d] feature maps; given, contributions are told above those that the
                same cells make with these images on average.
        """
        explain = functools.partial(self._explain, self._variables)
        found = []
        if others is not None:
            with_query, _ = explain(query.feature[None], others)
        for shown in gallery:
            told, logit = explain(query.feature[None], shown.feature[None])
            if others is not None:
                with_gallery, _ = explain(others, shown.feature[None])
            for name in self._shown:
                part = jax.tree.map(np.asarray, told[name])
                of_part = {"reach": getattr(self.model.matcher, "patch", 1) // 2}
                if name is not None:
                    of_part = {
                        "part": name, "whole": float(logit[0, 0]), "reach": self._reaches[name]
                    }  # fmt: skip
                pair = Pair(
                    query=query.image,
                    gallery=shown.image,
                    titles=(query.title, shown.title),
                    right=shown.right,
                    constant=part.offset.item(),
                    **{k: value[0, 0] for k, value in part._asdict().items() if value.ndim == 4},
                    **of_part,
                )
                if others is not None:
                    of_query = with_query[name].from_query.mean((0, 1))
                    of_gallery = with_gallery[name].from_gallery.mean((0, 1))
                    pair = pair.above(np.asarray(of_query), np.asarray(of_gallery), "average image")
                found.append(pair)
        return found

    @property
    def columns(self) -> int:
        """Pairs beside each other in a picture: the parts of one, or three."""
        return len(self._shown) if self._reaches else 3


def two_files(matcher: Matcher, paths: Sequence[pathlib.Path]) -> tuple[str, list[Pair]]:
    """Title and pair of two image files.

    Raises:
        FileNotFoundError, ValueError: a file is not there, or no image.
    """
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"--images: there is no file {path}")
    images = [path.read_bytes() for path in paths]
    features = matcher.features(images, [str(path) for path in paths])
    a, b = map(Shown, images, [path.name for path in paths], features)
    return "two images and their strongest matches", matcher.pairs(a, [b])


def best_of_gallery(
    matcher: Matcher, splits: dict[str, Any], wanted: str, top: int, *, absolute: bool
) -> tuple[str, list[Pair]]:
    """Title and pairs of a query and the best of the gallery, as the protocol ranks it.

    Args:
        matcher: the model.
        splits: query and gallery of a data set.
        wanted: which query, by number or name.
        top: how many gallery images.
        absolute: tell contributions as they are, and not above those of the average gallery image.

    Raises:
        ValueError: there is no such query.
    """
    query, gallery = splits["query"], splits["gallery"]
    q = find(wanted, query.name)
    features = matcher.features([query.image[q], *gallery.image], [query.name[q], *gallery.name])
    first, features = features[0], features[1:]
    scores = matcher.scores(first, features)
    best = top_matches(scores, query.pid[q], query.camid[q], gallery.pid, gallery.camid, top)
    best, right = best[best >= 0], gallery.pid == query.pid[q]
    shown = [
        Shown(gallery.image[g], f"{rank}. {gallery.name[g]}", features[g], bool(right[g]))
        for rank, g in enumerate(best, 1)
    ]
    some = np.linspace(0, len(features) - 1, min(len(features), OTHERS)).astype(int)
    others = None if absolute else features[some]
    pairs = matcher.pairs(Shown(query.image[q], query.name[q], first), shown, others)
    return f"query {q} and the best {len(best)} of {len(gallery)} gallery images", pairs


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


def draw(given: argparse.Namespace) -> tuple[str, list[Pair]]:
    """Title and pairs, and the picture of them written.

    Raises:
        FileNotFoundError, ValueError, OSError: something that was named cannot be used.
    """
    if not given.out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out: there is no folder {given.out.absolute().parent}")
    matcher = Matcher(given.workdir, given.weights, given.parts)
    if given.images:
        title, pairs = two_files(matcher, given.images)
    else:
        data = dict(matcher.settings.get("data", {}))
        name = given.dataset or data["test"][0]
        folders = {"dir": given.dir, "prepared_dir": given.prepared_dir}
        data.update({key: value for key, value in folders.items() if value})
        splits = load_sets(**data | {"train": None, "test": (name,)})[1][name]
        wanted = given.query or "0"
        title, pairs = best_of_gallery(matcher, splits, wanted, given.top, absolute=given.absolute)
        title = f"{name}: {title}"
    width = max(1, round(given.height * matcher.model.width / matcher.model.height))
    picture = correspondence_picture(
        title, pairs, size=(width, given.height), links=given.matches, columns=matcher.columns
    )
    save(picture, given.out)
    return title, pairs


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool; returns its exit status."""
    given = parse(arguments)
    try:
        title, pairs = draw(given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(title)
    for name, group in itertools.groupby(pairs, key=lambda pair: pair.titles[1]):
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
