"""Inspection of a folder or table before a run: layout, sizes, and what is wrong."""

import dataclasses
import os
import pathlib
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from jaxreid.data.images.pillow import check_file
from jaxreid.data.sets import SETS
from jaxreid.data.sets.files import some
from jaxreid.data.sets.folder import images_below
from jaxreid.data.sets.near_duplicates import alike, difference_hash
from jaxreid.data.sets.resolving import named_set
from jaxreid.data.sets.source import Record, Source
from jaxreid.names import check_name, keywords_of, required_by
from jaxreid.places import expanded

# Layouts of a user's own images; any folder may be the first two, so they are tried last.
_OWN = ("folder", "table")
# Layouts in which a number is the same person in all splits. Others may start anew in the test.
_SAME_NUMBERS = (*_OWN, "market1501", "dukemtmcreid")
_LEAST_SIDE = 16
_LARGEST_ASPECT = 6
_THREADS = 16
# As `files.read_names` says that all names are unlike a layout, so it is not this one.
_ALL_NAMES = re.compile(r"\b([0-9]+) of \1 names")


@dataclasses.dataclass(frozen=True)
class Part:
    """Sizes of one split.

    Attributes:
        people: number of known people.
        images: number of images.
        cameras: number of known cameras.
        per_person: least, median and most images of a person; zeros without people.
        timed: images with a known time.
    """

    people: int
    images: int
    cameras: int
    per_person: tuple[int, float, int]
    timed: int

    def line(self, name: str) -> str:
        """Return a sentence about the split of a name."""
        least, median, most = self.per_person
        each = f"{least}" if least == most else f"{least} to {most}, median {median:g}"
        per_person = f" ({each} images each)" if self.people else ""
        return (
            f"{name}: {self.images:,} images of {self.people:,} people{per_person}; cameras: "
            f"{self.cameras or 'unknown'}; times: {f'{self.timed:,}' if self.timed else 'unknown'}."
        )


@dataclasses.dataclass(frozen=True)
class Finding:
    """Images or people with something in common that deserves a look.

    Attributes:
        title: their common property.
        names: all of them.
        problem: whether results are wrong or a run fails because of them.
    """

    title: str
    names: tuple[str, ...]
    problem: bool = False

    def line(self) -> str:
        """Return a sentence with their number and three examples."""
        return f"{self.title}: {len(self.names):,} ({some(self.names)})."


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of `inspect`.

    Attributes:
        path: inspected folder or table.
        layout: name of the data set that reads it; "" if none does.
        fixes: without a layout, errors of the nearest ones.
        splits: sizes by split.
        notices: warnings of the data set.
        findings: images and people that deserve a look, problems first.
    """

    path: str
    layout: str
    fixes: tuple[str, ...]
    splits: Mapping[str, Part]
    notices: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> int:
        """Number of kinds of problems; 0 is a data set to use as it is."""
        return (not self.layout) + sum(finding.problem for finding in self.findings)

    def lines(self) -> list[str]:
        """Return sentences to print."""
        if self.layout:
            first = [f"{self.path}: read as {self.layout}."]
        else:
            first = [f"{self.path}: not in a layout that can be read.", *self.fixes]
        return [
            *first,
            *(part.line(name) for name, part in self.splits.items()),
            *(f"Note: {notice}" for notice in self.notices),
            *(("Problem: " if f.problem else "Note: ") + f.line() for f in self.findings),
            f"Problems: {self.problems}.",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the report with all names, for JSON."""
        return dataclasses.asdict(self) | {"problems": self.problems}


def inspect(path: str | os.PathLike) -> Report:
    """Inspect a folder or table of images; every image is read once, and nothing is written.

    Args:
        path: a folder or file; or a data set with its place and options, as for `sets.load`, to try
            this one alone (`folder:/data/mine?pattern={pid}_*`).

    Returns:
        The report. Where no data set reads the path, the images below it are inspected without
        people.

    Raises:
        FileNotFoundError: the place does not exist.
        ValueError: an option of a named data set is unknown.
    """
    named = named_set(os.fspath(path))
    if named.place and named.base in SETS.names:
        place, names, options = expanded(named.place), [named.base], dict(named.options)
        for option in options:
            check_name(option, keywords_of(SETS.find(named.base)[0]), f"option of {named.base}")
    else:
        place, options = expanded(path), {}
        names = SETS.names_where(_reads_files)
    place = place.absolute()
    if not place.exists():
        raise FileNotFoundError(
            f"nothing at {place} (from {os.getcwd()}); expected a folder or table."
        )
    layout, source, fixes = _layout(place, names, options)
    if source:
        splits = {split: list(records) for split, records in source.splits.items()}
    else:
        images = images_below(place)[0] if place.is_dir() else []
        splits = {"all": [_unknown(image, place) for image in images]} if images else {}
    entries = [_Entry(split, record) for split, records in splits.items() for record in records]
    findings = [*_of_images(entries), *_of_people(splits, layout)]
    return Report(
        path=str(place),
        layout=layout,
        fixes=fixes,
        splits={split: _part(records) for split, records in splits.items()},
        notices=source.notices if source else (),
        findings=tuple(sorted((f for f in findings if f.names), key=lambda f: not f.problem)),
    )


class _Entry(NamedTuple):
    split: str
    record: Record

    def __str__(self) -> str:
        return f"{self.split}/{self.record.name}"


class _Look(NamedTuple):
    """Properties of one image; `broken` is the reason, or ""."""

    digest: bytes = b""
    height: int = 0
    width: int = 0
    bits: int = 0
    broken: str = ""


def _layout(
    place: pathlib.Path, names: Iterable[str], options: Mapping[str, Any]
) -> tuple[str, Source | None, tuple[str, ...]]:
    """Return the data set that reads a place, and its source; else errors of the nearest ones."""
    results = {name: _attempt(name, place, options) for name in names}
    sources = {name: result for name, result in results.items() if isinstance(result, Source)}
    if sources:
        # Notices list the differences from the published data set.
        best = min(sources, key=lambda name: (name in _OWN, len(sources[name].notices)))
        return best, sources[best], ()
    errors = {name: result for name, result in results.items() if isinstance(result, Exception)}
    own = "folder" if place.is_dir() else "table"
    chosen = errors if len(errors) == 1 else [_nearest(place, errors), own]
    return "", None, tuple(f"To read it as {n}: {errors[n]}" for n in chosen if n in errors)


def _attempt(name: str, place: pathlib.Path, options: Mapping[str, Any]) -> Any:
    """Return the result of a data set's function, or its error."""
    function, implied = SETS.find(name)
    try:
        return function(folder=place, **{**implied, **options})
    except (ValueError, OSError, ImportError) as error:
        return error


def _nearest(place: pathlib.Path, errors: Mapping[str, Exception]) -> str | None:
    """Return the published data set whose layout is nearest to a folder; None if none is near."""

    def lack(folder: pathlib.Path, error: Exception) -> str:
        return str(error).partition("it holds")[0].replace(str(folder), "")

    with tempfile.TemporaryDirectory() as folder:
        empty = pathlib.Path(folder)
        # An error that an empty folder has, too, says nothing about this one.
        near = [
            name
            for name, error in errors.items()
            if name not in _OWN
            and not _ALL_NAMES.search(str(error))
            and lack(place, error) != lack(empty, _attempt(name, empty, {}))
        ]
    # Where a name is wrong, all folders are there; otherwise, the shortest list lacks least.
    return min(
        near if place.is_dir() else [],
        key=lambda name: (isinstance(errors[name], FileNotFoundError), len(str(errors[name]))),
        default=None,
    )


def _reads_files(function: Any) -> bool:
    return "folder" in keywords_of(function) and set(required_by(function)) <= {"folder"}


def _unknown(image: pathlib.Path, root: pathlib.Path) -> Record:
    return Record(image=image, name=image.relative_to(root).as_posix(), pid=-1, camid=-1)


def _part(records: Sequence[Record]) -> Part:
    counts = np.unique([r.pid for r in records if r.pid >= 0], return_counts=True)[1]
    return Part(
        people=len(counts),
        images=len(records),
        cameras=len({r.camid for r in records} - {-1}),
        per_person=(int(counts.min()), float(np.median(counts)), int(counts.max()))
        if len(counts)
        else (0, 0.0, 0),
        timed=sum(r.time == r.time for r in records),  # not NaN
    )


def _look(entry: _Entry) -> _Look:
    image = entry.record.image
    try:
        data = image if isinstance(image, bytes) else pathlib.Path(image).read_bytes()
        pixels = check_file(data)[0]
    except OSError as error:
        return _Look(broken=f"cannot be read: {error.strerror}")
    except ValueError as error:
        return _Look(broken=str(error))
    digest = blake2b(data, digest_size=16).digest()
    height, width = pixels.shape[:2]
    return _Look(digest, height, width, difference_hash(pixels))


def _of_images(entries: Sequence[_Entry]) -> list[Finding]:
    """Decode all images; return broken, duplicate and oddly shaped ones."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        bar = {"desc": "inspecting", "unit": "img", "disable": None, "leave": False}
        looks = list(tqdm(pool.map(_look, entries), total=len(entries), **bar))
    pairs = list(zip(entries, looks, strict=True))

    def where(condition: Callable[[_Look], bool]) -> tuple[str, ...]:
        return tuple(str(e) for e, look in pairs if not look.broken and condition(look))

    return [
        Finding(
            "broken images; restore or remove them",
            tuple(f"{e}: {look.broken}" for e, look in pairs if look.broken),
            problem=True,
        ),
        *_of_copies([(e, look) for e, look in pairs if not look.broken]),
        Finding(
            f"images with fewer than {_LEAST_SIDE} pixels in a row or column",
            where(lambda look: min(look.height, look.width) < _LEAST_SIDE),
        ),
        Finding("images wider than high", where(lambda look: look.width > look.height)),
        Finding(
            f"images more than {_LARGEST_ASPECT} times as high as wide",
            where(lambda look: look.height > _LARGEST_ASPECT * look.width),
        ),
    ]


def _of_copies(pairs: Sequence[tuple[_Entry, _Look]]) -> list[Finding]:
    copies: dict[bytes, list[_Entry]] = defaultdict(list)
    bits: dict[bytes, int] = {}
    for entry, look in pairs:
        copies[look.digest].append(entry)
        bits[look.digest] = look.bits
    same = [group for group in copies.values() if len(group) > 1]
    files = list(copies.values())
    hashes = np.array([bits[digest] for digest in copies], np.uint64)
    similar = [[entry for i in group for entry in files[i]] for group in alike(hashes)]

    def chosen(
        groups: Sequence[list[_Entry]], rule: Callable[[list[_Entry]], bool]
    ) -> tuple[str, ...]:
        return tuple(" = ".join(map(str, group[:3])) for group in groups if rule(group))

    return [
        Finding("the same file for two people", chosen(same, _has_two_people), problem=True),
        Finding("the same file in two splits", chosen(same, _is_in_two_splits), problem=True),
        Finding("the same file twice in a split", chosen(same, lambda g: not _is_in_two_splits(g))),
        Finding(
            "images that look the same (groups) in training and test",
            chosen(similar, _is_in_training_and_test),
        ),
        Finding(
            "other images that look the same (groups)",
            chosen(similar, lambda group: not _is_in_training_and_test(group)),
        ),
    ]


def _has_two_people(group: Sequence[_Entry]) -> bool:
    # A number may be two people in training and test.
    return any(
        len({e.record.pid for e in group if (e.split == "train") == training} - {-1}) > 1
        for training in (True, False)
    )


def _is_in_two_splits(group: Sequence[_Entry]) -> bool:
    return len({entry.split for entry in group}) > 1


def _is_in_training_and_test(group: Sequence[_Entry]) -> bool:
    return len({entry.split == "train" for entry in group}) > 1


def _of_people(splits: Mapping[str, Sequence[Record]], layout: str) -> list[Finding]:
    tested = [r for split, records in splits.items() if split != "train" for r in records]
    searched = {r.pid for r in splits.get("query", ())}
    trained = splits.get("train", ())
    groups = {"training": trained, "test": [r for r in tested if r.pid in searched]}
    findings = [
        Finding(f"{name} people seen by one camera only (an image of each)", _seen_once(records))
        for name, records in groups.items()
    ]
    if layout in _SAME_NUMBERS:
        ids = {r.pid for r in trained}
        both = {r.pid: r.name for r in reversed(tested) if r.pid in ids}
        names = tuple(both[pid] for pid in sorted(both))
        findings.append(Finding("people in training and test (an image of each)", names, True))
    return findings


def _seen_once(records: Iterable[Record]) -> tuple[str, ...]:
    """Return an image of each person whose cameras are all known and all the same."""
    cameras: dict[int, set[int]] = defaultdict(set)
    names: dict[int, str] = {}
    for record in records:
        cameras[record.pid].add(record.camid)
        names.setdefault(record.pid, record.name)
    return tuple(
        names[pid] for pid in sorted(names) if len(cameras[pid]) == 1 and -1 not in cameras[pid]
    )
