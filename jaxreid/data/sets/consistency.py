"""Checks across the sets of a run: people to learn from, and matches to find."""

import itertools
import logging
from collections.abc import Mapping

import numpy as np

from jaxreid.data.sets.files import some
from jaxreid.data.split import Split, join

logger = logging.getLogger(__name__)


def join_training(parts: Mapping[str, Split]) -> Split:
    """Join the training sets of a run, by name.

    Raises:
        ValueError: two sets are the same images, or there are fewer than two people.
    """
    _check_doubles(parts)
    images = join(parts)
    if images.num_classes < 2:
        raise ValueError(
            f"data.train has {len(images)} images of {images.num_classes} person; expected at "
            "least two people to tell apart. Add people, or raise data.identities (0 keeps all)."
        )
    _report_contradictions(images)
    return images


def check_galleries(tests: Mapping[str, Mapping[str, Split]], identities: int) -> None:
    """Raise ValueError if a gallery lost all images to the limit `data.identities`."""
    for name, test_set in tests.items():
        if identities and not len(test_set["gallery"]):
            raise ValueError(
                f"{name}: none of the first {identities} people of the queries (data.identities) "
                "has an image in the gallery; expected people who are in both. Set "
                "--config.data.identities=0 to keep all people, or check the folder."
            )


def _check_doubles(parts: Mapping[str, Split]) -> None:
    """Raise ValueError if two training sets are the same images; log it if they share some."""
    for (one, a), (other, b) in itertools.combinations(parts.items(), 2):
        shared, back = np.isin(a.digests, b.digests), np.isin(b.digests, a.digests)
        if not shared.any():
            continue
        example = a.name[int(np.flatnonzero(shared)[0])]
        count = f"{int(shared.sum())} of {len(a)} images ({example})"
        if shared.all() and back.all():
            raise ValueError(
                f"data.train: {one} and {other} share {count}; expected sets of different images, "
                "because the people of two sets count as different people. Name one of the sets."
            )
        logger.warning(
            "data.train: %s and %s share %s; their people count twice, because the people of two "
            "sets count as different people. Remove the doubles.",
            *(one, other, count),
        )


def _report_contradictions(images: Split) -> None:
    """Log images that are in one training set under several people."""
    assert images.source is not None
    order = np.lexsort((images.people, images.source, images.digests))
    digests, people, source = (x[order] for x in (images.digests, images.people, images.source))
    clash = (
        (digests[1:] == digests[:-1]) & (source[1:] == source[:-1]) & (people[1:] != people[:-1])
    )
    if clash.any():
        names = [images.name[i] for i in order[1:][clash]]
        logger.warning(
            "data.train: images of two people: %d (%s). The same file has several labels; remove "
            "the wrong ones.",
            *(len(names), some(names)),
        )
