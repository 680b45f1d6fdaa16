"""Ways of evaluating the same model: a variant is a row of the table of results."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxreid.evaluation.ranking.k_reciprocal import rerank_matrix
from jaxreid.evaluation.ranking.temporal_lifting import tlift
from jaxreid.names import check_name

STEPS = ("rerank", "tlift", "shortlist")
OPTIONS = {
    "rerank": ("k1", "k2", "weight", "squared", "normalize"),
    "tlift": ("tau", "sigma", "k", "alpha"),
    "shortlist": ("size", "window"),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of evaluating.

    Attributes:
        features: how features differ from plain ones, in words ("flip", "bfloat16").
        rerank: options of `rerank`; None does not re-rank.
        tlift: options of `tlift`, applied after re-ranking; None does not lift.
        shortlist: options of `Shortlist`, which scores from coarse to fine; None scores all pairs.
    """

    features: tuple[str, ...] = ()
    rerank: Mapping[str, Any] | None = None
    tlift: Mapping[str, Any] | None = None
    shortlist: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Such as "flip+rerank+tlift"; "plain" for none of it."""
        steps = (step for step in STEPS if getattr(self, step) is not None)
        return "+".join([*self.features, *steps]) or "plain"

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """The options of each step that is taken: {"rerank_options": ...}."""
        steps = {step: getattr(self, step) for step in STEPS}
        return {
            f"{step}_options": dict(given) for step, given in steps.items() if given is not None
        }

    @property
    def direct(self) -> bool:
        """True if the scores of a pair of images depend on no other gallery image."""
        return self.rerank is None and self.shortlist is None

    @property
    def exact(self) -> bool:
        """True for all scores of all pairs, as the matcher gives them."""
        return self.direct and self.tlift is None


PLAIN = Variant()


def make_variants(
    *,
    flip: bool = False,
    dtype: str = "float32",
    rerank: bool = False,
    rerank_options: Mapping[str, Any] | None = None,
    tlift: bool = False,
    tlift_options: Mapping[str, Any] | None = None,
    shortlist: int = 0,
    shortlist_window: tuple[int, int] = (2, 4),
) -> tuple[Variant, ...]:
    """The variants of the settings `eval`, the exact one first.

    Args:
        flip: features are means of those of an image and of its mirror image.
        dtype: of the features.
        rerank: evaluate re-ranked as well.
        rerank_options: options of `rerank`.
        tlift: evaluate with TLift as well, after re-ranking if that is on.
        tlift_options: options of `tlift`.
        shortlist: evaluate from coarse to fine as well, with this many images scored exactly for
            each query; 0 does not.
        shortlist_window: rows and columns of a map that become one.

    Raises:
        ValueError: an unknown option, or one out of its range.
    """
    rerank_options, tlift_options = dict(rerank_options or {}), dict(tlift_options or {})
    _check_options(rerank_options, tlift_options)
    features = tuple(n for n, on in (("flip", flip), (dtype, dtype != "float32")) if on)
    variants = [Variant(features)]
    if rerank:
        variants.append(Variant(features, rerank=rerank_options))
    if tlift:
        variants.append(dataclasses.replace(variants[-1], tlift=tlift_options))
    if shortlist:
        window = {"size": shortlist, "window": tuple(shortlist_window)}
        variants.append(Variant(features, shortlist=window))
    return tuple(variants)


def _check_options(rerank: Mapping[str, Any], lift: Mapping[str, Any]) -> None:
    """Raises ValueError now for what would stop an evaluation after all features are computed."""
    for step, given in (("rerank", rerank), ("tlift", lift)):
        for option in given:
            check_name(option, OPTIONS[step], f"option in eval.{step}_options")
    rerank_matrix(1 - np.eye(2), 1, **rerank)
    sighting = {
        f"{of}_{what}": np.zeros(1, int)
        for of in ("query", "gallery")
        for what in ("camid", "time")
    }
    tlift(np.ones((1, 1)), **sighting, **lift)
