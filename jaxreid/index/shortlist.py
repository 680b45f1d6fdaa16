"""Shortlist of a query: nearest vectors, of these the most similar pooled maps; exact scores."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from jaxreid.index.about import About
from jaxreid.index.reading import COLUMNS, Rows, Snapshot
from jaxreid.index.store import Store
from jaxreid.reid.loaded import ReID

# Images whose pooled maps are compared with the query's.
LONGLIST = 12_800
# Images scored at once, and the values of their features: 16 MB.
_SCORED, _VALUES = 512, 2**22


def shortlisted(
    snapshot: Snapshot,
    about: About,
    query: np.ndarray,
    length: int,
    *,
    where: str = "",
    longlist: int = LONGLIST,
    every: bool = False,
) -> np.ndarray:
    """Return the images that are most similar to one query before they are scored exactly.

    Args:
        snapshot: rows of the index.
        about: description of the index.
        query: [...] features of one image.
        length: number of images.
        where: condition on the rows (SQL); "" for all.
        longlist: images whose pooled maps are compared.
        every: compare all vectors, not only those of the nearest cells.

    Returns:
        Places [length] of the rows, the most similar first.
    """
    (vector,) = about.vectors(query[None])
    count = max(longlist, length) if about.is_map else length
    places, maps = snapshot.nearest(vector, count, where=where, every=every)
    if not about.is_map:
        return places
    return places[np.argsort(-about.pooled_scores(query, maps), kind="stable")[:length]]


def shortlists(
    store: Store, about: About, query: np.ndarray, length: int, where: str
) -> Iterator[Rows]:
    """Yield the images on the shortlist of any of the queries [Q, ...], each once."""
    seen: set[str] = set()
    for one in query:

        def best(snapshot: Snapshot, one: np.ndarray = one) -> Rows:
            return snapshot.take(shortlisted(snapshot, about, one, length, where=where))

        rows = store.read(best)
        new = [i for i, name in enumerate(rows.columns["id"]) if name not in seen]
        seen.update(rows.columns["id"])
        columns = {key: [cells[i] for i in new] for key, cells in rows.columns.items()}
        yield Rows(rows.feature[new], columns)


def scored(
    reid: ReID, about: About, query: np.ndarray, batches: Iterable[Rows]
) -> tuple[np.ndarray, dict[str, list]]:
    """Return the exact scores [Q, n] of rows with the queries, and the columns of the rows."""
    size = min(_SCORED, max(1, _VALUES // math.prod(about.shape)))
    scores: list[np.ndarray] = [np.zeros((len(query), 0), np.float32)]
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    for rows in batches:
        for first in range(0, len(rows.feature), size):
            features = about.decode(rows.feature[first : first + size])
            scores.append(reid.score(query, features))
        for key, cells in rows.columns.items():
            columns[key].extend(cells)
    return np.concatenate(scores, axis=1), columns
