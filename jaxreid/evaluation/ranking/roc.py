"""ROC over pairs: which share of true pairs a threshold accepts, and which of the others.

All pairs of all queries are judged by one threshold, as an access gate would: a pair is accepted if
its score is at least the threshold. Pairs of the same person are positives, pairs of two people are
negatives, junk (`ranking.protocol`) is neither. Every distinct score is one operating point, so
equal scores are accepted together, and the order of files means nothing.

One pass over a large gallery cannot hold its negatives. Rates at small false-positive rates depend
on the highest negatives only, which are kept: these rates are exact. The equal-error point is exact
where it falls among them; otherwise it comes from counts in narrow intervals of the score, with a
bound on the error, about 1e-5 for scores that spread over a power of two.
"""

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxreid.evaluation.ranking.metrics import _comparable, _rows

_DROPPED_BITS = 8  # of a float32: an interval is at most 2^-15 of its scores wide


@dataclasses.dataclass(frozen=True)
class Roc:
    """Points of the curve. A pair is accepted if its score is >= the threshold.

    Attributes:
        true_positive_rate: by false-positive rate f: the largest share of positives, in [0, 1],
            which a threshold accepts that accepts a share of at most f of the negatives. Exact.
        threshold: by false-positive rate f: the lowest score which is such a threshold; infinite
            if all scores accept too many.
        equal_error_rate: in [0, 1], where false positives and false negatives are equally frequent,
            operating points being joined by straight lines: 0.5 is chance.
        equal_error_threshold: the highest score at which false positives are at least as frequent;
            or, where the point is not among the negatives kept, the lower end of its interval, at
            most 2^-15 of the score below.
        equal_error_bound: how far `equal_error_rate` may be from the exact one; 0 where it is exact
            up to rounding.
        positives: pairs of the same person, without junk.
        negatives: pairs of two people.
    """

    true_positive_rate: dict[float, float]
    threshold: dict[float, float]
    equal_error_rate: float
    equal_error_threshold: float
    equal_error_bound: float
    positives: int
    negatives: int


class RocAccumulator:
    """Collects scores tile by tile; neither the order of tiles nor their size changes a bit.

    Memory: all positives, up to twice the negatives that are kept, and, beyond these, counts (the
    scores of one power of two take 256 KiB).

    Args:
        pairs: Q * G, or more: what will be added at most.
        rates: false-positive rates to report, between 0 and 1; the largest of them times `pairs`
            negatives are kept.
        keep: negatives that are kept at least; what has fewer is exact throughout.

    Raises:
        ValueError: `pairs` or `keep` is below 1, or a rate is not between 0 and 1.
    """

    def __init__(
        self, pairs: int, *, rates: Sequence[float] = (1e-4, 1e-3, 1e-2), keep: int = 2**19
    ):
        if pairs < 1 or keep < 1 or not all(0 < rate < 1 for rate in rates):
            raise ValueError(
                f"pairs {pairs}, keep {keep}, rates {tuple(rates)}; needed are pairs >= 1, keep "
                ">= 1 and false-positive rates between 0 and 1."
            )
        self.pairs, self.rates = pairs, tuple(rates)
        # One more than are accepted: a threshold is above the highest that is not.
        self._keep = max(keep, 1 + max((_accepted(rate, pairs) for rate in rates), default=0))
        self._positives: list[np.ndarray] = []
        self._highest: list[np.ndarray] = []
        self._held = self._negatives = 0
        self._floor = None
        # Pages of zeros are not in memory before they are written to.
        self._counts = np.zeros(2 ** (32 - _DROPPED_BITS) if pairs > self._keep else 0, np.int64)

    def add(
        self,
        scores: np.ndarray,
        query_pid: np.ndarray,
        query_camid: np.ndarray,
        gallery_pid: np.ndarray,
        gallery_camid: np.ndarray,
    ) -> None:
        """Adds some queries and any part of the gallery; each pair once.

        Args:
            scores: [Q, G] float, larger = more alike; no NaN.
            query_pid: [Q] int, person of each query.
            query_camid: [Q] int, camera of each query, or group of another junk rule.
            gallery_pid: [G] int.
            gallery_camid: [G] int.

        Raises:
            ValueError: shapes do not fit, the gallery is empty, a score is NaN, or there are more
                pairs than were announced.
        """
        ids = query_pid, query_camid, gallery_pid, gallery_camid
        for _, row, match, junk in _rows(_comparable(scores), *ids):
            self._positives.append(row[match])
            self._add_negatives(np.delete(row, np.concatenate([match, junk])))

    def _add_negatives(self, scores: np.ndarray) -> None:
        self._negatives += scores.size
        if self._negatives > self.pairs:
            raise ValueError(
                f"{self._negatives} negatives, but {self.pairs} pairs were announced: `pairs` is "
                "the number of queries times that of gallery images."
            )
        if self._counts.size:
            np.add.at(self._counts, _interval(scores), 1)
        if self._floor is not None:
            scores = scores[scores > self._floor]
        self._highest.append(scores)
        self._held += scores.size
        if self._held > 2 * self._keep:
            highest = self._take_highest()
            self._highest, self._held, self._floor = [highest], highest.size, highest.min()

    def _take_highest(self) -> np.ndarray:
        """The highest negatives, up to `_keep` of them."""
        highest = np.concatenate(self._highest)
        if highest.size > self._keep:
            highest.partition(-self._keep)
            highest = highest[-self._keep :].copy()  # and the rest is freed
        return highest

    def result(self) -> Roc:
        """The curve's points; more may be added afterwards.

        Raises:
            ValueError: there is no positive, or no negative.
        """
        positives = np.sort(np.concatenate([*self._positives, np.zeros(0, np.float32)]))
        if not positives.size or not self._negatives:
            raise ValueError(
                f"{positives.size} pairs of the same person and {self._negatives} pairs of two "
                "people are left without junk; a ROC needs both. Check that query and gallery "
                "belong together, and have people and cameras in common."
            )
        highest = np.sort(self._take_highest())
        rate, threshold = {}, {}
        for f in self.rates:
            rejected = highest[-1 - _accepted(f, self._negatives)]  # and all that equal it
            above = positives.size - np.searchsorted(positives, rejected, side="right")
            rate[f] = float(above / positives.size)
            next_up = [s[np.searchsorted(s, rejected, "right") :][:1] for s in (positives, highest)]
            threshold[f] = float(min(np.concatenate(next_up), default=np.inf))
        equal_error = self._meeting_above(positives, highest) or self._meeting_within(positives)
        return Roc(rate, threshold, *equal_error, positives.size, self._negatives)

    def _meeting_above(
        self, positives: np.ndarray, highest: np.ndarray
    ) -> tuple[float, float, float] | None:
        """Equal-error rate, threshold and bound, if the point is among the negatives kept."""

        def rates(thresholds):
            accepted = highest.size - np.searchsorted(highest, thresholds)
            missed = np.searchsorted(positives, thresholds)
            return accepted / self._negatives, missed / positives.size

        scores = np.unique(np.concatenate([positives, highest]))[::-1]
        if highest.size < self._negatives:  # some that equal the lowest may have been dropped
            scores = scores[scores > highest[0]]
        # One rate rises, one falls: a few of them tell where they meet.
        at = bisect.bisect_left(scores, True, key=lambda s: np.greater_equal(*rates(s)))
        if at == scores.size:
            return None
        rate, _ = _meeting(*rates(scores[max(at - 1, 0) : at + 1]))
        return rate, float(scores[at]), 0.0

    def _meeting_within(self, positives: np.ndarray) -> tuple[float, float, float]:
        """Equal-error rate, threshold and bound, from the counts of all negatives."""
        used = np.flatnonzero(self._counts)
        below = np.append(0, np.cumsum(self._counts[used]))
        place = _interval(positives)

        def rates(interval):
            accepted = self._negatives - below[np.searchsorted(used, interval)]
            missed = np.searchsorted(place, interval)
            return accepted / self._negatives, missed / positives.size

        ends = range(self._counts.size + 1)
        at = bisect.bisect_left(ends, True, key=lambda i: np.less(*rates(i))) - 1
        rate, bound = _meeting(*rates(np.array([at + 1, at])))
        return rate, _lower_end(at), bound


def _accepted(rate: float, negatives: int) -> int:
    """The most negatives that may be accepted: the largest m with m / negatives <= rate."""
    m = int(rate * negatives)  # the product is rounded
    return m + ((m + 1) / negatives <= rate) - (m / negatives > rate)


def _meeting(accepted: np.ndarray, missed: np.ndarray) -> tuple[float, float]:
    """Where the share of negatives accepted, rising, meets that of positives missed, falling.

    Args:
        accepted: before and after they meet; only after, if that is the first operating point.
        missed: the same.

    Returns:
        The rate on the straight line between the points, and how far from it any curve that goes
        through them may be.
    """
    a, b = [0.0, *accepted][-2:]
    c, d = [1.0, *missed][-2:]
    rate = a + (b - a) * (c - a) / (c - a + b - d)
    return float(rate), float(min(b, c) - max(a, d))


def _interval(scores: np.ndarray) -> np.ndarray:
    """Number of the interval in which a score falls, rising with it: the leading bits."""
    with np.errstate(over="ignore"):
        bits = (scores.astype(np.float32) + np.float32(0)).view(np.int32)  # -0 becomes 0
    bits ^= (bits >> 31) & 0x7FFFFFFF  # negative numbers are stored with their size, not in order
    return (bits >> _DROPPED_BITS).astype(np.intp) + 2 ** (31 - _DROPPED_BITS)


def _lower_end(interval: int) -> float:
    """The smallest score of an interval."""
    bits = np.array(int(interval) - 2 ** (31 - _DROPPED_BITS), np.int32) << _DROPPED_BITS
    end = float((bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32))
    return -np.inf if np.isnan(end) else end  # the interval of -inf begins among the NaNs
