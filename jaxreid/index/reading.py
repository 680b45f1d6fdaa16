"""One version of the rows of an index, as a search reads it; Arrow's columns as arrays."""

from typing import Any, NamedTuple

import numpy as np

COLUMNS = ("id", "path", "camera", "time", "person")
# Cells of vectors that a query looks into.
_PROBED = 128


class Rows(NamedTuple):
    """Rows that were read.

    Attributes:
        feature: [n, bytes] uint8, or [n, dim] float16 where the vector stands for the features.
        columns: `COLUMNS`, lists of n; None where unknown.
    """

    feature: np.ndarray
    columns: dict[str, list[Any]]


class Snapshot:
    """One version of the rows, which does not change while other processes write.

    Args:
        table: table of LanceDB at this version.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self._held = column_of(table.schema)

    def nearest(
        self, vector: np.ndarray, count: int, *, where: str = "", every: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the rows with the nearest vectors, nearest first.

        Args:
            vector: [dim] float.
            count: number of rows.
            where: condition on the rows (SQL); "" for all.
            every: compare all vectors, not only those of the nearest cells.

        Returns:
            Places [n] of the rows in this version, and their pooled maps, [n, bytes] uint8;
            without maps [n, 0].
        """
        query = self._table.search(np.float32(vector), vector_column_name="vector")
        query = query.distance_type("l2").limit(count).with_row_id(True)
        maps = self._held == "feature"
        query = query.select(["pooled", "_distance"] if maps else ["_distance"])
        # More cells than these are looked into where a condition leaves too few rows.
        query = query.minimum_nprobes(_PROBED).maximum_nprobes(0)
        query = query.bypass_vector_index() if every else query
        rows = (query.where(where, prefilter=True) if where else query).to_arrow()
        places = rows.column("_rowid").to_numpy()
        return places, _matrix(rows, "pooled") if maps else np.empty((len(places), 0))

    def take(self, places: np.ndarray) -> Rows:
        """Return the rows at some places, in this order."""
        query = self._table.take_row_ids(places.tolist()).select([*COLUMNS, self._held])
        rows = query.with_row_id().to_arrow()
        order = np.argsort(rows.column("_rowid").to_numpy())[np.argsort(np.argsort(places))]
        return rows_of(rows.take(order))


def column_of(schema: Any) -> str:
    """Return the column that holds features: "vector" where it stands for them."""
    return "feature" if "feature" in schema.names else "vector"


def rows_of(table: Any) -> Rows:
    """Return a table or batch of Arrow as rows.

    Raises:
        ValueError: a row has no features.
    """
    columns = {name: table.column(name).to_pylist() for name in COLUMNS}
    return Rows(_matrix(table, column_of(table.schema)), columns)


def _matrix(table: Any, name: str) -> np.ndarray:
    """Return a column of vectors or of bytes as [n, length]."""
    column = table.column(name)
    # A table has chunks, a batch has none.
    array = column.combine_chunks() if hasattr(column, "chunks") else column
    if array.null_count:
        raise ValueError("rows without features")
    if hasattr(array.type, "list_size"):
        return np.asarray(array.flatten()).reshape(len(array), array.type.list_size)
    size = array.type.byte_width
    content = np.frombuffer(array.buffers()[1], np.uint8, len(array) * size, array.offset * size)
    return content.reshape(len(array), size)
