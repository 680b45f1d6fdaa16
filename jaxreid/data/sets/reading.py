"""Reading a data set that has been found: where its files are, from a copy, or directly."""

import dataclasses
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from jaxreid.data.images.on_disk import ImageFiles
from jaxreid.data.sets.checks import ImageCheck
from jaxreid.data.sets.digests import Memory
from jaxreid.data.sets.prepared import import_tensorflow, read_prepared
from jaxreid.data.sets.source import Record, Source, columns_of, short_digest, split_of
from jaxreid.data.split import Origin, Split


@dataclasses.dataclass(frozen=True)
class Found:
    """Data set that has passed all checks that do not need its images.

    Attributes:
        title: data set and domain, without options.
        content: result of its function.
        root: folder of prepared copies.
        copied: whether files are read from a prepared copy, too, and not where they are.
        place: folder or file that it was found in; "" for none.
        skip_broken: leave broken images out.
    """

    title: str
    content: Source | Mapping[str, Split]
    root: pathlib.Path
    copied: bool = False
    place: str = ""
    skip_broken: bool = False

    def read(self) -> dict[str, Split]:
        """Return the splits, each with its origin."""
        if isinstance(self.content, Source):
            splits, fingerprint = self._read_source(self.content), self.content.fingerprint
            anew = self.content.numbered_anew
        else:
            fingerprint, anew = _fingerprint(self.content), False
            check = ImageCheck(self.title, skip=self.skip_broken)
            splits = {name: split.take(check.look(split)) for name, split in self.content.items()}
            check.finish()
        origin = Origin(self.title, fingerprint, self.place, anew)
        return {s: dataclasses.replace(split, origins=(origin,)) for s, split in splits.items()}

    def _read_source(self, source: Source) -> dict[str, Split]:
        if self.skip_broken:  # a copy without some of the images is another one
            source = dataclasses.replace(source, config=f"{source.config}-whole")
        if source.digests is not None and not (self.copied and _has_tensorflow()):
            return self._read_in_place(source, source.digests)
        try:
            import_tensorflow()
        except ImportError:
            return self._read_directly(source)
        return read_prepared(source, self.root, self.title, self.skip_broken)

    def _read_in_place(self, source: Source, digests: Mapping) -> dict[str, Split]:
        """Return splits of files; each file is decoded once, and then known by its digest."""
        records = {split: list(held) for split, held in source.splits.items()}
        # TensorFlow's decoder looks at plain images only, and where it is installed.
        memory, least = Memory("images", source.name), int(_has_tensorflow())
        known = {d: f for d, f in memory.known.items() if len(f) == 4 and f[3] >= least}
        new = {r.image: r.name for held in records.values() for r in held}
        new = {path: name for path, name in new.items() if digests[path] not in known}
        if new:
            check = ImageCheck(self.title, _agrees() if least else None, self.skip_broken)
            with self._progress("checking", len(new)) as bar:
                examined = check.examine(list(new), list(new.values()), bar.update)
                try:
                    for path, facts in zip(new, examined, strict=True):
                        if facts is not None:
                            known[digests[path]] = [*facts, least or int(bool(facts[0]))]
                finally:
                    memory.keep(memory.known | known)
            check.finish()
        # Those that are not known are broken, and to be left out.
        whole = {s: [r for r in held if digests[r.image] in known] for s, held in records.items()}
        return {split: _split_of_files(held, digests, known) for split, held in whole.items()}

    def _read_directly(self, source: Source) -> dict[str, Split]:
        check = ImageCheck(self.title, skip=self.skip_broken)
        with self._progress("reading", len(source)) as bar:
            splits = {s: split_of(check.read(_counted(r, bar))) for s, r in source.splits.items()}
        check.finish()
        return splits

    def _progress(self, verb: str, total: int) -> tqdm:
        if not sys.stderr.isatty():
            print(f"{verb} {self.title} ({total:,} images)", file=sys.stderr, flush=True)
        options = {"desc": f"{verb} {self.title}", "total": total, "unit": "img"}
        return tqdm(**options, disable=None, leave=False)


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _agrees() -> Callable[[bytes, np.ndarray], bool]:
    import_tensorflow()
    from jaxreid.data.images.decoding import agrees

    return agrees


def _split_of_files(
    records: Sequence[Record], digests: Mapping, facts: Mapping[str, Sequence]
) -> Split:
    records = sorted(records, key=lambda record: record.name)
    digest = [digests[record.image] for record in records]
    known = [facts[value] for value in digest]
    files = ImageFiles(
        [os.fsdecode(record.image) for record in records],
        # As `Split.digests` computes them.
        np.frombuffer(bytes.fromhex("".join(digest)), "<u8"),
        np.array([not kind for kind, *_ in known], bool),
        np.array([(height, width) for _, height, width, _ in known], np.int32).reshape(-1, 2),
    )
    return columns_of(files, records)


def _counted(records: Iterable[Record], bar: tqdm) -> Iterator[Record]:
    for record in records:
        yield record
        bar.update()


def _fingerprint(splits: Mapping[str, Split]) -> str:
    """Return a digest of names, people, cameras, times and files, for splits without one."""
    return short_digest(f"{part} {split.fingerprint}" for part, split in splits.items())
