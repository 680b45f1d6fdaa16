"""A program that prints the rows of a Parquet file as JSON lines; see `table`.

It is a process of its own, with a limit of memory, because a small file can claim numbers of values
for which Arrow takes memory before it looks for them.
"""

import json
import os
import sys

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

# Bytes of addresses; rows are read in batches.
_MEMORY = 8 * 2**30


def main(path: str) -> None:
    """Print the rows; end with a sentence if the file cannot be read."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        least = _MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most)
        resource.setrlimit(resource.RLIMIT_AS, (least, most))
    try:
        from pyarrow import parquet

        file = parquet.ParquetFile(path)
        rows, size = file.metadata.num_rows, os.path.getsize(path)
        # Every row is another path; equal cells without end take no room.
        if rows > size:
            raise ValueError(f"{rows:,} rows in {size:,} bytes")
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                print(json.dumps(row, default=str))
    # Arrow has errors of many kinds.
    except Exception as error:
        sys.exit(str(error) or type(error).__name__)


if __name__ == "__main__":
    main(sys.argv[1])
