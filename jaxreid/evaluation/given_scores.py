"""Scores that are computed already, in place of a scorer."""

import numpy as np

from jaxreid.evaluation.scoring import Bar, Scorer


class GivenScores:
    """Scorer interface of `retrieval.evaluate`, for `StoredScores`.

    The feature of an image is its number: of a row for a query, of a column for a gallery image.

    Args:
        scorer: its matcher converts scores to distances and similarities; its tiles are used.
        scores: [Q, G] float; larger is more similar.
    """

    def __init__(self, scorer: Scorer, scores: np.ndarray) -> None:
        self.model, self.variables = scorer.model, scorer.variables
        self.query_tile, self.precision = scorer.query_tile, scorer.precision
        self._scores = scores

    def hold(self, gallery: np.ndarray) -> np.ndarray:
        """Return the columns that are scored more than once."""
        return gallery

    def scores(self, query: np.ndarray, gallery: np.ndarray, bar: Bar | None = None) -> np.ndarray:
        """Return the scores [q, g] of rows and columns, as wide as they were given."""
        rows = self._scores[query]
        if len(gallery) < rows.shape[1]:
            rows = rows[:, gallery]
        if bar is not None:
            bar.update(rows.size)
        return rows
