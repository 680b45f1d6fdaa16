"""Images that look the same: 64-bit difference hashes, grouped where few bits differ."""

from collections import defaultdict

import numpy as np
from PIL import Image

# Bits in which the hashes of two images that look the same may differ.
DISTANCE = 2
# First bit and number of bits of each band. If two hashes differ in two bits, they are equal in
# one of three bands, so only images with an equal band are compared.
_BANDS = ((0, 22), (22, 21), (43, 21))


def difference_hash(pixels: np.ndarray) -> int:
    """Return 64 bits that mark where an image, uint8 [h, w, 3], becomes brighter to the right.

    Source: dHash, N. Krawetz, "Kind of Like That", 2013.
    """
    grey = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    rows = np.asarray(grey)
    return int.from_bytes(np.packbits(rows[:, 1:] > rows[:, :-1]).tobytes(), "big")


def alike(hashes: np.ndarray) -> list[list[int]]:
    """Return groups of two or more images, whose hashes are near each other step by step.

    Args:
        hashes: [N] uint64.

    Returns:
        Indices of each group, in order. An image is in one group at most; two images of a group
        are linked by images with at most `DISTANCE` differing bits from one to the next.
    """
    unique, place = np.unique(hashes, return_inverse=True)
    parent = list(range(len(unique)))

    def first(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for one, other in _near_pairs(unique):
        parent[first(other)] = first(one)
    groups = defaultdict(list)
    for i, p in enumerate(place.tolist()):
        groups[first(p)].append(i)
    return sorted(group for group in groups.values() if len(group) > 1)


def _near_pairs(hashes: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of different hashes, [N] uint64, with at most `DISTANCE` differing bits."""
    pairs: list[tuple[int, int]] = []
    for first_bit, bits in _BANDS:
        band = (hashes >> np.uint64(first_bit)) & np.uint64(2**bits - 1)
        order = np.argsort(band, kind="stable")
        band, places, step = band[order], np.arange(len(order)), 0
        # Compare with the next one, the one after that, ..., as long as the band stays the same.
        while len(places):
            step += 1
            places = places[places + step < len(order)]
            places = places[band[places] == band[places + step]]
            one, other = order[places], order[places + step]
            near = np.bitwise_count(hashes[one] ^ hashes[other]) <= DISTANCE
            pairs += zip(one[near].tolist(), other[near].tolist(), strict=True)
    return pairs
