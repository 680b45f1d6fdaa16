"""Random numbers that are the same on every machine and in every version of NumPy.

NumPy guarantees the raw words of a bit generator across versions, but not the results of
`Generator.integers` and its siblings. This module therefore uses raw words only.
"""

from collections.abc import Sequence

import numpy as np


class Stream:
    """Stream of random numbers, keyed by a tuple of integers.

    Args:
        *key: integers >= 0; streams with different keys are independent.
    """

    def __init__(self, *key: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def unit(self) -> float:
        """Return a float in [0, 1), a multiple of 2**-53."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """Return a float in [low, high)."""
        return low + (high - low) * self.unit()

    def integer(self, low: int, high: int) -> int:
        """Return an integer in low, ..., high, both included."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.unit() < probability

    def choice(self, items: Sequence):
        """Return one of the items."""
        return items[self.integer(0, len(items) - 1)]

    def weighted(self, weights: dict):
        """Return a key of `weights` with probability proportional to its value."""
        left = self.unit() * sum(weights.values())
        for item, weight in weights.items():
            left -= weight
            if left < 0:
                return item
        # Reached only by rounding.
        return next(reversed(weights))

    def shuffled(self, items: Sequence) -> list:
        """Return the items in random order (Fisher-Yates)."""
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.integer(0, i)
            items[i], items[j] = items[j], items[i]
        return items

    def bytes(self, *shape: int) -> np.ndarray:
        """Return uniform uint8 values of this shape."""
        count = int(np.prod(shape))
        words = self._bits.random_raw((count + 7) // 8).astype("<u8")
        return words.view(np.uint8)[:count].reshape(shape)
