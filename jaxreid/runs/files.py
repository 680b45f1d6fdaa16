"""Atomic file writes."""

import os
import pathlib


def replace_file(path: pathlib.Path, content: bytes) -> None:
    """Write a file atomically: readers see the old content or the new, never a part.

    The directory of `path` must exist.
    """
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
