"""Variants: ways to evaluate a model, one per row of the results table."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxreid.evaluation.ranking.k_reciprocal import rerank_matrix
from jaxreid.evaluation.ranking.multiple_queries import POOLS
from jaxreid.evaluation.ranking.temporal_lifting import tlift
from jaxreid.names import check_at_least, check_name

STEPS = ("multi_query", "expand", "rerank", "tlift", "shortlist")
OPTIONS = {
    "rerank": ("k1", "k2", "weight", "squared", "normalize"),
    "tlift": ("tau", "sigma", "k", "alpha"),
    "shortlist": ("size", "window"),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to evaluate a model.

    Attributes:
        features: changes to the features ("flip", "bfloat16").
        multi_query: {"pool"}: how the images of a person from one camera search together
            (`multiple_queries`); None searches by each query alone.
        expand: {"count", "alpha"}: images that a query is averaged with (`expanded`); None searches
            once.
        rerank: options of `rerank`; None does not re-rank.
        tlift: options of `tlift`, applied after re-ranking; None does not lift.
        shortlist: options of `Shortlist`, for coarse-to-fine scoring; None scores all pairs.
    """

    features: tuple[str, ...] = ()
    multi_query: Mapping[str, Any] | None = None
    expand: Mapping[str, Any] | None = None
    rerank: Mapping[str, Any] | None = None
    tlift: Mapping[str, Any] | None = None
    shortlist: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Name such as "flip+rerank+tlift", or "plain"."""
        steps = (step for step in STEPS if getattr(self, step) is not None)
        return "+".join([*self.features, *steps]) or "plain"

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """Options of each active step: {"rerank_options": ...}."""
        steps = {step: getattr(self, step) for step in STEPS}
        return {
            f"{step}_options": dict(options)
            for step, options in steps.items()
            if options is not None
        }

    @property
    def direct(self) -> bool:
        """True if the score of a pair is independent of other images."""
        others = self.multi_query, self.expand, self.rerank, self.shortlist
        return all(step is None for step in others)

    @property
    def exact(self) -> bool:
        """True if all pairs have the scores of the matcher, unmodified."""
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
    expand: int = 0,
    expand_alpha: float = 3.0,
    multi_query: str = "none",
) -> tuple[Variant, ...]:
    """Build the variants of the settings `eval`, the exact one first.

    Args:
        flip: average the features of an image and of its mirror image.
        dtype: dtype of the features.
        rerank: add a variant with re-ranking.
        rerank_options: options of `rerank`.
        tlift: add a variant with TLift, after re-ranking if that is on.
        tlift_options: options of `tlift`.
        shortlist: add a variant with coarse-to-fine scoring and this many images scored exactly for
            each query; 0 adds none.
        shortlist_window: rows and columns of a map that become one.
        expand: add a variant in which each query is averaged with this many best gallery images; 0
            adds none.
        expand_alpha: exponent of their weights, as for `expanded`.
        multi_query: add a variant in which the images of a person from one camera search together
            ("mean", "max", "scores"); "none" adds none.

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
    if expand:
        check_at_least({"expand": expand}, {"expand": 1}, "eval")
        if not expand_alpha >= 0:
            raise ValueError(f"eval.expand_alpha is {expand_alpha}; expected a number from 0 on.")
        options = {"count": expand, "alpha": float(expand_alpha)}
        variants.append(Variant(features, expand=options))
    if check_name(multi_query, ("none", *POOLS), "eval.multi_query") != "none":
        variants.append(Variant(features, multi_query={"pool": multi_query}))
    return tuple(variants)


def _check_options(rerank: Mapping[str, Any], lift: Mapping[str, Any]) -> None:
    """Raise ValueError for invalid options now, not after all features are computed."""
    for step, options in (("rerank", rerank), ("tlift", lift)):
        for option in options:
            check_name(option, OPTIONS[step], f"option in eval.{step}_options")
    rerank_matrix(1 - np.eye(2), 1, **rerank)
    sighting = {
        f"{split}_{field}": np.zeros(1, int)
        for split in ("query", "gallery")
        for field in ("camid", "time")
    }
    tlift(np.ones((1, 1)), **sighting, **lift)
