"""Writing files as a whole."""

import os
import pathlib


def replace_file(path: pathlib.Path, content: bytes) -> None:
    """Writes a file; readers see the old content or the new, never a part.

    Args:
        path: in a directory that exists.
        content: of the whole file.
    """
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
