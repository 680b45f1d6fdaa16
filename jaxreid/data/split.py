"""One split of a data set in memory, and its origin."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxreid.data.images.on_disk import ImageFiles, chained


@dataclasses.dataclass(frozen=True)
class Origin:
    """Data set that images come from.

    Attributes:
        name: data set and domain, without options.
        fingerprint: short digest of files and options; "" if unknown.
        place: folder or file that they were read from; "" for none. Not compared.
        numbered_anew: with other options, equal ids are other people. Not compared.
    """

    name: str
    fingerprint: str = ""
    place: str = dataclasses.field(default="", compare=False)
    numbered_anew: bool = dataclasses.field(default=False, compare=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set in memory: N images sorted by name, or several splits after `join`.

    Attributes:
        image: N encoded images (a format of `images.formats`), the published bytes: a list, or
            `ImageFiles`, which are read on demand.
        name: N unique file names.
        pid: [N] int32, published person ids; equal ids in two sources are two people.
        camid: [N] int32, cameras from 0, numbered per source.
        time: [N] float64, seconds; NaN where unknown.
        source: [N] int32, index of the joined set that an image is from; None is all 0 (not
            joined).
        origins: data set of each source, by index; () if unknown.
    """

    image: Sequence[bytes]
    name: list[str]
    pid: np.ndarray
    camid: np.ndarray
    time: np.ndarray
    source: np.ndarray | None = None
    origins: tuple[Origin, ...] = ()

    def __post_init__(self) -> None:
        for name, column in (("pid", self.pid), ("camid", self.camid)):
            if len(column) and not -(2**31) <= int(column.min()) <= int(column.max()) < 2**31:
                raise ValueError(
                    f"{name} holds {column.min()} to {column.max()}; expected 32-bit integers, at "
                    f"most {2**31 - 1}. Number people and cameras in this range."
                )
        if self.source is None:
            object.__setattr__(self, "source", np.zeros(len(self), np.int32))

    def __len__(self) -> int:
        return len(self.name)

    @functools.cached_property
    def summary(self) -> dict[str, int | str]:
        """Number of people and images, and a digest of names and people."""
        columns = [self.name, self.pid]
        # Only for joined splits: a split of one source keeps the digest stored in its checkpoints.
        if self.source.any():
            columns.append(self.source)
        rows = "".join(" ".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))
        digest = hashlib.sha256(rows.encode()).hexdigest()[:16]
        return {"identities": self.num_classes, "images": len(self), "digest": digest}

    @functools.cached_property
    def digests(self) -> np.ndarray:
        """Digests of the bytes of each image, [N] uint64."""
        if isinstance(self.image, ImageFiles):
            return self.image.digests
        digests = b"".join(hashlib.blake2b(image, digest_size=8).digest() for image in self.image)
        return np.frombuffer(digests, "<u8")

    @property
    def content(self) -> str:
        """Digest of the bytes of all images, 16 hexadecimal digits."""
        return hashlib.sha256(self.digests.tobytes()).hexdigest()[:16]

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
        """Return the images where `keep` (bool [N]) is True."""
        return self.take(np.flatnonzero(keep))

    def take(self, chosen: np.ndarray) -> "Split":
        """Return the images at the indices `chosen` (int [M]), in their order."""
        return Split(
            image=_chosen(self.image, chosen),
            name=[self.name[i] for i in chosen],
            pid=self.pid[chosen],
            camid=self.camid[chosen],
            time=self.time[chosen],
            source=self.source[chosen],
            origins=self.origins,
        )

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Training classes, [N] int32 in 0..num_classes-1, in the order of (source, pid)."""
        return np.unique(self.people, return_inverse=True)[1].astype(np.int32)

    @functools.cached_property
    def num_classes(self) -> int:
        """Number of people."""
        return len(np.unique(self.people))

    @property
    def people(self) -> np.ndarray:
        """Person numbers across sources, [N] int64, sorted like (source, pid)."""
        return (self.source.astype(np.int64) << 32) + self.pid


def join(splits: Mapping[str, Split]) -> Split:
    """Join training sets, given by name, into one; people of different sets are different people.

    Returns:
        All images in the order of the sets. `source` is the index of the set, image names become
        `<data set>/<file name>`, and the other columns are unchanged. A single split is returned
        as it is.

    Raises:
        ValueError: `splits` is empty, or one is already joined.
    """
    if not splits:
        raise ValueError("nothing to join: expected at least one split.")
    if len(splits) == 1:
        return next(iter(splits.values()))
    for name, split in splits.items():
        if split.source.any():
            raise ValueError(f"{name} is already joined: join all splits at once.")
    parts = splits.values()
    return Split(
        image=chained([split.image for split in parts]),
        name=[f"{name}/{file}" for name, split in splits.items() for file in split.name],
        pid=np.concatenate([split.pid for split in parts]),
        camid=np.concatenate([split.camid for split in parts]),
        time=np.concatenate([split.time for split in parts]),
        source=np.repeat(np.arange(len(splits), dtype=np.int32), [len(split) for split in parts]),
        origins=tuple(
            split.origins[0] if split.origins else Origin(name) for name, split in splits.items()
        ),
    )


def _chosen(images: Sequence[bytes], chosen: np.ndarray) -> Sequence[bytes]:
    return images.take(chosen) if isinstance(images, ImageFiles) else [images[i] for i in chosen]
