"""Images of people who are not known, grouped by person: average linkage with constraints.

Notation: N images.
"""

import math
from typing import Any, Protocol

import numpy as np

from jaxreid.runs.log import progress

# Most images at once: their similarities, twice in memory, take 3.2 GB.
LARGEST = 20_000
# Number of images from which a progress bar is shown.
LONG = 1024


class Probabilities(Protocol):
    """Converter from scores to probabilities."""

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Return the probabilities, of the shape of the scores, that both show one person."""


def apart(camera: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return which pairs cannot be one person: those of one camera at one moment.

    Args:
        camera: int [N]; -1 where unknown.
        time: float [N], seconds; NaN where unknown.

    Returns:
        int [M, 2], the pairs, each once with the smaller index first.
    """
    known = np.flatnonzero((camera >= 0) & np.isfinite(time))
    order = known[np.lexsort((known, time[known], camera[known]))]
    pairs, start = [], 0
    for end in range(1, len(order) + 1):
        first = order[start]
        if end < len(order) and (camera[order[end]], time[order[end]]) == (
            camera[first],
            time[first],
        ):
            continue
        together = order[start:end]
        a, b = np.triu_indices(len(together), 1)
        pairs.append(np.stack([together[a], together[b]], axis=1))
        start = end
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)


def link(
    similarity: np.ndarray,
    *,
    threshold: float = -math.inf,
    count: int | None = None,
    apart: np.ndarray | None = None,
) -> np.ndarray:
    """Group images by average linkage: join the two most similar groups, again and again.

    The similarity of two groups is the mean over their pairs of images. Groups that hold a pair of
    `apart` are never joined.

    Args:
        similarity: [N, N] float32, symmetric; larger is more alike. Overwritten.
        threshold: groups are joined while they are at least this similar.
        count: stop at this many groups; None for no such end.
        apart: int [M, 2], pairs that are two people.

    Returns:
        [N] int64, the group of each image, from 0, larger groups first.

    Differs: scikit-learn and SciPy offer no pairs that must stay apart. Without such pairs the
        groups are SciPy's (`linkage(method="average")`).
    """
    total = len(similarity)
    similarity[np.diag_indices(total)] = -np.inf
    if apart is not None and len(apart):
        similarity[apart[:, 0], apart[:, 1]] = -np.inf
        similarity[apart[:, 1], apart[:, 0]] = -np.inf
    size, group = np.ones(total, np.int64), np.arange(total)
    # Of each row, the most similar group and how similar it is.
    nearest = similarity.argmax(1)
    best = similarity[np.arange(total), nearest]
    groups = total
    while groups > max(1, count or 1):
        i = int(best.argmax())
        if not (best[i] >= threshold and best[i] > -np.inf):
            break
        j = int(nearest[i])
        mean = size[i] * similarity[i] + size[j] * similarity[j]
        mean /= size[i] + size[j]
        mean[[i, j]] = -np.inf
        similarity[i] = similarity[:, i] = mean
        similarity[j] = similarity[:, j] = best[j] = -np.inf
        size[i] += size[j]
        group[group == j] = i
        groups -= 1
        # A mean is never above the larger of the two, so other rows keep what they have.
        for row in {i, *np.flatnonzero((nearest == i) | (nearest == j)).tolist()} - {j}:
            nearest[row] = similarity[row].argmax()
            best[row] = similarity[row, nearest[row]]
    return by_size(group)


def by_size(group: np.ndarray) -> np.ndarray:
    """Return groups numbered from 0, larger ones first, equal ones in the order of images."""
    _, first, number, size = np.unique(
        group, return_index=True, return_inverse=True, return_counts=True
    )
    place = np.empty(len(first), np.int64)
    place[np.lexsort((first, -size))] = np.arange(len(first))
    return place[number]


def all_scores(reid: Any, features: np.ndarray, *, rows: int = 256) -> np.ndarray:
    """Score all pairs of images, each once, and make the scores symmetric.

    Args:
        reid: a model with `score` (`ReID`).
        features: [N, ...], as `embed` returns them.
        rows: images scored at once against those after them.

    Returns:
        [N, N] float32.

    Raises:
        ValueError: more than `LARGEST` images.
    """
    total = len(features)
    check_count(total)
    scores = np.empty((total, total), np.float32)
    with progress("scores", total=total * total, unit="pair", least=LONG * LONG) as bar:
        for start in range(0, total, rows):
            part = slice(start, min(start + rows, total))
            scores[part, start:] = reid.score(features[part], features[start:])
            scores[start:, part] = scores[part, start:].T
            bar.update((part.stop - start) * (2 * total - start - part.stop))
    return scores


def check_count(total: int) -> None:
    """Raise ValueError for more images than fit."""
    if total > LARGEST:
        raise ValueError(
            f"{total:,} images; expected at most {LARGEST:,} at once, whose similarities take "
            f"{2 * LARGEST**2 * 4 / 1e9:.1f} GB. Group them in parts, such as one day or a few "
            "cameras each, or take every n-th frame (jaxreid crop --every=5)."
        )


def agreement(group: np.ndarray, person: np.ndarray) -> dict[str, float]:
    """Compare groups with the people they should be.

    Args:
        group: int [N].
        person: int [N], true people.

    Returns:
        "ari": adjusted Rand index; "nmi": normalised mutual information, with the arithmetic mean
        of the entropies; "precision", "recall" and "f1" of the pairs of images that are in one
        group; numbers of "people" and "groups". Fractions but for the last two.

    Source: Hubert and Arabie, J. Classification 1985, for the index; the defaults of scikit-learn.
    """
    _, g = np.unique(group, return_inverse=True)
    _, p = np.unique(person, return_inverse=True)
    table = np.zeros((g.max() + 1, p.max() + 1))
    np.add.at(table, (g, p), 1)
    pairs = lambda counts: float((counts * (counts - 1) / 2).sum())  # noqa: E731
    together, grouped, true = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = grouped * true / max(1.0, pairs(np.array([len(g)])))
    most = (grouped + true) / 2
    precision = together / grouped if grouped else 1.0
    recall = together / true if true else 1.0
    joint = table / len(g)
    a, b = joint.sum(1), joint.sum(0)
    information = _entropy(a) + _entropy(b) - _entropy(joint)
    mean = (_entropy(a) + _entropy(b)) / 2
    return {
        "ari": (together - expected) / (most - expected) if most != expected else 1.0,
        "nmi": information / mean if mean else 1.0,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "people": len(b),
        "groups": len(a),
    }


def _entropy(share: np.ndarray) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())
