"""Random numbers that are the same on every machine and in every version of NumPy.

NumPy promises that the raw words of a bit generator never change, but not what
`Generator.integers` and its siblings make of them. So everything here is made from raw words.
"""

from collections.abc import Sequence

import numpy as np


class Stream:
    """A stream of random numbers named by a tuple of integers.

    Args:
        *key: integers >= 0; two streams of different keys are independent.
    """

    def __init__(self, *key: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def unit(self) -> float:
        """Returns a float in [0, 1), a multiple of 2**-53."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        """Returns a float in [low, high)."""
        return low + (high - low) * self.unit()

    def integer(self, low: int, high: int) -> int:
        """Returns an integer of low, ..., high, both included."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def chance(self, probability: float) -> bool:
        """Returns True with this probability."""
        return self.unit() < probability

    def choice(self, items: Sequence):
        """Returns one of the items."""
        return items[self.integer(0, len(items) - 1)]

    def weighted(self, weights: dict):
        """Returns a key of `weights` with probability proportional to its value."""
        left = self.unit() * sum(weights.values())
        for item, weight in weights.items():
            left -= weight
            if left < 0:
                return item
        return next(reversed(weights))  # only by rounding

    def shuffled(self, items: Sequence) -> list:
        """Returns the items in random order (Fisher and Yates)."""
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.integer(0, i)
            items[i], items[j] = items[j], items[i]
        return items

    def bytes(self, *shape: int) -> np.ndarray:
        """Returns uint8 `shape`, each value equally likely."""
        count = int(np.prod(shape))
        words = self._bits.random_raw((count + 7) // 8).astype("<u8")
        return words.view(np.uint8)[:count].reshape(shape)
