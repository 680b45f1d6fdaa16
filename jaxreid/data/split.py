"""One split of a data set in memory, and where it comes from."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Origin:
    """The data set of images.

    Attributes:
        name: data set and domain, without options.
        fingerprint: short digest of its files and options, equal where those are equal; "" if
            unknown.
    """

    name: str
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set in memory, N images sorted by name; or several, joined by `join`.

    Attributes:
        image: N encoded images (JPEG or PNG), the published bytes.
        name: N file names, unique.
        pid: [N] int32, person ids as published; equal ids of two sources are two people.
        camid: [N] int32, cameras, from 0; in each source anew.
        time: [N] float64, seconds; NaN where unknown.
        source: [N] int32, which of the joined sets an image is from; 0 where nothing was joined,
            which None stands for.
        origins: the data set of each source, in the order of their numbers; () if unknown.
    """

    image: list[bytes]
    name: list[str]
    pid: np.ndarray
    camid: np.ndarray
    time: np.ndarray
    source: np.ndarray | None = None
    origins: tuple[Origin, ...] = ()

    def __post_init__(self) -> None:
        if self.source is None:
            object.__setattr__(self, "source", np.zeros(len(self), np.int32))

    def __len__(self) -> int:
        return len(self.name)

    @functools.cached_property
    def summary(self) -> dict[str, int | str]:
        """Numbers of people and images, and a digest of names and people."""
        columns = [self.name, self.pid]
        if self.source.any():  # a split of one source keeps the digest that its checkpoints hold
            columns.append(self.source)
        rows = "".join(" ".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))
        digest = hashlib.sha256(rows.encode()).hexdigest()[:16]
        return {"identities": self.num_classes, "images": len(self), "digest": digest}

    @functools.cached_property
    def digests(self) -> np.ndarray:
        """[N] uint64, of the bytes of each image."""
        digests = b"".join(hashlib.blake2b(image, digest_size=8).digest() for image in self.image)
        return np.frombuffer(digests, "<u8")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that change with any image, name, person, camera or time."""
        digest = hashlib.sha256("\n".join(self.name).encode("utf-8", "surrogateescape"))
        for column, kind in (
            (self.pid, "<i8"),
            (self.camid, "<i8"),
            (self.time, "<f8"),
            (self.digests, "<u8"),
        ):
            digest.update(np.asarray(column).astype(kind).tobytes())
        return digest.hexdigest()[:8]

    def select(self, keep: np.ndarray) -> "Split":
        """The images where `keep` [N] bool is True."""
        return self.take(np.flatnonzero(keep))

    def take(self, chosen: np.ndarray) -> "Split":
        """The images of the places [M] int, in their order."""
        return Split(
            image=[self.image[i] for i in chosen],
            name=[self.name[i] for i in chosen],
            pid=self.pid[chosen],
            camid=self.camid[chosen],
            time=self.time[chosen],
            source=self.source[chosen],
            origins=self.origins,
        )

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Training classes, [N] int32 in 0..num_classes-1: places of the sorted (source, pid)."""
        return np.unique(self.people, return_inverse=True)[1].astype(np.int32)

    @functools.cached_property
    def num_classes(self) -> int:
        """Number of different people."""
        return len(np.unique(self.people))

    @property
    def people(self) -> np.ndarray:
        """Numbers of the people, [N] int64, in the order of (source, pid)."""
        return (self.source.astype(np.int64) << 32) + self.pid


def join(splits: Mapping[str, Split]) -> Split:
    """Several training sets as one; no person of one set is a person of another.

    Args:
        splits: the splits by the names of their data sets.

    Returns:
        The images of all, in the order of the sets: `source` is the place of the set, images are
        called `<data set>/<file name>`, and the rest is as published. A single split is returned as
        it is.

    Raises:
        ValueError: there is no split, or one that has been joined already.
    """
    if not splits:
        raise ValueError("nothing to join: expected at least one split.")
    if len(splits) == 1:
        return next(iter(splits.values()))
    for name, split in splits.items():
        if split.source.any():
            raise ValueError(f"{name} is joined already: join all splits at once.")
    parts = splits.values()
    return Split(
        image=[image for split in parts for image in split.image],
        name=[f"{name}/{file}" for name, split in splits.items() for file in split.name],
        pid=np.concatenate([split.pid for split in parts]),
        camid=np.concatenate([split.camid for split in parts]),
        time=np.concatenate([split.time for split in parts]),
        source=np.repeat(np.arange(len(splits), dtype=np.int32), [len(split) for split in parts]),
        origins=tuple(
            split.origins[0] if split.origins else Origin(name) for name, split in splits.items()
        ),
    )
