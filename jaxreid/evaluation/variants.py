"""Variants: ways to evaluate a model, one per row of the results table."""

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
    """One way to evaluate a model.

    Attributes:
        features: changes to the features ("flip", "bfloat16").
        rerank: options of `rerank`; None does not re-rank.
        tlift: options of `tlift`, applied after re-ranking; None does not lift.
        shortlist: options of `Shortlist`, for coarse-to-fine scoring; None scores all pairs.
    """

    features: tuple[str, ...] = ()
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
        """True if the score of a pair is independent of other gallery images."""
        return self.rerank is None and self.shortlist is None

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
