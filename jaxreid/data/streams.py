"""Random streams of training, one number per purpose.

The key of a generator is (run seed, epoch or position, stream), so two purposes never share random
numbers. Every recorded result depends on these values: add new ones, never change one.
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


# Streams of one augmented image. The position of a name is part of its seed: append new names, 16
# at most.
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
# Distance between the seeds of neighbouring images.
AUGMENTATION_STRIDE = 16


def generator(seed: int, epoch: int, stream: Stream) -> np.random.Generator:
    """Return the generator of one purpose in one epoch."""
    return np.random.Generator(np.random.PCG64([seed, epoch, int(stream)]))


def derived_seed(seed: int, place: int, stream: Stream) -> np.uint64:
    """Return a 64-bit seed for one purpose; `place` is the index of an epoch or a data set."""
    return np.random.SeedSequence([seed, place, int(stream)]).generate_state(1, np.uint64)[0]
