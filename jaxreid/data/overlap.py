"""Images and people that a test set shares with the training set.

Results on people seen in training say nothing about unseen people.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxreid.data.split import Origin, Split


@dataclasses.dataclass(frozen=True)
class Trace:
    """Digests of a training set, to recognise its images and people in test sets.

    Stored with a run: 8 bytes per image and 8 per person.

    Attributes:
        origins: data set of each source.
        files: [M] uint64, sorted unique digests of the image files.
        people: [P] int64, sorted unique `Split.people`.
    """

    origins: tuple[Origin, ...]
    files: np.ndarray
    people: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Return plain arrays for `numpy.savez`."""
        pairs = [[origin.name, origin.fingerprint] for origin in self.origins]
        origins = np.array(pairs, str).reshape(-1, 2)
        return {"origins": origins, "files": self.files, "people": self.people}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Trace":
        """Restore a trace from its `arrays`."""
        origins = tuple(Origin(*pair) for pair in arrays["origins"].tolist())
        return cls(origins, arrays["files"], arrays["people"])


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Overlap between a test set and the training set.

    Attributes:
        images: test images whose exact file was trained on.
        all_images: test images.
        people: test people who were trained on: same id in a data set with the same files and
            options, or a shared image.
        same_ids: other test people whose id was trained on in another copy of the same data set,
            such as a changed folder; they may be the same people.
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
        """Return a warning for the test set `name`."""
        parts = []
        if self.images or self.people:
            parts.append(
                f"{self.people} of its {self.all_people} people and {self.images} of its "
                f"{self.all_images} images were trained on"
            )
        if self.same_ids:
            parts.append(
                f"{self.same_ids} of its {self.all_people} people have the id of a training "
                "person in another folder or version of this data set"
            )
        return (
            f"{name} is not a test of unseen people: {'; '.join(parts)}. Results on it do not "
            "show how the model performs on other people; name another test set with --test."
        )


def trace(train: Split) -> Trace:
    """Return the trace of a training set."""
    return Trace(train.origins, np.unique(train.digests), np.unique(train.people))


def shared_people(
    train: Split | Trace, tests: Mapping[str, Mapping[str, Split]]
) -> dict[str, Overlap]:
    """Find images and people that test sets share with the training set.

    Files are compared by a digest of their bytes, people by data set and id. `tests` holds the
    splits of each test set by name, as returned by `sets.load_sets`.

    Returns:
        Overlap by test set name; test sets without overlap are omitted.
    """
    known = train if isinstance(train, Trace) else trace(train)
    overlaps = {name: _overlap(known, splits) for name, splits in tests.items()}
    return {name: overlap for name, overlap in overlaps.items() if overlap}


def found_by_itself(query: Split, gallery: Split) -> list[str]:
    """Return the names of queries whose very file is in the gallery under another camera."""
    pairs = [
        set(zip(s.digests.tolist(), s.pid.tolist(), s.camid.tolist(), strict=True))
        for s in (query, gallery)
    ]
    elsewhere = {(digest, pid) for digest, pid, _ in pairs[1] - pairs[0]}
    return [
        name
        for name, digest, pid in zip(query.name, query.digests, query.pid, strict=True)
        if (digest, pid) in elsewhere
    ]


def _overlap(known: Trace, test: Mapping[str, Split]) -> Overlap:
    splits = list(test.values())
    pid = np.concatenate([split.pid for split in splits])
    trained_file = np.isin(np.concatenate([split.digests for split in splits]), known.files)
    trained = trained_file.copy()
    same_id = np.zeros(len(pid), bool)
    origin = next((split.origins[0] for split in splits if split.origins), None)
    for number, other in enumerate(known.origins):
        if origin is None or other.name != origin.name:
            continue
        ids = known.people[known.people >> 32 == number] - (number << 32)
        matches = np.isin(pid, ids)
        if origin.fingerprint and other.fingerprint == origin.fingerprint:
            trained |= matches
        elif not origin.numbered_anew:
            same_id |= matches
    # In Market-1501's protocol, pid 0 (distractors) and -1 (junk) are not people; where a query has
    # pid 0, it is a person.
    person = pid >= (0 if "query" in test and (test["query"].pid == 0).any() else 1)
    people = set(pid[trained & person].tolist())
    return Overlap(
        images=int(trained_file.sum()),
        all_images=len(pid),
        people=len(people),
        same_ids=len(set(pid[same_id & person].tolist()) - people),
        all_people=len(np.unique(pid[person])),
    )
