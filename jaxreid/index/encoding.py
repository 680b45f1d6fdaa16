"""Features on disk, and the coarser forms that a search compares first: vector, pooled map."""

import numpy as np

DTYPES = ("float16", "int8")
# Strips of a map that the coarse search distinguishes: head, chest, hips, legs.
STRIPS = 4
# Rows and columns of a pooled map, at most.
POOLED = 8, 4
# The scale of a map of int8, before its values.
_SCALE = np.dtype("<f4")


def encode(features: np.ndarray, dtype: str) -> np.ndarray:
    """Return features [n, ...] as bytes [n, size] uint8.

    int8 has a scale for each image, its largest value over 127.

    Raises:
        ValueError: a value is too large for float16.
    """
    flat = np.float32(features).reshape(len(features), -1)
    if dtype == "float16":
        return _half(flat).view(np.uint8)
    scale = np.maximum(np.abs(flat).max(1, keepdims=True), 1e-30) / 127
    values = np.rint(flat / scale).astype(np.int8).view(np.uint8)
    return np.concatenate([scale.astype(_SCALE).view(np.uint8), values], 1)


def decode(content: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return the features [n, ...] float32 of `encode`.

    Raises:
        ValueError: a value is not finite.
    """
    content = np.ascontiguousarray(content)
    if dtype == "float16":
        features: np.ndarray = content.view("<f2").astype(np.float32)
    else:
        head = _SCALE.itemsize
        scale = np.ascontiguousarray(content[:, :head]).view(_SCALE)
        features = content[:, head:].view(np.int8) * scale.astype(np.float32)
    if not np.isfinite(features).all():
        raise ValueError("features in the index are not finite numbers: it is damaged.")
    return features.reshape(-1, *shape)


def vectors(features: np.ndarray, *, unit: bool) -> np.ndarray:
    """Return the vectors [n, dim] float16 that the coarse search compares by their distances.

    Of a map [h, w, d], the largest and the smallest value of each channel in each of `STRIPS`
    strips, as a vector of unit length. Embeddings stand for themselves.

    Args:
        features: [n, h, w, d] or [n, d].
        unit: scale embeddings to unit length, for a matcher that compares angles.

    Raises:
        ValueError: a value is too large for float16.
    """
    features = np.asarray(features, np.float32)
    _check(features)
    if features.ndim == 4:
        n, h, _, _ = features.shape
        edges = np.linspace(0, h, min(STRIPS, h) + 1).round().astype(int)
        parts = [features[:, a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
        pooled = [getattr(part, name)((1, 2)) for name in ("max", "min") for part in parts]
        features, unit = np.concatenate(pooled, 1), True
    return _half(_unit(features) if unit else features)


def pooled_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the pooled map of a map [h, w, d]."""
    h, w, d = shape
    return min(POOLED[0], h), min(POOLED[1], w), d


def pooled(features: np.ndarray) -> np.ndarray:
    """Return the means of maps [n, h, w, d] in a coarser grid, as vectors of unit length.

    Returns:
        [n, *pooled_shape] float32.
    """
    for axis, count in enumerate(pooled_shape(features.shape[1:])[:2], start=1):
        size = features.shape[axis]
        first = np.linspace(0, size, count + 1).round().astype(int)[:-1]
        features = np.add.reduceat(features, first, axis=axis)
    # Lengths do not matter, so sums stand for means.
    return _unit(features).astype(np.float32)


def pooled_scores(query: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return how alike pooled maps are: the cosines of best matches, in both directions.

    Args:
        query: [h, w, d] float32.
        images: [n, h, w, d] float32.

    Returns:
        [n] float32, means over the cells of both.
    """
    flat = query.reshape(-1, query.shape[-1])
    match = (flat @ images.reshape(-1, query.shape[-1]).T).reshape(len(flat), -1, len(flat))
    scores: np.ndarray = match.max(0).mean(1) + match.max(2).mean(0)
    return scores


def _unit(vectors: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12))


def _half(values: np.ndarray) -> np.ndarray:
    _check(values)
    return values.astype("<f2")


def _check(values: np.ndarray) -> None:
    largest = np.abs(values).max(initial=0)
    if not largest <= np.finfo(np.float16).max:
        raise ValueError(f"features reach {largest:.3g}; expected at most 65504, for float16.")
