"""Calibration: what a score is worth, as a probability and as a rate of false matches.

    calibration = Calibration.read(path)
    calibration.probability(scores, prior=0.5)
    calibration.false_match_rate(scores)

A score is turned into the ratio of its densities among pairs of the same person and of two people,
whose logarithm is a non-decreasing function of the score (isotonic regression). A probability
follows from it and from a prior: the share of pairs of the same person among those one looks at.
Fitting imports SciPy, on which JAX depends; using a calibration takes NumPy alone.

Source: Zadrozny and Elkan, KDD 2002 (isotonic); Brümmer and du Preez, Computer Speech & Language
2006 (the ratio, independent of the prior; one pair of each kind added to every step, so that no
score is certain; log loss at even odds, in bits); Guo et al., ICML 2017 (expected calibration
error).
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.evaluation.ranking.pairs import Pairs
from jaxreid.runs.files import replace_file

FORMAT = "jaxreid calibration 1"
# File in a work directory.
CALIBRATION = "calibration.json"
RATES = (1e-2, 1e-3, 1e-4)
# Bins of equal width in which probabilities are compared with shares.
BINS = 10
# Points of a curve that are kept.
_POINTS = 256
# Points of a fit.
_GROUPS = 4096
_LONGEST_FILE, _LONGEST_NAME = 2**20, 300


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Score from which on pairs of two people are accepted at a rate.

    Attributes:
        rate: share of the pairs of two people that reach `score`, at most.
        score: the threshold.
        error: standard error of the rate, over people; of several sets, over sets if that is
            more. Other cameras than these may be further away.
        by_set: rate of each set at this score.
    """

    rate: float
    score: float
    error: float
    by_set: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class TestSet:
    """Data set that a calibration was fitted on.

    Attributes:
        name: data set and domain.
        fingerprint: of its images and labels (`run.fingerprint`).
        people: number of people among its queries.
        positives: pairs of the same person across cameras, without junk.
        negatives: pairs of two people.
    """

    name: str
    fingerprint: str
    people: int
    positives: int
    negatives: int


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Probabilities and false-match rates of the scores of one model; sets count equally.

    Attributes:
        sets: what it was fitted on.
        model_digest: model whose scores these are.
        score: [K] ascending scores.
        log_ratio: [K] non-decreasing natural logarithms of the ratio of densities; linear in
            between, constant outside.
        rate_score: [R] ascending scores.
        rate: [R] non-increasing share of pairs of two people with at least this score.
        thresholds: by rate, largest first; rates that the pairs are too few for are left out.
        own: fitted by `calibrate` for a user's images; an evaluation does not replace it.
    """

    sets: tuple[TestSet, ...]
    model_digest: str
    score: np.ndarray
    log_ratio: np.ndarray
    rate_score: np.ndarray
    rate: np.ndarray
    thresholds: tuple[Threshold, ...]
    own: bool = False

    def log_odds(self, scores: Any) -> np.ndarray:
        """Return the log odds of the same person at even prior, float64, for scores of any shape.

        Natural logarithms.
        """
        return np.interp(np.asarray(scores, np.float64), self.score, self.log_ratio)

    def probability(self, scores: Any, *, prior: float = 0.5) -> np.ndarray:
        """Return the probability that a pair with each score shows the same person.

        Args:
            scores: scores of the calibrated model, any shape.
            prior: probability before looking, in (0, 1): 0.5 for even odds; 1/G for one image of
                the person among G.

        Raises:
            ValueError: `prior` is not between 0 and 1.
        """
        check_prior(prior)
        return 1 / (1 + np.exp(-self.log_odds(scores) - math.log(prior / (1 - prior))))

    def false_match_rate(self, scores: Any) -> np.ndarray:
        """Return the share of pairs of two people whose score is at least as high.

        Never below `resolution`, also where no pair scored as high.
        """
        rates = np.interp(np.asarray(scores, np.float64), self.rate_score, np.log(self.rate))
        return np.maximum(np.exp(rates), self.resolution)

    @property
    def resolution(self) -> float:
        """Smallest rate that can be seen: one pair of two people of the largest set."""
        return 1 / max(held.negatives for held in self.sets)

    def score_at_rate(self, rate: float) -> float:
        """Return the lowest score with this false-match rate or less.

        Raises:
            ValueError: the pairs are too few for this rate, or it is not between 0 and 1.
        """
        if not 0 < rate < 1:
            raise ValueError(f"the false-match rate is {rate:g}; expected 0 < rate < 1.")
        for threshold in self.thresholds:
            if math.isclose(threshold.rate, rate, rel_tol=1e-9):
                return threshold.score
        if rate < self.rate.min():
            raise ValueError(
                f"a false-match rate of {rate:g} cannot be seen in the pairs of {self.names}: the "
                f"smallest is {self.rate.min():.2g}. Calibrate on more people."
            )
        return float(self.rate_score[np.flatnonzero(self.rate <= rate)[0]])

    def score_at_probability(self, probability: float, *, prior: float) -> float:
        """Return the lowest score of at least this probability.

        Raises:
            ValueError: no score reaches it, or a number is not between 0 and 1.
        """
        check_prior(prior)
        if not 0 < probability < 1:
            raise ValueError(f"the probability is {probability:g}; expected 0 < probability < 1.")
        wanted = math.log(probability / (1 - probability)) - math.log(prior / (1 - prior))
        reached = np.flatnonzero(self.log_ratio >= wanted)
        if not reached.size:
            best = float(self.probability(self.score[-1], prior=prior))
            raise ValueError(
                f"no score reaches a probability of {probability:g}: the highest is {best:.2g}, "
                f"calibrated on {self.names} and with a prior of {prior:.2g}."
            )
        at = int(reached[0])
        if not at:
            return float(self.score[0])
        # On the line between two points, rounded up so that the score itself passes.
        ends = slice(at - 1, at + 1)
        score = np.interp(wanted, self.log_ratio[ends], self.score[ends])
        return float(min(np.nextafter(score, np.inf), self.score[at]))

    @property
    def names(self) -> str:
        """Names of the data sets, for a sentence."""
        names = [held.name for held in self.sets]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return ", ".join(names[:3]) + more

    def sentence(self) -> str:
        """Return what it was calibrated on, and the warning that goes with every number of it."""
        people = sum(held.people for held in self.sets)
        pairs = sum(held.positives + held.negatives for held in self.sets)
        return (
            f"calibrated on {people:,} people and {pairs:,} pairs of {self.names}; other cameras "
            "shift probabilities and rates: calibrate on your own where you can"
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        data = dataclasses.asdict(self)
        data |= {name: getattr(self, name).tolist() for name in _CURVES}
        return {"format": FORMAT, **data}

    @classmethod
    def from_json(cls, data: Any, where: str = "the calibration") -> "Calibration":
        """Return the calibration of plain data, from a file that anybody may have written.

        Raises:
            ValueError: it is anything else than `as_json` writes; the message says what.
        """
        try:
            return cls(**_checked(data))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{where} is not a calibration of this version ({FORMAT!r}): {reason}. Write it "
                "again: jaxreid calibrate RUN --data=SET."
            ) from error

    def save(self, path: pathlib.Path) -> None:
        """Write a JSON file, whole or not at all."""
        text = json.dumps(self.as_json(), indent=1, ensure_ascii=False, allow_nan=False)
        replace_file(path, (text + "\n").encode())

    @classmethod
    def read(cls, path: pathlib.Path) -> "Calibration":
        """Read a file of `save`.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not a calibration.
        """
        with path.open("rb") as file:
            content = file.read(_LONGEST_FILE + 1)
        if len(content) > _LONGEST_FILE:
            raise ValueError(
                f"{path} is too long; expected a calibration of at most {_LONGEST_FILE:,} bytes."
            )
        return cls.from_json(parsed(content, str(path)), str(path))


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Probabilities beside what they should be, on pairs that were not fitted, at even odds.

    Attributes:
        predicted: [BINS] mean probability in each bin; NaN without pairs.
        observed: [BINS] share of pairs of the same person in it.
        weight: [BINS] share of all pairs; both kinds of pairs count one half.
        ece: expected calibration error, a fraction.
        log_loss: in bits: 0 is perfect, 1 is a probability of one half for every pair.
    """

    predicted: np.ndarray
    observed: np.ndarray
    weight: np.ndarray
    ece: float
    log_loss: float


def fit(
    pairs: Mapping[str, Pairs],
    fingerprints: Mapping[str, str],
    *,
    model_digest: str,
    own: bool = False,
) -> Calibration:
    """Fit a calibration.

    Args:
        pairs: by data set; every set counts the same.
        fingerprints: by data set.
        model_digest: model of the scores.
        own: as the attribute.
    """
    scores, log_ratio = _fitted(list(pairs.values()))
    rate_score, rate = _rates(list(pairs.values()))
    return Calibration(
        sets=tuple(
            TestSet(name, fingerprints[name], p.people, len(p.positives), int(p.counts.sum()))
            for name, p in pairs.items()
        ),
        model_digest=model_digest,
        score=scores,
        log_ratio=log_ratio,
        rate_score=rate_score,
        rate=rate,
        thresholds=tuple(_thresholds(list(pairs.values()))),
        own=own,
    )


def reliabilities(pairs: Mapping[str, Pairs]) -> dict[str, dict[str, Reliability]]:
    """Return how well calibrations hold on people and on sets that they were not fitted on.

    Returns:
        By set: "other people", fitted on one half of its people and judged on the other, both ways;
        and "other sets", fitted on all other sets, if there are any. What cannot be judged, with
        too few people, is left out.
    """
    judged: dict[str, dict[str, Reliability]] = {name: {} for name in pairs}
    for name, whole in pairs.items():
        halves = [whole.half(0), whole.half(1)]
        if all(len(half.positives) and len(half.negatives) for half in halves):
            both = [_judged(_fitted([halves[i]]), halves[1 - i]) for i in (0, 1)]
            judged[name]["other people"] = _joined(both)
        if others := [p for other, p in pairs.items() if other != name]:
            judged[name]["other sets"] = _joined([_judged(_fitted(others), whole)])
    return judged


def check_prior(prior: float) -> None:
    """Raise ValueError if a prior is not between 0 and 1."""
    if not 0 < prior < 1:
        raise ValueError(f"the prior is {prior:g}; expected a probability between 0 and 1.")


def parsed(content: bytes | str, where: str) -> Any:
    """Return the data of a JSON text; raise ValueError, with the place, if it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error}); expected a calibration.") from error


def _weighted(pairs: Sequence[Pairs]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct scores with the weights of both kinds, each of which sums to 1."""
    scores = np.concatenate([part for p in pairs for part in (p.positives, p.negatives)])
    same, other = [], []
    for p in pairs:
        ones, zeros = np.ones(len(p.positives)), np.zeros(len(p.negatives))
        same += [ones / ones.sum() / len(pairs), zeros]
        other += [0 * ones, p.counts / p.counts.sum() / len(pairs)]
    distinct, place = np.unique(scores, return_inverse=True)
    return distinct, *(np.bincount(place, np.concatenate(kind)) for kind in (same, other))


def _fitted(pairs: Sequence[Pairs]) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and log ratios, the points of the fit."""
    from scipy.optimize import isotonic_regression

    scores, same, other = _weighted(pairs)
    total = same + other
    if len(scores) > _GROUPS:
        # Neighbours of equal weight together: a fit of a million points would take seconds.
        group = np.minimum((np.cumsum(total) * (_GROUPS / 2)).astype(int), _GROUPS - 1)
        first = np.flatnonzero(np.diff(group, prepend=-1))
        moment = np.add.reduceat(scores * total, first)
        same, other, total = (np.add.reduceat(part, first) for part in (same, other, total))
        scores = moment / total
    steps = isotonic_regression(same / total, weights=total).blocks[:-1]
    sums = [np.add.reduceat(part, steps) for part in (same, other, total)]
    centre = np.add.reduceat(scores * total, steps) / sums[2]
    counts = [
        sum(len(p.positives) for p in pairs),
        sum(int(p.counts.sum()) for p in pairs),
    ]
    densities = [
        np.log(part * n + 1) - math.log(n + 2) for part, n in zip(sums, counts, strict=False)
    ]
    # The added pairs may turn two steps around.
    ratio = isotonic_regression(densities[0] - densities[1], weights=sums[2]).x
    kept = _spread(len(centre))
    return centre[kept], ratio[kept]


def _rates(pairs: Sequence[Pairs]) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and the shares of negatives at or above them, evenly spread by logarithm."""
    scores, _, other = _weighted(pairs)
    there = other > 0
    scores, rate = scores[there], np.cumsum(other[there][::-1])[::-1]
    wanted = np.geomspace(rate[-1], 1, _POINTS)
    kept = np.unique(np.clip(np.searchsorted(-rate, -wanted, "left"), 0, len(rate) - 1))
    return scores[kept], np.minimum(rate[kept], 1.0)


def _thresholds(pairs: Sequence[Pairs]) -> list[Threshold]:
    scores, _, other = _weighted(pairs)
    above = np.append(np.cumsum(other[::-1])[::-1], 0.0)
    found = []
    for rate in RATES:
        # Too few pairs would make it a guess.
        if max(int(p.counts.sum()) for p in pairs) * rate < 1:
            continue
        error = math.sqrt(sum(p.errors[rate] ** 2 for p in pairs)) / len(pairs)
        if len(pairs) == 1:
            score = pairs[0].thresholds[rate]
        else:
            at = int(np.flatnonzero(above <= rate)[0])
            score = float(scores[min(at, len(scores) - 1)])
        by_set = [float(p.counts[p.negatives >= score].sum() / p.counts.sum()) for p in pairs]
        if len(pairs) > 1:
            error = max(error, float(np.std(by_set, ddof=1) / math.sqrt(len(by_set))))
        if math.isfinite(score):
            found.append(Threshold(rate, float(score), error, tuple(by_set)))
    return found


def _judged(points: tuple[np.ndarray, np.ndarray], pairs: Pairs) -> np.ndarray:
    """Return sums of [BINS, 4] over pairs: weight, predicted, observed, log loss in bits."""
    scores, same, other = _weighted([pairs])
    log_odds = np.interp(scores, *points)
    p = 1 / (1 + np.exp(-log_odds))
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    weight = (same + other) / 2
    loss = (same * np.logaddexp(0, -log_odds) + other * np.logaddexp(0, log_odds)) / 2
    columns = (weight, weight * p, same / 2, loss / math.log(2))
    return np.stack([np.bincount(place, column, BINS) for column in columns], axis=1)


def _joined(parts: Sequence[np.ndarray]) -> Reliability:
    """Return the mean of `_judged` sums."""
    weight, predicted, observed, loss = np.mean(parts, axis=0).T
    with np.errstate(invalid="ignore"):
        means = predicted / weight, observed / weight
    error = float(np.abs(predicted - observed).sum())
    return Reliability(*means, weight, error, float(loss.sum()))


def _spread(count: int) -> np.ndarray:
    """Return at most `_POINTS` indices, evenly spread, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int))


_CURVES = ("score", "log_ratio", "rate_score", "rate")


def _checked(data: Any) -> dict[str, Any]:
    """Return the arguments of `Calibration`; raise an error if anything is amiss."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ValueError("it does not say so")
    curves = {name: _numbers(data[name], name) for name in _CURVES}
    for left, right in (("score", "log_ratio"), ("rate_score", "rate")):
        if len(curves[left]) != len(curves[right]):
            raise ValueError(f"{left} and {right} differ in length")
        if not (np.diff(curves[left]) > 0).all():
            raise ValueError(f"{left} does not ascend")
    if (np.diff(curves["log_ratio"]) < 0).any():
        raise ValueError("log_ratio descends")
    if (np.diff(curves["rate"]) > 0).any() or not (
        (curves["rate"] > 0) & (curves["rate"] <= 1)
    ).all():
        raise ValueError("rate ascends, or is not in (0, 1]")
    sets = tuple(
        TestSet(
            name=_text(held["name"]),
            fingerprint=_text(held["fingerprint"]),
            **{name: _count(held[name]) for name in ("people", "positives", "negatives")},
        )
        for held in _items(data["sets"])
    )
    thresholds = tuple(
        Threshold(
            **{name: float(_numbers([held[name]], name)[0]) for name in ("rate", "score", "error")},
            by_set=tuple(_numbers(held["by_set"], "by_set").tolist()),
        )
        for held in (_items(data["thresholds"]) if data["thresholds"] else ())
    )
    own = data["own"]
    if not isinstance(own, bool):
        raise ValueError("own is neither true nor false")
    more = {"sets": sets, "thresholds": thresholds, "own": own}
    return {**curves, **more, "model_digest": _text(data["model_digest"])}


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= 1000:
        raise ValueError("a list is missing, empty or too long")
    return value


def _numbers(value: Any, name: str) -> np.ndarray:
    if not all(type(number) in (int, float) for number in _items(value)):
        raise ValueError(f"{name} holds something else than numbers")
    numbers = np.array(value, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} is not finite")
    return numbers


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value < 2**53:
        raise ValueError(f"{value!r} is not a count")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        raise ValueError("a name is not a short line of text")
    return value
