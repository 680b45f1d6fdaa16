"""Random streams of training: each purpose draws with a number of its own, kept here.

The key of a generator is (run seed, epoch or place, stream), so that two purposes never share
numbers. The values enter every recorded result: new ones are added, none is changed.
"""

import enum

import numpy as np


@enum.unique
class Stream(enum.IntEnum):
    """Purposes of random numbers."""

    RANDOM_ORDER = 1
    PK_ORDER = 2
    AUGMENTATION = 3
    GRAPH_INITIAL_LISTS = 4
    GRAPH_ANCHORS = 5
    GRAPH_LISTS = 6
    GRAPH_BATCHES = 7
    DATA_SET = 8


# Streams of one augmented image, keyed by name. Their places are part of the numbers: new names go
# to the end, 16 at most.
AUGMENTATION_STREAMS = (
    "crop",
    "flip",
    "rotation",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "order",
    "occlusion",
    "translation",
    "patch",
    "donor",
    "erasing",
)
AUGMENTATION_STRIDE = 16  # seeds of neighbouring images are so far apart


def generator(seed: int, epoch: int, stream: Stream) -> np.random.Generator:
    """Returns the generator of one purpose in one epoch."""
    return np.random.Generator(np.random.PCG64([seed, epoch, int(stream)]))


def derived_seed(seed: int, place: int, stream: Stream) -> np.uint64:
    """Returns a seed of 64 bits for one purpose, at a place such as an epoch or a data set."""
    return np.random.SeedSequence([seed, place, int(stream)]).generate_state(1, np.uint64)[0]
