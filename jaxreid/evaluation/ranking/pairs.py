"""Scores of all pairs of a test set, by person, as a calibration needs them.

Two pairs that share a person are not independent, so an error that counted pairs would be too
small. Errors are taken over people, and what is measured on other people than it was fitted on is
measured between two halves of them.
"""

import dataclasses
from collections import Counter

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


def people_of(gallery_pid: np.ndarray) -> np.ndarray:
    """Return the people of a gallery, [G] int64: every distractor is somebody else, negative."""
    pid = np.asarray(gallery_pid, np.int64)
    return np.where(pid > 0, pid, -1 - np.arange(pid.size))


def half_of(people: np.ndarray) -> np.ndarray:
    """Return the half, 0 or 1, that each person belongs to; mixed, as ids may all be even."""
    mixed = np.asarray(people).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(63)).astype(np.int64)


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
