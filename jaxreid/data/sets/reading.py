"""Reading a data set that has been found: from its prepared copy, or directly."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping

from tqdm import tqdm

from jaxreid.data.sets.checks import ImageCheck
from jaxreid.data.sets.prepared import import_tensorflow, read_prepared
from jaxreid.data.sets.source import Record, Source, short_digest, split_of
from jaxreid.data.split import Origin, Split


@dataclasses.dataclass(frozen=True)
class Found:
    """Data set that has passed all checks that do not need its images.

    Attributes:
        name: name as given, with options.
        title: data set and domain, without options.
        content: result of its function.
        root: folder of prepared copies.
    """

    name: str
    title: str
    content: Source | Mapping[str, Split]
    root: pathlib.Path

    def read(self) -> dict[str, Split]:
        """Return the splits, each with its origin."""
        if isinstance(self.content, Source):
            splits, fingerprint = self._read_source(self.content), self.content.fingerprint
        else:
            splits, fingerprint = self.content, _fingerprint(self.content)
            check = ImageCheck(self.title)
            for split in splits.values():
                check.look(split)
            check.finish()
        origin = Origin(self.title, fingerprint)
        return {s: dataclasses.replace(split, origins=(origin,)) for s, split in splits.items()}

    def _read_source(self, source: Source) -> dict[str, Split]:
        try:
            import_tensorflow()
        except ImportError:
            return self._read_directly(source)
        return read_prepared(source, self.root, self.title)

    def _read_directly(self, source: Source) -> dict[str, Split]:
        if not sys.stderr.isatty():
            print(f"reading {self.title} ({len(source):,} images)", file=sys.stderr, flush=True)
        size, check = {"total": len(source), "unit": "img"}, ImageCheck(self.title)
        with tqdm(desc=f"reading {self.title}", **size, disable=None, leave=False) as bar:
            splits = {s: split_of(check.read(_counted(r, bar))) for s, r in source.splits.items()}
        check.finish()
        return splits


def _counted(records: Iterable[Record], bar: tqdm) -> Iterator[Record]:
    for record in records:
        yield record
        bar.update()


def _fingerprint(splits: Mapping[str, Split]) -> str:
    """Return a digest of names, people, cameras, times and files, for splits without one."""
    return short_digest(f"{part} {split.fingerprint}" for part, split in splits.items())
