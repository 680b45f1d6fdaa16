"""Shortlist: the images whose vectors are nearest to a query, and their exact scores."""

from collections.abc import Iterable, Iterator

import numpy as np

from jaxreid.index.about import About
from jaxreid.index.store import COLUMNS, Rows, Store
from jaxreid.reid.loaded import ReID

# Images scored at once.
_SCORED = 512


def nearest(
    store: Store, about: About, query: np.ndarray, length: int, where: str
) -> Iterator[Rows]:
    """Yield the images nearest to any of the queries, each once.

    Args:
        store: rows of the index.
        about: what the index is about.
        query: [Q, ...] features.
        length: images for each query.
        where: condition on the rows (SQL); "" for all.
    """
    seen: set[str] = set()
    for vector in about.vectors(query):
        rows = store.nearest(vector, length, where=where)
        new = [i for i, name in enumerate(rows.columns["id"]) if name not in seen]
        seen.update(rows.columns["id"])
        columns = {key: [cells[i] for i in new] for key, cells in rows.columns.items()}
        yield Rows(rows.feature[new], columns)


def scored(
    reid: ReID, about: About, query: np.ndarray, batches: Iterable[Rows]
) -> tuple[np.ndarray, dict[str, list]]:
    """Return the exact scores [Q, n] of rows with the queries, and the columns of the rows."""
    scores: list[np.ndarray] = [np.zeros((len(query), 0), np.float32)]
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    for rows in batches:
        for first in range(0, len(rows.feature), _SCORED):
            features = about.decode(rows.feature[first : first + _SCORED])
            scores.append(reid.score(query, features))
        for key, cells in rows.columns.items():
            columns[key].extend(cells)
    return np.concatenate(scores, axis=1), columns
