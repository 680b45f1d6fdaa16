"""Your own images in a table: CSV, Parquet or JSON lines, one row per image.

    path,person,camera,time,split
    photos/0001.jpg,alice,door,0.5,train

People and cameras are words or integers. Only path and person are needed.
"""

import csv
import datetime
import importlib.util
import io
import json
import math
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxreid.data.sets import parquet_rows
from jaxreid.data.sets.division import SPLITS, Photo, own_source
from jaxreid.data.sets.files import some
from jaxreid.data.sets.source import Source
from jaxreid.names import check_name
from jaxreid.places import expanded

_COLUMNS = {
    "path": ("path", "file", "image"),
    "person": ("person", "pid", "person_id", "identity"),
    "camera": ("camera", "camid", "camera_id"),
    "time": ("time", "timestamp"),
    "split": ("split", "subset"),
}


def find(
    folder: str | os.PathLike,
    *,
    split: str | None = None,
    seed: int = 0,
    combine_all: bool = False,
) -> Source:
    """Find your own images through a table, whose paths are relative to its folder.

    Integers stay as they are; words are numbered in their order, numbers in them
    by value. An empty cell is a person, camera or time that is not known. Times are seconds, or
    dates in ISO 8601 (UTC without a zone).

    Args:
        folder: the file (.csv, .tsv, .parquet, .jsonl). Columns, in any order and case: path (file,
            image), person (pid, person_id, identity), camera (camid, camera_id), time (timestamp),
            split (subset: train, query, gallery; or train and test).
        split: how images are divided that have no split, as in `folder`: people, camera, none or
            learn. With none, the column person is not needed.
        seed: which people and queries are drawn.
        combine_all: train on the people of all splits.

    Returns:
        Splits train, query and gallery, as far as there are any. Images without a person (pid -1)
        are in the gallery; those of person -1 are junk and dropped.

    Raises:
        FileNotFoundError: the table or images of it do not exist; the message counts them.
        ValueError: the table is empty, of another format, lacks a column, or names an image twice;
            a cell cannot be read; or the images cannot be divided.
    """
    root, photos, notices = read_photos(folder, need_person=split != "none")
    return own_source(
        "table",
        root,
        photos,
        split=split,
        seed=seed,
        combine_all=combine_all,
        keep_numbers=True,
        notices=notices,
        description=__doc__,
    )


def read_photos(
    table: str | os.PathLike, *, need_person: bool = True
) -> tuple[pathlib.Path, list[Photo], list[str]]:
    """Read the rows of a table, which need a column person if `need_person`.

    Returns:
        A folder that holds all images, one photo or more, and notices.

    Raises:
        FileNotFoundError, ValueError: as for `find`.
    """
    needed = ("path", "person") if need_person else ("path",)
    path, rows, notices = read_cells(table, needed)
    root, images = _images(path, [text_of(row["path"]) for row in rows])
    photos = [
        photo_of(row, image, image.relative_to(root).as_posix(), f"{path}, row {number}")
        for number, (row, image) in enumerate(zip(rows, images, strict=True), 1)
    ]
    return root, photos, notices


def read_cells(
    table: str | os.PathLike, needed: Sequence[str]
) -> tuple[pathlib.Path, list[dict[str, Any]], list[str]]:
    """Read the cells of a table by kind: path, person, camera, time, split.

    Args:
        table: the file.
        needed: kinds that must have a column.

    Returns:
        The file, its rows, one or more, and notices.

    Raises:
        FileNotFoundError, ValueError: as for `find`, without looking for images.
    """
    path = expanded(table)
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {str(path)!r} (from {os.getcwd()}); expected a table "
            f"({', '.join(_READERS)}) with the columns {', '.join(_COLUMNS)}."
        )
    rows = _rows(path)
    if not rows:
        raise ValueError(f"{path} has no rows; expected one per image.")
    columns, notices = _columns(path, rows, needed)
    return path, [{kind: row[name] for kind, name in columns.items()} for row in rows], notices


def photo_of(cells: Mapping[str, Any], image: pathlib.Path, name: str, where: str) -> Photo:
    """Return the photo that the cells of a row describe; `where` is the row, for messages.

    Raises:
        ValueError: a cell cannot be read.
    """
    try:
        return Photo(
            image,
            name,
            person=text_of(cells.get("person")),
            camera=_camera(cells.get("camera")),
            time=seconds_of(cells.get("time")),
            split=_split(cells.get("split")),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read a table; its rows have the same keys."""
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"{path} is not a table; expected a file {', '.join(_READERS)}.")
    rows = _READERS[suffix](path)
    columns = dict.fromkeys(column for row in rows for column in row)
    return [{column: row.get(column) for column in columns} for row in rows]


def _lines(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from error


def _read_csv(path: pathlib.Path) -> list[dict[str, Any]]:
    text = _lines(path)
    header = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma is decimal.
    separator = max(",;\t", key=header.count)
    rows = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text), delimiter=separator), 1):
        if None in row:
            raise ValueError(
                f"{path}, row {number}: more cells than columns ({header.strip()}). Put quotes "
                f"around a cell that holds {separator!r}."
            )
        rows.append(row)
    return rows


def _read_json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_lines(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ValueError(f'{path}, line {number}: expected an object, {{"path": ...}}.')
        rows.append(row)
    return rows


def _read_parquet(path: pathlib.Path) -> list[dict[str, Any]]:
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            f"{path}: reading Parquet needs pyarrow: pip install pyarrow, or save the table as CSV."
        )
    command = [sys.executable, "-P", parquet_rows.__file__, os.fspath(path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        reason = done.stderr.strip() or f"its reader ended with status {done.returncode}"
        raise ValueError(f"{path} cannot be read as Parquet: {reason}")
    return [json.loads(line) for line in done.stdout.splitlines()]


_READERS = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
}
# Of files that are tables.
SUFFIXES = tuple(_READERS)


def _columns(
    path: pathlib.Path, rows: Sequence[Mapping[str, Any]], needed: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the column of each kind, and a notice about columns that are not read."""
    kinds = {name: kind for kind, names in _COLUMNS.items() for name in names}
    columns: dict[str, str] = {}
    others = []
    for column in rows[0]:
        kind = kinds.get(str(column).strip().lower())
        if kind in columns:
            raise ValueError(
                f"{path} has two columns for the {kind}: {columns[kind]}, {column}. Remove one."
            )
        if kind:
            columns[kind] = column
        else:
            others.append(str(column))
    if missing := [kind for kind in needed if kind not in columns]:
        accepted = "; ".join(f"{kind} ({', '.join(_COLUMNS[kind][1:])})" for kind in missing)
        raise ValueError(f"{path} has the columns {', '.join(rows[0])}; expected {accepted}.")
    unread = f"{path}: columns that are not read: {', '.join(others)}."
    return columns, [unread] if others else []


def _images(path: pathlib.Path, names: Sequence[str]) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """Return a folder that holds all images, the table's if it does, and their paths."""
    if "" in names:
        raise ValueError(f"{path}, row {names.index('') + 1}: no path of an image.")
    base = pathlib.Path(os.path.normpath(path.parent))
    images = [_place(path, base, name, row) for row, name in enumerate(names, start=1)]
    if missing := [name for name, image in zip(names, images, strict=True) if not image.is_file()]:
        raise FileNotFoundError(
            f"{path}: missing images: {len(missing)} of {len(names)} ({some(missing)}). Expected "
            f"paths relative to {base}, or absolute ones."
        )
    if all(image.is_relative_to(base) for image in images):
        return base, images
    images = [image.absolute() for image in images]
    return pathlib.Path(os.path.commonpath([image.parent for image in images])), images


def _place(path: pathlib.Path, base: pathlib.Path, name: str, row: int) -> pathlib.Path:
    """Return the place of a name; without such a file, ~ stands for a home directory."""
    place = base / name
    if name.startswith("~") and not place.is_file():
        try:
            place = expanded(name)
        except ValueError as error:
            raise ValueError(f"{path}, row {row}: {error}") from error
    return pathlib.Path(os.path.normpath(place))


def text_of(value: Any) -> str:
    """Return a cell as text; whole numbers that became decimal ones beside empty cells too."""
    if value is None or value != value:  # NaN
        return ""
    text = str(value).strip()
    return text.partition(".")[0] if re.fullmatch(r"-?[0-9]+\.0+", text) else text


def _camera(value: Any) -> str:
    text = text_of(value)
    return "" if text == "-1" else text


def seconds_of(value: Any) -> float:
    """Return a time in seconds: of a number, or of a date in ISO 8601; NaN for an empty cell.

    Raises:
        ValueError: it is neither.
    """
    text = text_of(value)
    if not text:
        return math.nan
    if re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]{1,2})?", text, re.IGNORECASE):
        return float(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"time is {text!r}; expected seconds, or a date such as 2024-01-31T09:30:12."
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _split(value: Any) -> str:
    text = text_of(value).lower()
    return check_name(text, SPLITS, "split") if text else ""
