"""Images and people that a test set shares with the training set.

A result on people who were trained on says nothing about people who were not.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxreid.data.split import Origin, Split


@dataclasses.dataclass(frozen=True)
class Trace:
    """What remains of a training set, to recognise it in test sets.

    Small enough to be kept with a run: 8 bytes for an image and 8 for a person.

    Attributes:
        origins: the data set of each source.
        files: [M] uint64, digests of the image files, sorted, each once.
        people: [P] int64, as `Split.people`, sorted, each once.
    """

    origins: tuple[Origin, ...]
    files: np.ndarray
    people: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays, for `numpy.savez`."""
        pairs = [[origin.name, origin.fingerprint] for origin in self.origins]
        origins = np.array(pairs, str).reshape(-1, 2)
        return {"origins": origins, "files": self.files, "people": self.people}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Trace":
        """Returns the trace whose `arrays` these are."""
        origins = tuple(Origin(*pair) for pair in arrays["origins"].tolist())
        return cls(origins, arrays["files"], arrays["people"])


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What a test set shares with the training set.

    Attributes:
        images: test images whose very file was trained on.
        all_images: test images.
        people: people who were trained on: of the same files and options, or with a shared image.
        same_ids: people with the id of a trained one in another copy of the same data set, as a
            changed folder is; they may be the same.
        all_people: people of the test set, without distractors.
    """

    images: int
    all_images: int
    people: int
    same_ids: int
    all_people: int

    def __bool__(self) -> bool:
        return bool(self.images or self.people or self.same_ids)

    def sentence(self, name: str) -> str:
        """Returns a warning for the test set of this name."""
        parts = []
        if self.images or self.people:
            parts.append(
                f"{self.people} of its {self.all_people} people and {self.images} of its "
                f"{self.all_images} images were trained on"
            )
        if self.same_ids:
            parts.append(
                f"{self.same_ids} of its {self.all_people} people have the id of a person in the "
                "training images of another folder or form of this data set"
            )
        return (
            f"{name} is not a test of unseen people: {'; '.join(parts)}. Results on it do not "
            "show how the model does on others."
        )


def trace(train: Split) -> Trace:
    """Returns the trace of a training set."""
    return Trace(train.origins, np.unique(train.digests), np.unique(train.people))


def shared_people(
    train: Split | Trace, tests: Mapping[str, Mapping[str, Split]]
) -> dict[str, Overlap]:
    """Finds images and people that test sets share with the training set.

    Files are compared by a digest of their bytes, people by data set and id.

    Args:
        train: training set, or its trace.
        tests: by name of the test set, its splits, as `sets.load_sets` returns them.

    Returns:
        The overlap of each test set that has any.
    """
    known = train if isinstance(train, Trace) else trace(train)
    overlaps = {name: _overlap(known, list(splits.values())) for name, splits in tests.items()}
    return {name: overlap for name, overlap in overlaps.items() if overlap}


def _overlap(known: Trace, splits: list[Split]) -> Overlap:
    pid = np.concatenate([split.pid for split in splits])
    trained_file = np.isin(np.concatenate([split.digests for split in splits]), known.files)
    trained = trained_file.copy()
    same_id = np.zeros(len(pid), bool)
    origin = next((split.origins[0] for split in splits if split.origins), None)
    for number, other in enumerate(known.origins):
        if origin is None or other.name != origin.name:
            continue
        ids = known.people[known.people >> 32 == number] - (number << 32)
        found = np.isin(pid, ids)
        if origin.fingerprint and other.fingerprint == origin.fingerprint:
            trained |= found
        else:
            same_id |= found
    person = pid > 0  # in Market-1501's protocol, 0 and -1 are nobody in particular
    people = set(pid[trained & person].tolist())
    return Overlap(
        images=int(trained_file.sum()),
        all_images=len(pid),
        people=len(people),
        same_ids=len(set(pid[same_id & person].tolist()) - people),
        all_people=len(np.unique(pid[person])),
    )
