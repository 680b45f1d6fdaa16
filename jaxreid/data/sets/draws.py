"""Random choices that stay the same on every machine and with every version of a library."""

import hashlib
from collections.abc import Hashable, Iterable
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def shuffled(items: Iterable[T], *key: Hashable) -> list[T]:
    """Return distinct items in an order drawn by a key.

    The order of two items depends on them and the key alone, so it stays when others are added or
    removed, and on no generator of random numbers.
    """

    def rank(item: T) -> bytes:
        return hashlib.sha256(repr((*key, item)).encode("utf-8", "surrogateescape")).digest()

    return sorted(items, key=rank)
