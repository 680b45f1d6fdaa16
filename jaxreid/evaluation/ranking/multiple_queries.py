"""Multiple queries: the images of a person from one camera search together.

For each query, these are the images of its person from its camera, among the queries and in the
gallery. In the gallery they are junk for this query, so that none of them is a match.

Source: Zheng et al., ICCV 2015 (multiple queries, by average and max pooling).
Differs: the original takes further boxes of Market-1501, which are in neither split (gt_bbox).
"""

import numpy as np

from jaxreid.evaluation.ranking.expansion import scaled

# mean, max: of the embeddings; scores: mean of the scores.
POOLS = ("mean", "max", "scores")


def together(
    query_pid: np.ndarray,
    query_camid: np.ndarray,
    gallery_pid: np.ndarray,
    gallery_camid: np.ndarray,
) -> list[np.ndarray]:
    """Return for each query the images that search with it: [m] int, queries before the gallery."""
    pairs = np.stack(
        [np.append(query_pid, gallery_pid), np.append(query_camid, gallery_camid)], axis=1
    )
    code = np.unique(pairs, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(code, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(code[order])) + 1)
    return [groups[group] for group in code[: len(query_pid)]]


def pooled(embeddings: np.ndarray, how: str, *, unit: bool = True) -> np.ndarray:
    """Return one embedding [d] float32 for [m, d]: their "mean" or "max".

    With `unit`, it is that of their directions, not of embeddings with their lengths.
    """
    embeddings = embeddings.astype(np.float32)
    embeddings = scaled(embeddings) if unit else embeddings
    return embeddings.mean(0) if how == "mean" else embeddings.max(0)
