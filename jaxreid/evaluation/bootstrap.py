"""Bootstrap of means over people and over seeds.

Queries of a person are not independent, so people are drawn, with all of their queries. The groups
that are compared see the same people in each draw: their difference is paired.
"""

from collections.abc import Sequence

import numpy as np

DRAWS = 10_000
# Draws computed at once, for memory.
_CHUNK = 500
LEVEL = 0.95


def resampled_means(
    groups: Sequence[np.ndarray], people: np.ndarray, *, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """Return the mean of each group in every draw, [draws, groups].

    Of S seeds, S - 1 are drawn, so that the variance of their mean is not underestimated; a single
    seed is kept, and its chance is not in the draws.

    Args:
        groups: of each group, values [S, Q] of the same queries, a row for each of its own seeds.
        people: [Q] person of each query.
        draws: number of draws.
        seed: of the random numbers.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, Chapter 8; Rao and Wu,
        JASA 1988, for S - 1.
    """
    _, who = np.unique(people, return_inverse=True)
    count = np.bincount(who)
    sums = [np.stack([np.bincount(who, row) for row in values]) for values in groups]
    generator = np.random.default_rng(seed)
    means = []
    for first in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - first)
        drawn = _drawn(generator, len(count), len(count), size)
        means.append([(_seeds(generator, s, size) * drawn).sum(1) / (drawn @ count) for s in sums])
    return np.concatenate(means, axis=1).T


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Return the percentile interval of a statistic at `LEVEL`, from its values [draws]."""
    low, high = np.quantile(samples, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def _seeds(generator: np.random.Generator, sums: np.ndarray, size: int) -> np.ndarray:
    """Return the means [size, P] over drawn rows of `sums` [S, P]."""
    if len(sums) == 1:
        return sums
    kept = len(sums) - 1
    return _drawn(generator, len(sums), kept, size) @ sums / kept


def _drawn(generator: np.random.Generator, things: int, count: int, size: int) -> np.ndarray:
    """Return how often each thing is among `count` drawn with replacement, [size, things]."""
    return generator.multinomial(count, np.full(things, 1 / things), size)
