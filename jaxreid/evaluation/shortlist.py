"""Coarse-to-fine scoring: pooled maps select the likely images, full maps order them.

QAConv's cost grows with the square of the number of positions. On pooled maps, the same matcher
with the same weights is many times cheaper and nearly always has the right image among its best. An
image that it leaves out cannot be recovered, so this is an option, not the default.
"""

import numpy as np

from jaxreid.evaluation.scoring import Bar, Gallery, Scorer
from jaxreid.models.matchers.matcher import Matcher

# Feature values pooled at once.
BLOCK = 2**26
# Settings of evaluation that messages name.
WINDOW, OFF = "eval.shortlist_window", "eval.shortlist=0"


class Shortlist:
    """Scorer of a gallery, exact where a coarser matcher finds an image likely.

    Args:
        scorer: scorer of a model whose matcher can compare pooled maps.
        gallery: [G, h, w, d] features.
        size: gallery images scored exactly for each query; G at most.
        window: rows and columns of a map that become one.

    Raises:
        ValueError: features are not maps, or the window does not divide them.
    """

    def __init__(
        self,
        scorer: Scorer,
        gallery: np.ndarray,
        *,
        size: int,
        window: tuple[int, int],
    ) -> None:
        check_size(size)
        check_window(gallery.shape[1:], window)
        self._scorer, self._window = scorer, window
        self._gallery, self._size = gallery, min(size, len(gallery))
        self._coarse: Gallery = scorer.hold(pool_maps(gallery, window))
        self._coarse_scorer = scorer.coarser(window)

    def scores(self, query: np.ndarray, bar: Bar | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Score some queries with the whole gallery, exactly where it matters.

        Args:
            query: [Q, h, w, d] features.
            bar: counts the pairs.

        Returns:
            [Q, G] float32: exact for the images of the shortlist, which precede all others; the
            others keep their coarse order, shifted down if they would precede. And [Q, size] int64,
            the shortlists.
        """
        scores = self._coarse_scorer.scores(pool_maps(query, self._window), self._coarse, bar)
        chosen = np.argpartition(-scores, self._size - 1, axis=1)[:, : self._size]
        exact = self._scorer.listed(query, self._gallery, chosen)
        np.put_along_axis(scores, chosen, -np.inf, axis=1)
        excess = scores.max(1, keepdims=True) - exact.min(1, keepdims=True)
        # The excess is -inf where all images are listed.
        excess = np.maximum(excess, -1)
        # Shift below the last of the shortlist by more than rounding.
        scores -= np.where(excess >= 0, excess + 1e-3 * (1 + excess), 0)
        np.put_along_axis(scores, chosen, exact, axis=1)
        return scores, chosen


def check_matcher(matcher: Matcher, *, off: str = OFF) -> None:
    """Raise ValueError if a matcher has no coarser form; `off` is the setting that needs none."""
    if not matcher.can_pool:
        raise ValueError(
            "coarser maps are compared with the weights of a 'qaconv' matcher for single "
            f"positions, but this model has another matcher: set {off}."
        )


def check_window(
    shape: tuple[int, ...], window: tuple[int, ...], *, setting: str = WINDOW, off: str = OFF
) -> None:
    """Raise ValueError if one image's features of this shape cannot be pooled.

    `setting` is the name of the window's setting, `off` the setting that needs no window.
    """
    if len(shape) != 3:
        raise ValueError(
            f"{setting} pools feature maps, but this model returns embeddings [{shape[-1]}]; "
            f"only the matcher 'qaconv' can score from coarse to fine: set {off}."
        )
    h, w, _ = shape
    if len(window) != 2 or min(window) < 1 or h % window[0] or w % window[1]:
        raise ValueError(
            f"maps of {h}x{w} cannot be pooled by {setting}={window}; expected a "
            "number of rows and a number of columns that divide them."
        )


def check_size(size: int) -> None:
    """Raise ValueError if this is not the size of a shortlist."""
    if size < 1:
        raise ValueError(f"eval.shortlist is {size}; expected at least 1 image, or 0 for none.")


def pool_maps(features: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Average windows of maps [N, h, w, d], and scale the cells to unit length again.

    Returns:
        [N, h / rows, w / columns, d] of the same dtype; the window's rows and columns divide h and
        w.
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
