"""Groups of images of one identity from as many cameras as possible. NumPy only."""

import numpy as np


def camera_groups(cameras: np.ndarray, groups: int, instances: int) -> np.ndarray:
    """Divide the images of an identity, in random order, into groups from many cameras each.

    The number of different cameras, added up over the groups, is the largest that any choice of
    images and any division has. Where more images of a camera exist than there are groups, those
    are left out first; otherwise all images are alike.

    Args:
        cameras: int [n], camera of each image.
        groups: number of groups.
        instances: K images of a group, groups * K <= n.

    Returns:
        int [groups, K], indices into `cameras`, none twice.

    Source: the balanced identity sampler of FastReID (He et al., 2020, arXiv 2006.02631), which
        draws the images of an identity from different cameras.
    Differs: there, each group is drawn by itself, so that an epoch can hold an image several times
        and another one never.
    """
    _, first, camera = np.unique(cameras, return_index=True, return_inverse=True)
    by_camera = np.argsort(camera, kind="stable")
    counts = np.bincount(camera)
    earlier = np.empty(len(camera), int)  # images of the same camera before each
    earlier[by_camera] = np.arange(len(camera)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.argsort(earlier >= groups, kind="stable")[: groups * instances]
    # Dealt out like cards, sorted by camera: a camera comes twice to a group only if it has been
    # in all of them. Cameras are in the order of their first images, which is random.
    dealt = kept[np.argsort(first[camera[kept]], kind="stable")]
    return dealt.reshape(instances, groups).T
