"""MATLAB's files before version 7.3, as data sets use them: numbers, words, cells and structs.

SciPy reads more kinds, but a damaged file can end its process with a segmentation fault.

Source: The MathWorks, MAT-File Format, level 5.
"""

import math
import pathlib
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

import numpy as np

_Order = Literal["little", "big"]
_Parts = Iterator[tuple[int, memoryview]]

_HEADER = 128
_ORDERS: dict[bytes, _Order] = {b"IM": "little", b"MI": "big"}
# Types of elements. Those of words are codes of letters.
_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_TYPES |= {16: "u1", 17: "u2", 18: "u4"}
_MATRIX, _COMPRESSED = 14, 15
# Classes of arrays.
_CLASSES, _CELL, _STRUCT, _TEXT, _NUMBERS = range(1, 16), 1, 2, 4, range(6, 16)
# Bytes of a variable: small files can hold ones without end.
_LARGEST = 2**28


def read_mat(path: pathlib.Path, names: Collection[str]) -> dict[str, Any]:
    """Read variables of a file.

    Args:
        path: the file.
        names: the variables, all of which must be there.

    Returns:
        By name: arrays of numbers; words, of one row, as a string; cells as an array of such
        values; structs as an array of dictionaries.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is of another format, is damaged, or lacks a variable.
    """
    content = path.read_bytes()
    order = _ORDERS.get(content[_HEADER - 2 : _HEADER])
    if order is None:
        raise ValueError("not a file of MATLAB before version 7.3")
    held = {}
    try:
        for kind, data in _elements(memoryview(content)[_HEADER:], order):
            if kind == _COMPRESSED:
                kind, data = _next(_elements(_decompressed(data), order))
            if kind != _MATRIX:
                continue
            parts = _elements(data, order)
            flags = _integers(parts, order)
            # Objects of newer classes have no shape, and hold no data of any data set.
            if flags and flags[0] & 0xFF not in _CLASSES:
                continue
            shape, name = (_integers(parts, order) for _ in range(2))
            if _text(name) in names:
                held[_text(name)] = _value(flags, shape, parts, order)
    except (zlib.error, RecursionError) as error:
        raise ValueError(f"damaged ({error})") from error
    if missing := sorted(set(names) - held.keys()):
        raise ValueError(f"no variable {', '.join(missing)}")
    return held


def _decompressed(data: memoryview) -> memoryview:
    stream = zlib.decompressobj()
    content = stream.decompress(data, _LARGEST)
    if not stream.eof:
        raise ValueError(f"a variable is cut short, or has more than {_LARGEST:,} bytes")
    return memoryview(content)


def _elements(data: memoryview, order: _Order) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and content of each element."""
    at = 0
    while at + 8 <= len(data):
        kind = int.from_bytes(data[at : at + 4], order)
        # Up to four bytes are in the tag itself.
        size, start = kind >> 16, at + 4
        if size == 0:
            size, start = int.from_bytes(data[at + 4 : at + 8], order), at + 8
        if size > len(data) - start:
            raise ValueError(f"expected {size:,} bytes, got {len(data) - start:,}")
        yield kind & 0xFFFF, data[start : start + size]
        at = start + size
        if kind != _COMPRESSED:
            at += -at % 8


def _next(parts: _Parts) -> tuple[int, memoryview]:
    for part in parts:
        return part
    raise ValueError("cut short")


def _numbers(parts: _Parts, order: _Order) -> np.ndarray:
    kind, data = _next(parts)
    if kind not in _TYPES:
        raise ValueError(f"unknown number type {kind}")
    return np.frombuffer(data, np.dtype(_TYPES[kind]).newbyteorder(order))


def _integers(parts: _Parts, order: _Order) -> list[int]:
    numbers = _numbers(parts, order)
    if numbers.dtype.kind == "f" or (numbers < 0).any():
        raise ValueError("expected whole numbers, got others")
    return numbers.tolist()


def _text(letters: Sequence[int]) -> str:
    return bytes(letter if letter < 128 else ord("?") for letter in letters if letter).decode()


def _value(flags: Sequence[int], shape: Sequence[int], parts: _Parts, order: _Order) -> Any:
    """Return the content of an array; `parts` are its elements after flags, shape and name."""
    kind, is_complex = (flags[0] & 0xFF, flags[0] & 0x800) if flags else (0, 0)
    if kind == _TEXT:
        return _text(_integers(parts, order))
    if kind in (_CELL, _STRUCT):
        fields = [""]
        if kind == _STRUCT:
            (width,), letters = (_integers(parts, order) for _ in range(2))
            fields = [_text(letters[i : i + width]) for i in range(0, len(letters), width)]
        if not fields:
            raise ValueError("a struct without fields")
        held = []
        # Not an array at once: the shape may be a lie.
        for _ in range(math.prod(shape)):
            row = {field: _inner(parts, order) for field in fields}
            held.append(row if kind == _STRUCT else row[""])
        array = np.empty(len(held), object)
        for i, value in enumerate(held):
            array[i] = value
        return array.reshape(shape, order="F")
    if is_complex or kind not in _NUMBERS:
        raise ValueError(f"class {kind}, which is neither real numbers, words, cells nor structs")
    return _numbers(parts, order).reshape(shape, order="F")


def _inner(parts: _Parts, order: _Order) -> Any:
    kind, data = _next(parts)
    if kind != _MATRIX:
        raise ValueError(f"expected an array, got type {kind}")
    if not data:
        return np.zeros((0, 0))
    parts = _elements(data, order)
    flags, shape, _ = (_integers(parts, order) for _ in range(3))
    return _value(flags, shape, parts, order)
