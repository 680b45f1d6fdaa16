"""Calibration: scores as probabilities and false-match rates.

    calibration = Calibration.read(path)
    calibration.probability(scores, prior=0.5)
    calibration.false_match_rate(scores)

A score is turned into the ratio of its densities among pairs of the same person and of two people,
whose logarithm is a non-decreasing function of the score. A probability follows from it and from a
prior: the share of pairs of the same person among those one looks at. `fitting` makes calibrations
of pairs, `reliability` judges them; using one takes NumPy alone.

Source: Brümmer and du Preez, Computer Speech & Language 2006 (the ratio, independent of the prior).
"""

import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

from jaxreid.evaluation.calibration_file import CURVES, FORMAT, checked, content_of, parsed
from jaxreid.runs.files import replace_file


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
        sets: data sets that it was fitted on.
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
        """Return a sentence on its data, with the warning that goes with every number of it."""
        people = sum(held.people for held in self.sets)
        pairs = sum(held.positives + held.negatives for held in self.sets)
        return (
            f"calibrated on {people:,} people and {pairs:,} pairs of {self.names}; other cameras "
            "shift probabilities and rates: calibrate on your own where you can"
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        data = dataclasses.asdict(self)
        data |= {name: getattr(self, name).tolist() for name in CURVES}
        return {"format": FORMAT, **data}

    @classmethod
    def from_json(cls, data: Any, where: str = "the calibration") -> "Calibration":
        """Return the calibration of plain data, from an untrusted file.

        Raises:
            ValueError: it is anything else than `as_json` writes; the message gives the reason.
        """
        fields = checked(data, where)
        sets = tuple(TestSet(**held) for held in fields.pop("sets"))
        thresholds = tuple(Threshold(**held) for held in fields.pop("thresholds"))
        return cls(sets=sets, thresholds=thresholds, **fields)

    @classmethod
    def from_text(cls, text: bytes | str, where: str) -> "Calibration":
        """Return the calibration of a JSON text, as `from_json`."""
        return cls.from_json(parsed(text, where), where)

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
        return cls.from_text(content_of(path), str(path))


def check_prior(prior: float) -> None:
    """Raise ValueError if a prior is not between 0 and 1."""
    if not 0 < prior < 1:
        raise ValueError(f"the prior is {prior:g}; expected a probability between 0 and 1.")
