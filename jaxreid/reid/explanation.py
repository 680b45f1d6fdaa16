"""Explanations: the local matches whose contributions add up to a score."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxreid.data.images.pillow import ImageSource, read_image
from jaxreid.models.matchers import MATCHERS
from jaxreid.models.model import Model
from jaxreid.names import check_name
from jaxreid.pictures.canvas import save
from jaxreid.pictures.matches import Pair, correspondence_picture
from jaxreid.reid.hits import name_of


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Matches that make up the scores of one query with some gallery images.

    Attributes:
        pairs: contributions to each score; for matchers with parts, one pair for each part.
        title: title of the picture.
        size: width and height of the model's images, for the aspect ratio in the picture.
        columns: pairs side by side.
    """

    pairs: list[Pair]
    title: str
    size: tuple[int, int]
    columns: int = 3

    def titled(self, title: str) -> "Explanation":
        """Return a copy with another title."""
        return dataclasses.replace(self, title=title)

    def save(self, path: str | os.PathLike, *, height: int = 384, matches: int = 12) -> None:
        """Write the pairs with their strongest matches as a picture (PNG).

        Each image is `height` pixels high; each pair has at most `matches` lines.
        """
        width = max(1, round(height * self.size[0] / self.size[1]))
        picture = correspondence_picture(
            self.title, self.pairs, size=(width, height), links=matches, columns=self.columns
        )
        save(picture, path)


# (query [Q, ...], gallery [G, ...]) -> contributions by part (None for a matcher without parts) and
# [Q, G] logits.
Explain = Callable[[np.ndarray, np.ndarray], tuple[dict, np.ndarray]]


def make_explain(model: Model, variables: Any) -> Explain:
    """Compile the contributions of cells to scores, for a model whose matcher has `explain`."""

    @jax.jit
    def compiled(variables: Any, query: jax.Array, gallery: jax.Array) -> Any:
        with jax.default_matmul_precision("highest"):
            method = lambda model, *maps: model.matcher.explain(*maps)  # noqa: E731
            explained: Any = model.apply(variables, query, gallery, method=method)
        parts = getattr(explained, "parts", {None: explained})
        sides = ("from_query", "from_gallery")
        return {
            name: part._replace(**{s: part.gain * getattr(part, s) for s in sides})
            for name, part in parts.items()
        }, explained.logit

    def explain(query: np.ndarray, gallery: np.ndarray) -> tuple[dict, np.ndarray]:
        return jax.tree.map(np.asarray, compiled(variables, query, gallery))

    return explain


def pairs_of(
    explain: Explain,
    features: np.ndarray,
    pixels: Sequence[np.ndarray],
    *,
    reaches: Mapping[str | None, int],
    titles: Sequence[str],
    right: Sequence[bool | None] | None,
    reference: np.ndarray | None,
) -> list[Pair]:
    """Return the pairs of the first image with each of the others.

    Args:
        explain: result of `make_explain`.
        features: [1 + G, ...], of the query and of the gallery images.
        pixels: the images.
        reaches: for each part to show, the number of cells around a match that belong to it.
        titles: titles of the images.
        right: for each gallery image, whether it shows the query's person; None if unknown.
        reference: [R, ...] features of other images, as for `ReID.explain`.
    """
    explained, logit = explain(features[:1], features[1:])
    if reference is not None:
        with_query, _ = explain(features[:1], reference)
    pairs = []
    for g in range(len(features) - 1):
        if reference is not None:
            with_gallery, _ = explain(reference, features[g + 1 : g + 2])
        for part, reach in reaches.items():
            of_part = explained[part]
            pair = Pair(
                query=pixels[0],
                gallery=pixels[g + 1],
                titles=(titles[0], titles[g + 1]),
                right=right[g] if right is not None else None,
                constant=float(np.broadcast_to(of_part.offset, logit.shape)[0, g]),
                part=part,
                whole=None if part is None else float(logit[0, g]),
                reach=reach,
                **{k: v[0, g] for k, v in of_part._asdict().items() if v.ndim == 4},
            )
            if reference is not None:
                of_query = with_query[part].from_query.mean((0, 1))
                of_gallery = with_gallery[part].from_gallery.mean((0, 1))
                pair = pair.above(of_query, of_gallery, "average image")
            pairs.append(pair)
    return pairs


def explained(
    reid: Any,
    images: Sequence[ImageSource],
    *,
    parts: Sequence[str] | None,
    reference: np.ndarray | None,
    titles: Sequence[str] | None,
    right: Sequence[bool | None] | None,
) -> Explanation:
    """Explain the scores of the first image with the others; see `ReID.explain`."""
    known = reid.check_explains(parts)
    if len(images) < 2:
        raise ValueError("nothing to compare the query with: expected at least one image.")
    whole = getattr(reid.model.matcher, "patch", 1) // 2
    shown: list[str | None] = [*(parts or known)] or [None]
    reaches = {part: known[part] if part else whole for part in shown}
    titles = titles or [
        pathlib.PurePath(name).name or name
        for name in (name_of(image, i) for i, image in enumerate(images))
    ]
    pixels = [read_image(image) for image in images]
    pairs = pairs_of(
        reid.contributions,
        reid.embed(images),
        pixels,
        reaches=reaches,
        titles=titles,
        right=right,
        reference=reference,
    )
    size = (reid.model.width, reid.model.height)
    title = f"{titles[0]} and its strongest matches"
    return Explanation(pairs, title, size, columns=len(reaches) if known else 3)


def parts_shown(reid: Any, parts: Sequence[str] | None) -> Mapping[str, int]:
    """Return the parts that a `ReID` can show, with their reach; see `ReID.check_explains`."""
    if not reid.explains:
        able = MATCHERS.names_where(lambda matcher: hasattr(matcher, "explain"))
        raise ValueError(
            f"the matcher {reid.card['matcher']['name']!r} compares whole images and has no "
            f"local matches to show; matchers with local matches: {', '.join(able)}. "
            "`activations` shows where its features come from."
        )
    known = reid.model.neck.features.reaches
    if parts and not known:
        raise ValueError(f"the features of {reid.path} have no parts; omit parts.")
    for part in parts or ():
        check_name(part, tuple(known), "part")
    return known


def matches_with(reid: Any, query: ImageSource, images: Sequence[ImageSource]) -> list[Pair]:
    """Return the pairs of a query with images, a few at a time; with parts, those of the first."""
    part = list(reid.check_explains())[:1] or None
    return [
        pair
        for first in range(0, len(images), 16)
        for pair in reid.explain(query, *images[first : first + 16], parts=part).pairs
    ]
