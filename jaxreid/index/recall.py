"""Recall of shortlists by their length, measured on the images of an index."""

import dataclasses

import numpy as np

from jaxreid.index.about import About
from jaxreid.index.shortlist import LONGLIST, scored, shortlisted
from jaxreid.index.store import Store
from jaxreid.reid.loaded import ReID

# Lengths of the shortlist that are measured; the shortest with this recall, or with that of the
# longest, is used. Of 160 images that are looked for, one found by chance is 0.6 %: 0.995 is asked
# for to have 0.99.
LENGTHS = (50, 100, 200, 400, 800, 1600, 3200)
ENOUGH = 0.995
# Queries of a measurement, and images that each is compared with.
QUERIES, DEEP = 16, 4_000
# Images whose pooled maps choose them.
_DEEPER = 4 * LONGLIST


def with_recall(reid: ReID, store: Store, about: About, *, queries: int, deep: int) -> About | None:
    """Measure the recall of shortlists and choose their length, as `Index.measure` says.

    Returns:
        What the index is about, with what was measured; None if it holds fewer than two images.
    """
    if not (size := len(store)):
        return None
    rows = store.sample(queries)
    features = about.decode(rows.feature)
    recalls = []
    for i, own in enumerate(rows.columns["id"]):
        # Of all vectors and a longer list: what a search's own first stages miss is seen here.
        every = shortlisted(store, about, features[i], deep + 1, longlist=_DEEPER, every=True)
        (scores,), columns = scored(reid, about, features[i : i + 1], [every])
        ids = np.array(columns["id"])
        best = [name for name in ids[np.argsort(-scores, kind="stable")] if name != own][:10]
        if best:
            coarse = shortlisted(store, about, features[i], LENGTHS[-1] + 1).columns["id"]
            places = {name: place for place, name in enumerate(n for n in coarse if n != own)}
            found = np.array([places.get(name, size) for name in best])
            recalls.append([(found < length).mean() for length in LENGTHS])
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
