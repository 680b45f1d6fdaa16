"""From coarse to fine: pooled maps find the likely images, whole maps order them.

QAConv's cost grows with the square of the positions. On maps whose cells are averages of several,
the same matcher with the same weights is many times cheaper and nearly always has the right image
among its best. What it leaves out cannot be found again, so this is a choice, not the default.
"""

import numpy as np

from jaxreid.evaluation.scoring import Bar, Gallery, Scorer
from jaxreid.models.matchers.matcher import Matcher

BLOCK = 2**26  # numbers of features that are pooled at once


class Shortlist:
    """Scores a gallery exactly where a coarser matcher finds it likely.

    Args:
        scorer: of a model whose matcher can compare pooled maps.
        gallery: [G, h, w, d] features.
        size: images of the gallery that are scored exactly for each query; at most all are.
        window: rows and columns of a map that become one.

    Raises:
        ValueError: features that are no maps, or maps which the window does not divide.
    """

    def __init__(
        self,
        scorer: Scorer,
        gallery: np.ndarray,
        *,
        size: int,
        window: tuple[int, int],
    ) -> None:
        check_window(gallery.shape[1:], size=size, window=window)
        self._scorer, self._window = scorer, window
        self._gallery, self._size = gallery, min(size, len(gallery))
        self._coarse: Gallery = scorer.hold(pool_maps(gallery, window))
        self._coarse_scorer = scorer.coarser(window)

    def scores(self, query: np.ndarray, bar: Bar | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores of some queries with the whole gallery, exact where it matters.

        Args:
            query: [Q, h, w, d] features.
            bar: counts the pairs done.

        Returns:
            [Q, G] float32: exact for the images of the shortlist, which stand before all others;
            those keep their coarse order, moved down where they would come before. And [Q, size]
            int64, the shortlists.
        """
        scores = self._coarse_scorer.scores(pool_maps(query, self._window), self._coarse, bar)
        chosen = np.argpartition(-scores, self._size - 1, axis=1)[:, : self._size]
        exact = self._scorer.listed(query, self._gallery, chosen)
        np.put_along_axis(scores, chosen, -np.inf, axis=1)
        excess = scores.max(1, keepdims=True) - exact.min(1, keepdims=True)
        # Below the last of the shortlist by more than rounding.
        excess = np.maximum(excess, -1)  # also where all are listed and -inf is the best other one
        scores -= np.where(excess >= 0, excess + 1e-3 * (1 + excess), 0)
        np.put_along_axis(scores, chosen, exact, axis=1)
        return scores, chosen


def check_matcher(matcher: Matcher) -> None:
    """Raises ValueError where a matcher has no coarser form."""
    if not matcher.can_pool:
        raise ValueError(
            "a shortlist compares coarser maps with the weights of the matcher 'qaconv' for single "
            "positions, and this model has another matcher: set eval.shortlist=0."
        )


def check_window(shape: tuple[int, ...], *, size: int, window: tuple[int, ...]) -> None:
    """Raises ValueError where features of a shape, of one image, cannot be pooled and listed."""
    if len(shape) != 3:
        raise ValueError(
            f"a shortlist needs feature maps, and this model gives embeddings [{shape[-1]}]: only "
            "the matcher 'qaconv' has coarse and fine; set eval.shortlist=0."
        )
    if size < 1:
        raise ValueError(f"eval.shortlist is {size}; needed is at least 1 image, or 0 for none.")
    h, w, _ = shape
    if len(window) != 2 or min(window) < 1 or h % window[0] or w % window[1]:
        raise ValueError(
            f"maps of {h}x{w} cannot be pooled by eval.shortlist_window={window}; needed are a "
            "number of rows and one of columns that divide them."
        )


def pool_maps(features: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Maps whose cells are means of several, of unit length again.

    Args:
        features: [N, h, w, d] float.
        window: rows and columns that become one; they divide h and w.

    Returns:
        [N, h / rows, w / columns, d], of the same type.
    """
    rows, columns = window
    n, h, w, d = features.shape
    pooled = np.empty((n, h // rows, w // columns, d), features.dtype)
    step = max(1, BLOCK // (h * w * d))
    for first in range(0, n, step):
        part = features[first : first + step].astype(np.float32)
        part = part.reshape(len(part), h // rows, rows, w // columns, columns, d).mean((2, 4))
        length = np.linalg.norm(part, axis=-1, keepdims=True)
        pooled[first : first + step] = part / np.maximum(length, 1e-12)
    return pooled
