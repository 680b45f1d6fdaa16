"""Search: photos of one person against a gallery, with probabilities; ranking."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.data.images.pillow import ImageSource
from jaxreid.evaluation.calibration import Calibration, check_prior
from jaxreid.names import check_name
from jaxreid.pictures.numbers import prior_text
from jaxreid.reid.calibrated import find_calibration
from jaxreid.reid.gallery import Candidates, Entry, Filter, Gallery
from jaxreid.reid.hits import Hit, Hits
from jaxreid.reid.inputs import checked_features

# How the scores of several photos of one person with an image become one, [Q, N] -> [N].
FUSIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda scores: scores.mean(0),
    "max": lambda scores: scores.max(0),
}
THRESHOLDS = "score:X, prob:0.9 or fmr:1e-3"


def find(
    model: Any,
    photos: Sequence[Any],
    gallery: Gallery,
    *,
    top: int,
    threshold: float | str | None,
    prior: float | None,
    fusion: str,
    where: Filter,
) -> tuple[list[Hit], list[str]]:
    """Return the best entries of a gallery, and sentences about the search.

    Args: as `ReID.search`; `photos` are the query photos, `where` the entries to search.
    """
    _check_top(top)
    check_name(fusion, FUSIONS, "fusion")
    if prior is not None:
        check_prior(prior)
    _check_threshold(threshold, model.calibration)
    for camera in where.cameras:
        if camera not in gallery.cameras:
            known = ", ".join(gallery.cameras[:20]) or "none: plain folders do not name cameras"
            raise ValueError(f"unknown camera {camera!r}; the gallery has {known}.")
    own = {os.path.realpath(p) for p in photos if isinstance(p, str | os.PathLike)}
    dropped = []

    def left_out(entry: Entry) -> bool:
        same = isinstance(entry.image, str | os.PathLike) and os.path.realpath(entry.image) in own
        if same:
            dropped.append(entry.name)
        return same

    candidates = gallery.candidates(model, model.embed(photos), where, left_out)
    if not candidates.searched:
        raise ValueError(
            "nothing to search: no image of the gallery passes --camera, --after and --before; "
            "images without a camera or time do not."
        )
    prior = prior or 1 / (candidates.searched + 1)
    hits, notes = _hits(candidates, model.calibration, top, threshold, prior, fusion)
    if dropped:
        notes.append(f"Left out, being the query itself: {', '.join(dropped[:3])}.")
    if model.calibration is None:
        notes.append(find_calibration(model.path, model.variables)[1])
    return hits, notes


def _hits(
    candidates: Candidates,
    calibration: Calibration | None,
    top: int,
    threshold: float | str | None,
    prior: float,
    fusion: str,
) -> tuple[list[Hit], list[str]]:
    scores = FUSIONS[fusion](candidates.scores)
    order = np.argsort(-scores, kind="stable")[:top]
    count = len(candidates.scores)
    notes = [
        f"{candidates.searched:,} images searched"
        + (f", {count} photos of one person together ({fusion} of their scores)." * (count > 1))
        + "." * (count == 1)
    ]
    if threshold is not None:
        least = score_of(threshold, calibration, prior=prior)
        order = order[scores[order] >= least]
        name = f"{threshold}, " if isinstance(threshold, str) else ""
        notes.append(f"Threshold: {name}a score of {least:+.3f}; {len(order)} of the best pass.")
    probability: Any = [None] * len(order)
    rate: Any = [None] * len(order)
    if calibration is not None:
        probability = calibration.probability(scores[order], prior=prior).tolist()
        rate = calibration.false_match_rate(scores[order]).tolist()
        sentence = calibration.sentence()
        notes.append(f"Probabilities assume a prior of {prior_text(prior)}; {sentence}.")
    best = candidates.scores.argmax(0)
    hits = []
    for place, g in enumerate(order):
        entry = candidates.entries[g]
        hits.append(
            Hit(
                image=entry.image,
                index=int(candidates.index[g]),
                score=float(scores[g]),
                name=entry.name,
                camera=entry.camera,
                time=entry.time,
                probability=probability[place],
                false_match_rate=rate[place],
                photo=int(best[g]),
            )
        )
    return hits, notes


def score_of(
    threshold: float | str, calibration: Calibration | None, *, prior: float = 0.5
) -> float:
    """Return the score that a threshold stands for: a number, or `THRESHOLDS`.

    Raises:
        ValueError: it is invalid, or needs a calibration that is missing or too coarse.
    """
    kind, value = _check_threshold(threshold, calibration)
    if kind == "score":
        return value
    assert calibration is not None
    if kind == "fmr":
        return calibration.score_at_rate(value)
    return calibration.score_at_probability(value, prior=prior)


def _check_threshold(
    threshold: float | str | None, calibration: Calibration | None
) -> tuple[str, float]:
    if threshold is None or not isinstance(threshold, str):
        return "score", float(threshold or 0)
    kind, _, number = threshold.partition(":")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if kind not in ("score", "prob", "fmr") or not np.isfinite(value):
        raise ValueError(f"the threshold is {threshold!r}; expected {THRESHOLDS}.")
    if kind != "score" and not 0 < value < 1:
        raise ValueError(f"the threshold is {threshold!r}; expected a number between 0 and 1.")
    if kind != "score" and calibration is None:
        raise ValueError(
            f"the threshold {threshold!r} needs a calibration, and this model has none: fit one "
            "with jaxreid calibrate MODEL --data=SET, or use score:X."
        )
    return kind, value


def ranked_by(
    reid: Any,
    query: ImageSource,
    gallery: Sequence[ImageSource],
    *,
    top: int,
    features: np.ndarray | None,
) -> Hits:
    """Rank gallery images by their scores; see `ReID.rank`."""
    _check_top(top)
    if features is None:
        features = reid.embed(gallery)
    else:
        features = checked_features(features, reid.feature_shape)
    if len(features) != len(gallery):
        raise ValueError(
            f"got {len(features)} features for {len(gallery)} gallery images; expected one "
            "for each."
        )
    scores = reid.score(reid.embed(query), features)[0]
    order = np.argsort(-scores, kind="stable")[:top]
    return Hits(query, [Hit(gallery[g], int(g), float(scores[g])) for g in order])


def _check_top(top: int) -> None:
    if top < 1:
        raise ValueError(f"top is {top}; expected at least 1.")
