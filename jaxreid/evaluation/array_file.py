"""Arrays and a text in one file: .safetensors, .npz of NumPy (uncompressed), and .npy to read.

Anybody may have written it: it takes no more memory than its size, and holds no pickle.
"""

import hashlib
import json
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors

from jaxreid.runs.files import replacing

SUFFIXES = (".safetensors", ".npz")
# Arrays that a file is about.
KINDS = ("features", "scores")
# Kinds of the numbers of each array besides them, and their type in the file.
COLUMNS = {"pid": "<i8", "camid": "<i8", "time": "<f8", "digest": "<u8"}
_TYPES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "<i8": "I64", "<u8": "U64"}
# Values looked at together: 64 MiB.
_BLOCK = 2**24


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray], text: str) -> None:
    """Write contiguous arrays and the text `about`.

    Raises:
        OSError: the file cannot be written; an old one is still there.
    """
    with replacing(path) as file:
        if path.suffix == ".npz":
            np.savez(file, about=np.array(text), **arrays)
            return
        header: dict[str, Any] = {"__metadata__": {"about": text}}
        end = 0
        for name, array in arrays.items():
            offsets = end, (end := end + array.nbytes)
            kind = _TYPES[array.dtype.newbyteorder("<").str]
            header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": offsets}
        head = json.dumps(header).encode()
        head = head.ljust(-(-len(head) // 8) * 8)
        file.write(len(head).to_bytes(8, "little") + head)
        # Written by hand: the library holds all of it twice more.
        for array in arrays.values():
            file.write(memoryview(array).cast("B"))


def read_arrays(path: pathlib.Path) -> dict[str, Any]:
    """Read the arrays of a file: `features` or `scores`, those beside it, and the text `about`.

    A .npy file is one array, as both of them, which stays on the disk.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it cannot be read, is of another kind, or damaged.
    """
    check_suffix(path, (*SUFFIXES, ".npy"))
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; expected features or scores ({', '.join(SUFFIXES)}, .npy)."
        )
    read = {".npz": _read_npz, ".npy": _read_npy, ".safetensors": _read_safetensors}[path.suffix]
    try:
        return read(path)
    # A damaged archive can raise anything.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as {path.suffix}: {error}. If it is damaged or of another "
            "kind, copy it or write it again."
        ) from error


def check_suffix(path: pathlib.Path, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Raise ValueError if the suffix of a file is another."""
    if path.suffix not in suffixes:
        raise ValueError(f"{path} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}.")


def blocks_of(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, rows) of an array, some at a time."""
    step = max(1, _BLOCK // max(1, values[:1].size))
    for first in range(0, len(values), step):
        yield first, values[first : first + step]


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 of arrays: their names, types, shapes and bytes."""
    whole = hashlib.sha256()
    for name, array in arrays.items():
        whole.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        for _, block in blocks_of(array):
            whole.update(np.ascontiguousarray(block).view(np.uint8).reshape(-1))
    return whole.hexdigest()


def _read_npy(path: pathlib.Path) -> dict[str, Any]:
    return dict.fromkeys(KINDS, np.load(path, mmap_mode="r", allow_pickle=False))


def _read_npz(path: pathlib.Path) -> dict[str, Any]:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        arrays = {}
        for name in (*KINDS, *COLUMNS, "about"):
            if f"{name}.npy" not in archive.namelist():
                continue
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise ValueError(f"{name} is compressed; expected it as numpy.savez writes it")
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"{name} is in version {version} of the format")
                header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")(member)
                shape, _, dtype = header
                elements = int(np.prod([int(length) for length in shape], dtype=object))
                if dtype.hasobject or elements * dtype.itemsize != info.file_size - member.tell():
                    raise ValueError(
                        f"{name} has another size than declared, or holds Python objects"
                    )
            with archive.open(info) as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    if "about" in arrays:
        arrays["about"] = str(arrays["about"])
    return arrays


def _read_safetensors(path: pathlib.Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="numpy") as file:
        # The library compares the sizes that it claims with that of the file.
        held = set(file.keys())
        arrays = {n: file.get_tensor(n) for n in (*KINDS, *COLUMNS) if n in held}
        metadata = file.metadata() or {}
    return arrays | ({"about": metadata["about"]} if "about" in metadata else {})
