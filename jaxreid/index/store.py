"""Rows of an index on disk: a LanceDB table and its description. The only user of LanceDB.

A row is an image: its digest, the vector that the coarse search compares, the bytes of its features
and what is known of it. Every change is a new version of the table, there as a whole or not at all:
a process that dies leaves the last one, and readers keep theirs while another one is written.
"""

import contextlib
import datetime
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxreid.index.reading import COLUMNS, Rows, Snapshot, column_of, rows_of
from jaxreid.locks import hold
from jaxreid.places import expanded

ROWS, ABOUT = "entries", "about"
_LOCK = "lock"
# Rows from which vectors are put into cells; with fewer, all of them are compared.
LARGE = 20_000
# Bytes of LanceDB's caches, for cells and for the layout of files. With four times the first, the
# queries of a million embeddings took 0.89 instead of 0.64 GB and 6 to 20 % less processor time.
_CACHES = {"index_cache_size_bytes": 1 << 26, "metadata_cache_size_bytes": 1 << 26}
# Files of versions that were replaced less long ago are kept for those who still read them.
_GRACE = datetime.timedelta(minutes=10)
# Without a warning that is for those who do not know what it does.
_NONE = datetime.timedelta(milliseconds=1)
# Vectors to a cell, and the most cells.
_CELL, _CELLS = 2_000, 512
# Of the clustering: vectors to a cell, and rounds. A fifth of LanceDB's, for two cores.
_TRAINING = {"sample_rate": 64, "max_iterations": 12}
T = TypeVar("T")
_URI = re.compile(r"[a-z][a-z0-9+.-]+://")


class Store:
    """Tables of an index; may be read by several threads.

    Args:
        place: folder, or the URI of an object store as LanceDB takes it ("s3://bucket/folder").

    Attributes:
        place: the same as text.
        folder: the folder; None for an object store.

    Raises:
        ModuleNotFoundError: LanceDB is not installed.
    """

    def __init__(self, place: str | os.PathLike) -> None:
        self._lancedb = _library()
        remote = bool(_URI.match(os.fspath(place)))
        self.folder: pathlib.Path | None = None if remote else expanded(place)
        self.place = os.fspath(place) if remote else str(self.folder)
        self._database: Any = None
        self._rows: Any = None

    def holds_index(self) -> bool:
        """Return whether there is an index; creates nothing."""
        if self.folder is not None:
            return (self.folder / f"{ABOUT}.lance").is_dir()
        with self.explained():
            return ABOUT in self.database.list_tables().tables

    def is_empty(self) -> bool:
        """Return whether a new index has its place: an object store, or a new or empty folder."""
        if self.folder is None or not self.folder.exists():
            return True
        left = {_LOCK, f"{ROWS}.lance"}  # by a process that was killed
        return self.folder.is_dir() and {path.name for path in self.folder.iterdir()} <= left

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other writers out; in an object store, LanceDB refuses what does not fit."""
        if self.folder is None:
            yield
            return
        with hold(self.folder / _LOCK, f"index {self.folder}", wait=True):
            yield

    def create(self, about: Mapping[str, Any], layout: Mapping[str, int]) -> None:
        """Create the tables.

        Args:
            about: plain data that is kept beside the rows.
            layout: length of the "vector", and bytes of each column of bytes, by its name.
        """
        import pyarrow as pa

        (_, dim), *binary = layout.items()
        fields = {
            "id": pa.string(),
            "vector": pa.list_(pa.float16(), dim),
            **{name: pa.binary(size) for name, size in binary},
            "path": pa.string(),
            "camera": pa.string(),
            "time": pa.float64(),
            "person": pa.string(),
        }
        schema = pa.schema(fields)
        with self.explained():
            # The second table comes last: without it, the folder holds no index.
            self.database.create_table(ROWS, schema=schema, mode="overwrite")
        self.write_about(about)

    def write_about(self, about: Mapping[str, Any]) -> None:
        """Replace what is kept beside the rows."""
        import pyarrow as pa

        text = json.dumps(dict(about), allow_nan=False)
        with self.explained():
            table = self.database.create_table(ABOUT, pa.table({"json": [text]}), mode="overwrite")
            table.optimize(cleanup_older_than=_GRACE)

    def read_about(self) -> Any:
        """Return what is kept beside the rows: plain data, unchecked."""
        with self.explained():
            cells = self.database.open_table(ABOUT).to_arrow().column("json")
            return json.loads(cells[0].as_py())

    @property
    def database(self) -> Any:
        """The database of the tables."""
        if self._database is None:
            # A look for a newer version is a listing, which takes long in an object store.
            seconds = 0 if self.folder is not None else 5
            self._database = self._lancedb.connect(
                self.place,
                read_consistency_interval=datetime.timedelta(seconds=seconds),
                session=self._lancedb.Session(**_CACHES),
            )
        return self._database

    @property
    def rows(self) -> Any:
        """The table of rows."""
        if self._rows is None:
            self._rows = self.database.open_table(ROWS)
        return self._rows

    def layout(self) -> dict[str, int]:
        """Return the lengths of the columns that hold features, as given to `create`.

        Raises:
            ValueError: these are not the rows of an index.
        """
        with self.explained():
            schema = self.rows.schema
            if not {*COLUMNS, "vector"} <= set(schema.names):
                raise ValueError(f"it has the columns {', '.join(schema.names)}")
            kinds = {name: schema.field(name).type for name in schema.names if name not in COLUMNS}
            return {
                name: kind.list_size if name == "vector" else kind.byte_width
                for name, kind in kinds.items()
            }

    def __len__(self) -> int:
        with self.explained():
            return self.rows.count_rows()

    def add(self, content: Mapping[str, np.ndarray], columns: Mapping[str, Sequence]) -> None:
        """Append rows, all or none.

        Args:
            content: "vector", [n, dim] float16, and columns of bytes, [n, bytes] uint8.
            columns: `COLUMNS`, n values each.
        """
        import pyarrow as pa

        schema = self.rows.schema
        arrays = {name: pa.array(cells, schema.field(name).type) for name, cells in columns.items()}
        for name, values in content.items():
            if name == "vector":
                flat = pa.array(values.ravel())
                arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
            else:
                buffer = pa.py_buffer(np.ascontiguousarray(values))
                arrays[name] = pa.FixedSizeBinaryArray.from_buffers(
                    pa.binary(values.shape[1]), len(values), [None, buffer]
                )
        with self.explained():
            self.rows.add(pa.table([arrays[name] for name in schema.names], schema=schema))

    def ids(self) -> set[str]:
        """Return the ids of all rows."""
        with self.explained():
            return set(self._column("id").to_pylist())

    def cameras(self) -> list[str]:
        """Return the names of the cameras of all rows, sorted."""
        import pyarrow.compute as pc

        with self.explained():
            return sorted(name for name in pc.unique(self._column("camera")).to_pylist() if name)

    def _all(self) -> Any:
        """Return a query for all rows."""
        return self.rows.search().limit(len(self) or 1)

    def _column(self, name: str) -> Any:
        return self._all().select([name]).to_arrow().column(name)

    def read(self, ask: Callable[[Snapshot], T]) -> T:
        """Return what is asked of the newest version of the rows."""
        with self.explained():
            try:
                return ask(self._snapshot())
            except (RuntimeError, OSError, ValueError) as error:
                # Another process may have erased the files that this one was about to read.
                if "not found" not in str(error).lower():
                    raise
                return ask(self._snapshot())

    def _snapshot(self) -> Snapshot:
        table = self.database.open_table(ROWS)
        table.checkout(table.version)
        return Snapshot(table)

    def sample(self, count: int, seed: int = 0) -> Rows:
        """Return some rows at random."""
        size = len(self)
        places = np.random.default_rng(seed).choice(size, min(count, size), replace=False)
        with self.explained():
            found = self.rows.take_offsets(np.sort(places).tolist()).select(self._read)
            return rows_of(found.to_arrow())

    def batches(self, where: str = "") -> Iterator[Rows]:
        """Yield all rows for which a condition holds, some at a time."""
        with self.explained():
            query = self._all().select(self._read)
            query = query.where(where) if where else query
            for batch in query.to_batches(1024):
                yield rows_of(batch)

    def count(self, where: str) -> int:
        """Return the number of rows for which a condition holds."""
        with self.explained():
            return self.rows.count_rows(where)

    def remove(self, where: str) -> None:
        """Remove the rows for which a condition holds, all or none."""
        with self.explained():
            self.rows.delete(where)

    def state(self) -> tuple[int, int, int]:
        """Return the numbers of rows, of parts they are stored in, and of rows in cells."""
        with self.explained():
            stats = self.rows.stats()
            name = f"cells_{max(self._cells(), default=0)}"
            cells = self.rows.index_stats(name)
        held = cells.num_indexed_rows if cells else 0
        return stats["num_rows"], stats["fragment_stats"]["num_fragments"], held

    def _cells(self) -> list[int]:
        """Return the numbers of cells of the search structures; there is one, or none."""
        names = (index.name for index in self.rows.list_indices())
        return [int(name.removeprefix("cells_")) for name in names if name.startswith("cells_")]

    def bytes_on_disk(self) -> int | None:
        """Return the bytes of the folder's files; None for an object store."""
        if self.folder is None:
            return None
        return sum(_size(path) for path in self.folder.rglob("*") if path.is_file())

    def is_slow(self) -> bool:
        """Return whether there are many small parts, or many rows outside of cells."""
        rows, parts, held = self.state()
        if rows >= LARGE and rows - held > 0.3 * rows:
            return True
        # Merging writes rows again. Done when the parts have grown by a share of all rows, it
        # writes a bounded multiple of what is added.
        return parts > 1024 or (parts > 64 and rows - held > 0.1 * rows)

    def optimize(self) -> None:
        """Merge small parts and put rows into cells."""
        with self.explained():
            self.rows.optimize(cleanup_older_than=_GRACE)
            rows, old = self.rows.count_rows(), self._cells()
            cells = min(_CELLS, rows // _CELL)
            # New cells for twice as many, or where a process died between the two steps.
            if rows >= LARGE and (len(old) != 1 or cells >= 2 * old[0]):
                config = self._lancedb.index.IvfSq(
                    distance_type="l2", num_partitions=cells, **_TRAINING
                )
                name = f"cells_{cells}"
                self.rows.create_index("vector", config=config, replace=True, name=name)
                for number in {*old} - {cells}:
                    self.rows.drop_index(f"cells_{number}")

    def erase(self) -> None:
        """Write all rows anew and delete every other file, with what was removed.

        Who reads an older version at that moment fails and has to repeat.
        """
        with self.explained():
            schema = self.rows.schema
            batches = self._all().to_batches(1024)
            self.database.create_table(ROWS, batches, schema=schema, mode="overwrite")
            self._rows = None
            self.optimize()
            self.rows.optimize(cleanup_older_than=_NONE, delete_unverified=True)

    @property
    def _read(self) -> list[str]:
        return [*COLUMNS, column_of(self.rows.schema)]

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Raise an error of LanceDB again, as a sentence with the place."""
        try:
            yield
        except Exception as error:
            if getattr(error, "explained", False):
                raise
            reason = str(error).split(", /")[0].strip() or type(error).__name__
            message = (
                f"index {self.place} cannot be used: {reason[:300]}. Expected a place that "
                "`jaxreid index create` has made, with room and access, whose files nobody changed."
            )
            raised = OSError(message) if isinstance(error, OSError) else ValueError(message)
            raised.explained = True  # type: ignore[union-attr]
            raise raised from error
        except BaseException as error:
            # LanceDB's own library gives up on some damaged files.
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(
                f"index {self.place} is damaged: {str(error)[:300]}. Restore it from a copy, or "
                "create it again."
            ) from error


def _size(path: pathlib.Path) -> int:
    # A file may go while another process merges parts.
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _library() -> Any:
    # It warns of what it will change in later versions.
    os.environ.setdefault("LANCEDB_LOG", "error")
    try:
        import lancedb
        import lancedb.index
    except ImportError as error:
        raise ModuleNotFoundError(
            "an index needs LanceDB: pip install 'jaxreid[index]'."
        ) from error
    return lancedb
