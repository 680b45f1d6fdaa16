"""ROC over pairs: true-positive rate against false-positive rate.

One threshold judges the pairs of all queries, as an access gate would: a pair is accepted if its
score is at least the threshold. Pairs of the same person are positives, pairs of two people are
negatives, and junk (`ranking.protocol`) is excluded. Every distinct score is an operating point, so
equal scores are accepted together and the order of the files has no effect.

The negatives of a large gallery do not fit into memory. Small false-positive rates depend only on
the highest negatives, which are kept, so these rates are exact. The equal-error point is exact if
it lies among the kept negatives. Otherwise it is computed from counts in narrow intervals of the
score, with an error bound of about 1e-5 for scores that spread over a power of two.
"""

import bisect
import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxreid.evaluation.ranking.metrics import _comparable, _rows
from jaxreid.evaluation.ranking.pairs import Pairs, half_of, people_of, rate_error, shared_half

# Low bits of a float32 score that are dropped: an interval is at most 2^-15 of its scores wide.
_DROPPED_BITS = 8
# Intervals that a calibration sees as one: 2^-10 of its scores wide.
_JOINED = 32


@dataclasses.dataclass(frozen=True)
class Roc:
    """Operating points of the ROC; a pair is accepted if its score is >= the threshold.

    Attributes:
        true_positive_rate: by false-positive rate f, the largest share of positives, in [0, 1],
            that a threshold accepts while it accepts at most a share f of the negatives. Exact.
        threshold: by false-positive rate f, the lowest score that is such a threshold; infinite if
            every score accepts too many negatives.
        equal_error_rate: rate, in [0, 1], at which false positives and false negatives are equally
            frequent, interpolated linearly between operating points; 0.5 is chance.
        equal_error_threshold: highest score at which false positives are at least as frequent as
            false negatives. If the point is not among the kept negatives, the lower end of its
            interval, at most 2^-15 of the score below.
        equal_error_bound: largest possible error of `equal_error_rate`; 0 where it is exact up to
            rounding.
        positives: number of pairs of the same person, without junk.
        negatives: number of pairs of two people.
    """

    true_positive_rate: dict[float, float]
    threshold: dict[float, float]
    equal_error_rate: float
    equal_error_threshold: float
    equal_error_bound: float
    positives: int
    negatives: int


class RocAccumulator:
    """ROC of scores that arrive in tiles; independent of their order and size, bit for bit.

    Memory: all positives, up to twice the kept negatives and, if there may be more negatives,
    counts (768 KiB for the scores of one power of two), with the people of each pair.

    Args:
        pairs: upper bound of the number of pairs, Q * G or more.
        rates: false-positive rates to report, between 0 and 1. The number of kept negatives is at
            least the largest of them times `pairs`.
        keep: minimum number of kept negatives; with fewer negatives in total, everything is exact.

    Raises:
        ValueError: `pairs` or `keep` is below 1, or a rate is not between 0 and 1.
    """

    def __init__(
        self, pairs: int, *, rates: Sequence[float] = (1e-4, 1e-3, 1e-2), keep: int = 2**19
    ):
        if pairs < 1 or keep < 1 or not all(0 < rate < 1 for rate in rates):
            raise ValueError(
                f"pairs {pairs}, keep {keep}, rates {tuple(rates)}; expected pairs >= 1, keep >= 1 "
                "and false-positive rates between 0 and 1."
            )
        self.pairs, self.rates = pairs, tuple(rates)
        # One more than may be accepted: a threshold lies above the highest rejected negative.
        self._keep = max(keep, 1 + max((_accepted(rate, pairs) for rate in rates), default=0))
        self._positives: list[np.ndarray] = []
        # Halves of the people that the positives are of.
        self._halves: list[np.ndarray] = []
        # Scores of negatives with their two people, [3, n] float64, which holds both exactly.
        self._highest: list[np.ndarray] = []
        self._held = self._negatives = 0
        self._floor = None
        self._images: tuple[Counter, Counter] = Counter(), Counter()
        # By half (`Pairs`). Pages of zeros take no memory until they are written to.
        intervals = 2 ** (32 - _DROPPED_BITS) if pairs > self._keep else 0
        self._counts = np.zeros((3, intervals), np.int64)

    def add(
        self,
        scores: np.ndarray,
        query_pid: np.ndarray,
        query_camid: np.ndarray,
        gallery_pid: np.ndarray,
        gallery_camid: np.ndarray,
    ) -> None:
        """Add some queries with any part of the gallery, each pair once.

        Args:
            scores: [Q, G] float, without NaN; larger is more similar.
            query_pid: [Q] int, person of each query.
            query_camid: [Q] int, camera of each query, or its group under another junk rule.
            gallery_pid: [G] int.
            gallery_camid: [G] int.

        Raises:
            ValueError: shapes do not match, the gallery is empty, a score is NaN, or there are more
                than `pairs` negatives.
        """
        ids = query_pid, query_camid, gallery_pid, gallery_camid
        people = people_of(gallery_pid)
        query_half, gallery_half = half_of(query_pid), half_of(people)
        for q, row, match, junk in _rows(_comparable(scores), *ids):
            person = int(query_pid[q])
            self._positives.append(row[match])
            self._halves.append(np.full(match.size, query_half[q]))
            kept = np.ones(row.size, bool)
            kept[match] = kept[junk] = False
            half = shared_half(query_half[q], gallery_half)
            self._add_negatives(row, kept, person, people, half)
            self._images[0][person] += row.size - match.size - junk.size
        self._images[1].update({p: n * len(scores) for p, n in Counter(people.tolist()).items()})

    def _add_negatives(
        self, row: np.ndarray, kept: np.ndarray, person: int, people: np.ndarray, half: np.ndarray
    ) -> None:
        scores = row[kept]
        self._negatives += scores.size
        if self._negatives > self.pairs:
            raise ValueError(
                f"{self._negatives} negatives exceed pairs={self.pairs}; expected `pairs` to be at "
                "least the number of queries times the number of gallery images."
            )
        if self._counts.size:
            # Indices of one dimension: NumPy adds those several times as fast.
            places = half[kept] * self._counts.shape[1] + _interval(scores)
            np.add.at(self._counts.reshape(-1), places, 1)
        if self._floor is not None:
            kept &= row > self._floor
            scores = row[kept]
        self._highest.append(np.stack([scores, np.full(scores.size, person), people[kept]]))
        self._held += scores.size
        if self._held > 2 * self._keep:
            highest = self._take_highest()
            self._highest, self._held = [highest], highest.shape[1]
            self._floor = highest[0].min()

    def _take_highest(self) -> np.ndarray:
        """Return up to `_keep` of the highest negatives with their people, [3, n]."""
        highest = np.concatenate([*self._highest, np.zeros((3, 0))], axis=1)
        if highest.shape[1] > self._keep:
            highest = highest[:, np.argpartition(highest[0], -self._keep)[-self._keep :]]
        return highest

    def result(self) -> Roc:
        """Return the operating points; more scores may be added afterwards.

        Raises:
            ValueError: positives or negatives are missing.
        """
        positives = np.sort(np.concatenate([*self._positives, np.zeros(0, np.float32)]))
        if not positives.size or not self._negatives:
            raise ValueError(
                f"{positives.size} pairs of the same person and {self._negatives} pairs of two "
                "people remain after removing junk; a ROC needs both. Check that query and gallery "
                "belong together and share people and cameras."
            )
        highest = np.sort(self._take_highest()[0]).astype(positives.dtype)
        rate, threshold = {}, {}
        for f in self.rates:
            # The highest rejected negative; scores equal to it are rejected too.
            rejected = highest[-1 - _accepted(f, self._negatives)]
            above = positives.size - np.searchsorted(positives, rejected, side="right")
            rate[f] = float(above / positives.size)
            next_up = [s[np.searchsorted(s, rejected, "right") :][:1] for s in (positives, highest)]
            threshold[f] = float(min(np.concatenate(next_up), default=np.inf))
        equal_error = self._meeting_above(positives, highest) or self._meeting_within(positives)
        return Roc(rate, threshold, *equal_error, positives.size, self._negatives)

    def all_pairs(self) -> Pairs:
        """Return the pairs for a calibration, with the errors of the rates at their thresholds.

        Raises:
            ValueError: positives or negatives are missing.
        """
        roc, highest = self.result(), self._take_highest()
        positives, halves = (np.concatenate(part) for part in (self._positives, self._halves))
        if self._counts.size:
            joined = self._counts.reshape(3, -1, _JOINED).sum(2)
            half, interval = np.nonzero(joined)
            negatives, counts = _middles(interval * _JOINED, _JOINED), joined[half, interval]
        else:
            negatives, counts = highest[0], np.ones(highest.shape[1], np.int64)
            half = shared_half(*(half_of(people) for people in highest[1:]))
        errors = {
            rate: rate_error(highest[1:, highest[0] >= t], self._images, self._negatives)
            for rate, t in roc.threshold.items()
        }
        return Pairs(
            positives=positives.astype(np.float64),
            positive_halves=halves,
            negatives=negatives.astype(np.float64),
            counts=counts,
            negative_halves=half,
            people=len(self._images[0]),
            thresholds=roc.threshold,
            errors=errors,
        )

    def _meeting_above(
        self, positives: np.ndarray, highest: np.ndarray
    ) -> tuple[float, float, float] | None:
        """Return equal-error rate, threshold and bound if the point is among the kept negatives."""

        def rates(thresholds):
            accepted = highest.size - np.searchsorted(highest, thresholds)
            missed = np.searchsorted(positives, thresholds)
            return accepted / self._negatives, missed / positives.size

        scores = np.unique(np.concatenate([positives, highest]))[::-1]
        # Negatives equal to the lowest kept one may have been dropped.
        if highest.size < self._negatives:
            scores = scores[scores > highest[0]]
        # One rate rises and the other falls, so bisection finds where they meet.
        at = bisect.bisect_left(scores, True, key=lambda s: np.greater_equal(*rates(s)))
        if at == scores.size:
            return None
        rate, _ = _meeting(*rates(scores[max(at - 1, 0) : at + 1]))
        return rate, float(scores[at]), 0.0

    def _meeting_within(self, positives: np.ndarray) -> tuple[float, float, float]:
        """Return equal-error rate, threshold and bound from the counts of all negatives."""
        used = np.flatnonzero(self._counts.any(0))
        below = np.append(0, np.cumsum(self._counts[:, used].sum(0)))
        place = _interval(positives)

        def rates(interval):
            accepted = self._negatives - below[np.searchsorted(used, interval)]
            missed = np.searchsorted(place, interval)
            return accepted / self._negatives, missed / positives.size

        ends = range(self._counts.shape[1] + 1)
        at = bisect.bisect_left(ends, True, key=lambda i: np.less(*rates(i))) - 1
        rate, bound = _meeting(*rates(np.array([at + 1, at])))
        return rate, _lower_end(at), bound


def _accepted(rate: float, negatives: int) -> int:
    """Return the largest m with m / negatives <= rate: the most negatives that may be accepted."""
    # The product is rounded, so m may be off by one.
    m = int(rate * negatives)
    return m + ((m + 1) / negatives <= rate) - (m / negatives > rate)


def _meeting(accepted: np.ndarray, missed: np.ndarray) -> tuple[float, float]:
    """Return where the share of negatives accepted, rising, meets that of positives missed.

    Args:
        accepted: share of negatives accepted before and after the crossing; only after it if that
            is the first operating point.
        missed: share of positives missed, at the same points.

    Returns:
        The rate on the straight line between the points, and the largest distance from it of any
        curve through them.
    """
    a, b = [0.0, *accepted][-2:]
    c, d = [1.0, *missed][-2:]
    rate = a + (b - a) * (c - a) / (c - a + b - d)
    return float(rate), float(min(b, c) - max(a, d))


def _interval(scores: np.ndarray) -> np.ndarray:
    """Return the interval index of each score: its leading bits, ascending with the score."""
    with np.errstate(over="ignore"):
        # Adding 0 turns -0 into 0.
        bits = (scores.astype(np.float32) + np.float32(0)).view(np.int32)
    # Floats are stored as sign and magnitude: flip the negative ones into ascending order.
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return (bits >> _DROPPED_BITS).astype(np.intp) + 2 ** (31 - _DROPPED_BITS)


def _lower_end(interval: int) -> float:
    """Return the smallest score of an interval."""
    return float(_lower_ends(np.array(interval)))


def _lower_ends(interval: np.ndarray) -> np.ndarray:
    """Return the smallest score of each interval, float64."""
    bits = (interval - 2 ** (31 - _DROPPED_BITS)).astype(np.int32) << _DROPPED_BITS
    with np.errstate(invalid="ignore"):
        ends = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32).astype(np.float64)
    # The interval of -inf begins among the NaNs.
    return np.where(np.isnan(ends), -np.inf, ends)


def _middles(interval: np.ndarray, size: int) -> np.ndarray:
    """Return the middles of intervals joined `size` at a time; finite also beside infinity."""
    largest = float(np.finfo(np.float32).max)
    lower, upper = (
        np.clip(_lower_ends(at), -largest, largest) for at in (interval, interval + size)
    )
    return (lower + upper) / 2
