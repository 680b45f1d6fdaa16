"""Scores of all pairs of a test set, by person, and their distributions, for calibrations.

Two pairs that share a person are not independent, so an error that counted pairs would be too
small. Errors are taken over people, and what is measured on other people than it was fitted on is
measured between two halves of them.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Scores of pairs, junk left out.

    Halves are 0 and 1: the half of the people that both images of a pair show. 2 stands for a
    negative pair of both halves, which belongs to neither.

    Attributes:
        positives: [P] float64, scores of pairs of the same person.
        positive_halves: [P] int.
        negatives: [N] float64, scores of pairs of two people; middles of narrow intervals if there
            are more than are kept.
        counts: [N] int64, pairs with this score.
        negative_halves: [N] int.
        people: number of people among the queries.
        thresholds: by false-positive rate, the threshold (`Roc`).
        errors: by false-positive rate, the standard error of the rate at this threshold, over
            people.
    """

    positives: np.ndarray
    positive_halves: np.ndarray
    negatives: np.ndarray
    counts: np.ndarray
    negative_halves: np.ndarray
    people: int
    thresholds: dict[float, float]
    errors: dict[float, float]

    @property
    def negative_count(self) -> int:
        """Number of pairs of two people."""
        return int(self.counts.sum())

    def half(self, half: int) -> "Pairs":
        """Return the pairs within one half of the people; thresholds stay those of all."""
        ours, theirs = self.positive_halves == half, self.negative_halves == half
        return dataclasses.replace(
            self,
            positives=self.positives[ours],
            positive_halves=self.positive_halves[ours],
            negatives=self.negatives[theirs],
            counts=self.counts[theirs],
            negative_halves=self.negative_halves[theirs],
        )


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Distributions of the scores of both kinds of pairs, over sets that count equally.

    Attributes:
        scores: [K] float64, distinct and ascending.
        same: [K] float64, share of the pairs of the same person with each score; sums to 1.
        other: [K] float64, share of the pairs of two people; sums to 1.
        positives: number of pairs of the same person.
        negatives: number of pairs of two people.
    """

    scores: np.ndarray
    same: np.ndarray
    other: np.ndarray
    positives: int
    negatives: int

    @classmethod
    def of(cls, pairs: Sequence[Pairs]) -> "Distribution":
        """Return the distribution over the pairs of one or several sets."""
        scores = np.concatenate([part for p in pairs for part in (p.positives, p.negatives)])
        same, other = [], []
        for p in pairs:
            ones, zeros = np.ones(len(p.positives)), np.zeros(len(p.negatives))
            same += [ones / ones.sum() / len(pairs), zeros]
            other += [0 * ones, p.counts / p.negative_count / len(pairs)]
        distinct, place = np.unique(scores, return_inverse=True)
        return cls(
            distinct,
            *(np.bincount(place, np.concatenate(kind)) for kind in (same, other)),
            positives=sum(len(p.positives) for p in pairs),
            negatives=sum(p.negative_count for p in pairs),
        )

    @functools.cached_property
    def accepted(self) -> np.ndarray:
        """[K] share of the pairs of two people with at least each score."""
        return np.cumsum(self.other[::-1])[::-1]


def people_of(gallery_pid: np.ndarray) -> np.ndarray:
    """Return the people of a gallery, [G] int64: every distractor is somebody else, negative."""
    pid = np.asarray(gallery_pid, np.int64)
    return np.where(pid > 0, pid, -1 - np.arange(pid.size))


def half_of(people: np.ndarray) -> np.ndarray:
    """Return the half, 0 or 1, that each person belongs to; mixed, as ids may all be even."""
    # By way of int64: the cast of a negative float to an unsigned number differs by machine.
    ids = np.asarray(people).astype(np.int64).astype(np.uint64)
    return ((ids * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(63)).astype(np.int64)


def shared_half(query_half: np.ndarray | int, gallery_half: np.ndarray) -> np.ndarray:
    """Return the half that both people of each pair belong to; 2 for a pair of both halves."""
    return np.where(gallery_half == query_half, gallery_half, 2)


def rate_error(accepted: np.ndarray, images: tuple[Counter, Counter], negatives: int) -> float:
    """Return the standard error of a false-positive rate, over people.

    Args:
        accepted: [2, k], the people of the accepted negatives, query and gallery.
        images: number of negatives of each person as a query, and as a gallery image.
        negatives: number of all negatives.

    Source: Cameron, Gelbach and Miller, JBES 2011: the variance of a mean whose terms share
        members of two groups is that of sums over each group, less that of sums over both.
    """
    count = accepted.shape[1]
    rate = count / negatives
    variance = 0.0
    for side, members in zip(accepted, images, strict=True):
        hits = Counter(side.astype(np.int64).tolist())
        total = sum(members.values())
        scale = negatives / max(total, 1)
        sums = np.array([hits[person] - rate * scale * n for person, n in members.items()])
        variance += float((sums**2).sum()) * len(sums) / max(len(sums) - 1, 1)
    both = np.unique(accepted, axis=1, return_counts=True)[1] if count else np.zeros(0)
    variance -= float((both.astype(np.float64) ** 2).sum())
    # Never below that of independent pairs.
    return float(np.sqrt(max(variance, count * (1 - rate))) / negatives)
