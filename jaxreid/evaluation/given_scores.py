"""Scores that are computed already, in place of a scorer."""

import numpy as np

from jaxreid.evaluation.scoring import Bar, Scorer


class GivenScores:
    """What `retrieval.evaluate` asks of a scorer, for `StoredScores`.

    The feature of an image is its number: of a row for a query, of a column for a gallery image.

    Args:
        scorer: whose matcher says what scores are worth, and whose tiles are used.
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
        found = self._scores[query]
        if len(gallery) < found.shape[1]:
            found = found[:, gallery]
        if bar is not None:
            bar.update(found.size)
        return found
