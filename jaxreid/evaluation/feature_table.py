"""Features or scores from elsewhere: an array of NumPy, and a table of the images.

    person,camera,split,path,time
    12,1,query,photos/0001.jpg,0.5

Only person and split are needed.
"""

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np

from jaxreid.data.sets.division import JUNK, SPLITS, by_value, numbers_of
from jaxreid.data.sets.files import some
from jaxreid.data.sets.table import photo_of, read_cells, text_of
from jaxreid.data.split import Origin, Split
from jaxreid.evaluation.array_file import blocks_of, read_arrays
from jaxreid.evaluation.feature_file import (
    StoredFeatures,
    StoredScores,
    check_features,
    check_scores,
    splits_of,
)


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of a table.

    Attributes:
        path: the table.
        count: number of rows.
        queries, gallery: rows of the test, of both splits.
        chosen: queries and gallery as splits.
        rows_of: all rows by split, those that are left out included.
        messages: for the user.
    """

    path: pathlib.Path
    count: int
    queries: list[int]
    gallery: list[int]
    chosen: tuple[Split, Split]
    rows_of: dict[str, list[int]]
    messages: list[str]


def features_of_table(
    features: pathlib.Path, table: pathlib.Path
) -> tuple[StoredFeatures, list[str]]:
    """Read features from elsewhere.

    Args:
        features: a .npy file of [N, d] or [N, h, w, d] floating-point numbers, or a .npz or
            .safetensors file that calls them `features`.
        table: N rows, as for `read_images`.

    Returns:
        The features, float32, of the images of the test, and messages for the user.

    Raises:
        OSError: a file cannot be read.
        ValueError: it has another content than expected; the message gives the reason.
    """
    images = read_images(table)
    values = _array(features, "features")
    try:
        check_features(values, images.count)
    except ValueError as error:
        raise ValueError(f"{features}: {error}, as many as {images.path} has rows.") from error
    held = _rows(values, np.array([*images.queries, *images.gallery])).astype(
        np.float32, copy=False
    )
    return StoredFeatures(features=held, **_around(images, held)), images.messages


def scores_of_table(scores: pathlib.Path, table: pathlib.Path) -> tuple[StoredScores, list[str]]:
    """Read scores from elsewhere.

    Args:
        scores: a .npy file of [Q, G] floating-point numbers, or a .npz or .safetensors file that
            calls them `scores`: a row for each query of the table and a column for each image of
            its gallery, in their order there; larger is more similar.
        table: as for `read_images`.

    Returns:
        The scores, float32 or wider, of the images of the test, and messages for the user.

    Raises:
        OSError: a file cannot be read.
        ValueError: it has another content than expected; the message gives the reason.
    """
    images = read_images(table)
    values = _array(scores, "scores")
    rows, columns = images.rows_of["query"], images.rows_of["gallery"]
    try:
        check_scores(values, len(rows), len(columns))
    except ValueError as error:
        raise ValueError(f"{scores}: {error}, in the order of {images.path}.") from error
    kept = (
        np.flatnonzero(np.isin(rows, images.queries)),
        np.flatnonzero(np.isin(columns, images.gallery)),
    )
    # float64 stays: scores that differ by less than float32 can resolve have an order.
    held = _rows(values, kept[0]).astype(np.result_type(values, np.float32), copy=False)
    held = held if len(kept[1]) == len(columns) else held[:, kept[1]]
    return StoredScores(scores=held, **_around(images, held)), images.messages


def read_images(table: pathlib.Path) -> Images:
    """Read the images of a table.

    Args:
        table: rows (.csv, .tsv, .parquet, .jsonl) with the columns person (pid) and split (query
            or gallery; train is left out) and, optionally, camera (camid), time, and path, of the
            images, for pictures. People and cameras are words or integers; an empty cell is
            unknown; person -1 is junk and left out.

    Raises:
        OSError: it cannot be read.
        ValueError: it has another content than expected; the message gives the reason.
    """
    path, rows, messages = read_cells(table, ("person", "split"))
    photos = []
    for number, row in enumerate(rows, 1):
        name = text_of(row.get("path")) or f"row {number}"
        photo = photo_of(row, path.parent / text_of(row.get("path")), name, f"{path}, row {number}")
        photos.append(photo._replace(split=SPLITS.get(photo.split, "")))
    if wrong := [
        photo.name for photo in photos if photo.split not in ("query", "gallery", "train")
    ]:
        raise ValueError(
            f"{path}: images whose split is neither query nor gallery: {len(wrong)} "
            f"({some(wrong)}). Divide them: query for images to search for, gallery for others."
        )
    if unknown := [p.name for p in photos if p.split == "query" and not p.person]:
        raise ValueError(
            f"{path}: queries without a person: {len(unknown)} ({some(unknown)}). Expected such "
            "images in the gallery alone."
        )
    rows_of = {
        split: [i for i, p in enumerate(photos) if p.split == split]
        for split in ("query", "gallery")
    }
    places = {
        split: [i for i in of_split if photos[i].person != JUNK]
        for split, of_split in rows_of.items()
    }
    chosen = [*places["query"], *places["gallery"]]
    if not all(places.values()):
        counts = ", ".join(f"{split} {len(held)}" for split, held in places.items())
        raise ValueError(f"{path}: images by split: {counts}; expected one or more in each.")
    if len(chosen) < len(photos):
        messages.append(
            f"{path}: {len(photos) - len(chosen)} of {len(photos)} rows are of split train or of "
            "person -1, and are left out."
        )
    photos = by_value([photos[i] for i in chosen])
    people = numbers_of((photo.person for photo in photos), True, first=1)
    cameras = numbers_of((photo.camera for photo in photos), True, first=0)
    names = [photo.name for photo in photos]
    splits = splits_of(
        names,
        [str(photo.image) for photo in photos] if "path" in rows[0] else None,
        len(places["query"]),
        pid=np.array([people[photo.person] for photo in photos], np.int64),
        camid=np.array([cameras[photo.camera] for photo in photos], np.int64),
        time=np.array([photo.time for photo in photos]),
        # Of the names: one image under two cameras is found as a double.
        digest=np.array([_digest(name.encode("utf-8", "surrogateescape")) for name in names]),
        origins=(Origin(path.stem, place=str(path)),),
    )
    return Images(path, len(rows), *places.values(), splits, rows_of, messages)


def _array(path: pathlib.Path, name: str) -> np.ndarray:
    arrays = read_arrays(path)
    if name not in arrays:
        raise ValueError(f"{path} holds no array that is called {name}; expected one.")
    return arrays[name]


def _around(images: Images, held: np.ndarray) -> dict[str, Any]:
    """Return the fields of `Stored`."""
    query, gallery = images.chosen
    return {
        "name": images.path.stem,
        "query": query,
        "gallery": gallery,
        "model": {"model_digest": _of_array(held)},
        "settings": {"flip": False, "dtype": "float32"},
    }


def _rows(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return rows; all of them in their order need no copy."""
    whole = np.array_equal(chosen, np.arange(len(values)))
    return np.asarray(values if whole else values[chosen])


def _digest(name: bytes) -> np.uint64:
    return np.frombuffer(hashlib.blake2b(name, digest_size=8).digest(), "<u8")[0]


def _of_array(values: np.ndarray) -> str:
    whole = hashlib.sha256(str(values.shape).encode())
    for _, block in blocks_of(values):
        whole.update(np.ascontiguousarray(block))
    return whole.hexdigest()[:8]
