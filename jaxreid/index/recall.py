"""Recall of shortlists by their length, measured on the images of an index."""

import dataclasses
from typing import Any

import numpy as np

from jaxreid.index.about import About
from jaxreid.index.reading import Rows, Snapshot
from jaxreid.index.shortlist import LONGLIST, scored, shortlisted
from jaxreid.index.store import Store
from jaxreid.reid.loaded import ReID

# Lengths of the shortlist that are measured; the shortest with this recall, or with that of the
# longest, is used. Of 160 images that are looked for, one is 0.6 %, so 0.995 is required to ensure
# 0.99.
LENGTHS = (50, 100, 200, 400, 800, 1600, 3200)
ENOUGH = 0.995
# Queries of a measurement, and images that each is compared with.
QUERIES, DEEP = 16, 4_000
# Images whose pooled maps choose them.
_DEEPER = 4 * LONGLIST


def with_recall(reid: ReID, store: Store, about: About, *, queries: int, deep: int) -> About | None:
    """Measure the recall of shortlists and choose their length; see `Index.measure`.

    Returns:
        Description of the index with the measurements; None if it holds fewer than two images.
    """
    if not (size := len(store)):
        return None
    rows = store.sample(queries)
    features = about.decode(rows.feature)
    recalls = []
    for i, own in enumerate(rows.columns["id"]):

        def lists(snapshot: Snapshot, query: np.ndarray = features[i]) -> tuple[Rows, Any, Any]:
            # Of all vectors and a longer list: what a search's own first stages miss is seen here.
            wide = shortlisted(snapshot, about, query, deep + 1, longlist=_DEEPER, every=True)
            coarse = shortlisted(snapshot, about, query, LENGTHS[-1] + 1)
            return snapshot.take(wide), wide, coarse

        rows_of_all, wide, coarse = store.read(lists)
        (scores,), columns = scored(reid, about, features[i : i + 1], [rows_of_all])
        other = np.array(columns["id"]) != own
        order = np.argsort(-scores, kind="stable")
        best = wide[order][other[order]][:10]
        if best.size:
            coarse = coarse[~np.isin(coarse, wide[~other])]
            places = {row: place for place, row in enumerate(coarse.tolist())}
            ranks = np.array([places.get(row, size) for row in best.tolist()])
            recalls.append([(ranks < length).mean() for length in LENGTHS])
    if not recalls:
        return None
    recall = dict(zip(LENGTHS, np.mean(recalls, 0).round(4).tolist(), strict=True))
    enough = min(ENOUGH, recall[LENGTHS[-1]])
    return dataclasses.replace(
        about,
        shortlist=next(length for length in LENGTHS if recall[length] >= enough),
        recall=recall,
        measured={"queries": len(recalls), "compared": min(deep, size), "images": size},
    )
