"""Query expansion: a query searches again together with the best images that it found.

Source: Chum et al., ICCV 2007 (average query expansion); Radenovic et al., TPAMI 2018, arXiv
    1711.02512 (alpha-QE: weights are similarities to the power of alpha).
Differs: the best images count unverified, as in the second source, and whoever they show.
"""

import numpy as np


def expanded(
    query: np.ndarray, found: np.ndarray, *, alpha: float = 0.0, unit: bool = True
) -> np.ndarray:
    """Average queries with the images that they found.

    Args:
        query: [Q, d] float.
        found: [Q, k, d] float, the best gallery images of each query.
        alpha: an image counts as its cosine with the query, at least 0, to this power; the query
            itself counts 1. 0 weighs all alike.
        unit: average directions, not embeddings with their lengths.

    Returns:
        [Q, d] float32.
    """
    query, found = query.astype(np.float32), found.astype(np.float32)
    directions = scaled(query), scaled(found)
    cosine = np.einsum("qd,qkd->qk", *directions)
    # 0 to the power of 0 is 1.
    weight = np.maximum(cosine, 0) ** alpha
    if unit:
        query, found = directions
    total = query + np.einsum("qk,qkd->qd", weight, found)
    return total / (1 + weight.sum(1, keepdims=True))


def scaled(embeddings: np.ndarray) -> np.ndarray:
    """Scale embeddings [..., d] to unit length; zeros stay."""
    length = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / np.maximum(length, 1e-12)
