"""Features from elsewhere: an array of NumPy, and a table with one row for each of its rows.

    person,camera,split,path,time
    12,1,query,photos/0001.jpg,0.5

Only person and split are needed.
"""

import hashlib
import pathlib

import numpy as np

from jaxreid.data.sets.division import JUNK, SPLITS, by_value, numbers_of
from jaxreid.data.sets.files import some
from jaxreid.data.sets.table import photo_of, read_cells, text_of
from jaxreid.data.split import Origin
from jaxreid.evaluation.feature_file import (
    StoredFeatures,
    blocks_of,
    check_features,
    read_arrays,
    splits_of,
)


def read_table(features: pathlib.Path, table: pathlib.Path) -> tuple[StoredFeatures, list[str]]:
    """Read features from elsewhere.

    Args:
        features: a .npy file of [N, d] or [N, h, w, d] floating-point numbers, or a .npz or
            .safetensors file that calls them `features`.
        table: N rows (.csv, .tsv, .parquet, .jsonl) with the columns person (pid) and split (query
            or gallery; others are left out) and, optionally, camera (camid), time, and path, of the
            images, for pictures. People and cameras are words or integers; an empty cell is
            unknown; person -1 is junk and left out.

    Returns:
        The features, float32, of the images of the test, and messages for the user.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is not what was expected; the message says what.
    """
    path, rows, messages = read_cells(table, ("person", "split"))
    arrays = read_arrays(features)
    if "features" not in arrays:
        raise ValueError(f"{features} holds no array that is called features; expected one.")
    try:
        check_features(arrays["features"], len(rows))
    except ValueError as error:
        raise ValueError(f"{features}: {error}, as many as {path} has rows.") from error
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
    places = {
        split: [i for i, p in enumerate(photos) if p.split == split and p.person != JUNK]
        for split in ("query", "gallery")
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
    query, gallery = splits_of(
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
    held = _rows(arrays["features"], np.array(chosen))
    model = {"model_digest": _of_features(held)}
    settings = {"flip": False, "dtype": "float32"}
    stored = StoredFeatures(path.stem, held, query, gallery, model=model, settings=settings)
    return stored, messages


def _rows(features: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return rows as float32; all of them in their order need no copy."""
    whole = np.array_equal(chosen, np.arange(len(features)))
    return np.asarray(features if whole else features[chosen], np.float32)


def _digest(name: bytes) -> np.uint64:
    return np.frombuffer(hashlib.blake2b(name, digest_size=8).digest(), "<u8")[0]


def _of_features(features: np.ndarray) -> str:
    whole = hashlib.sha256(str(features.shape).encode())
    for _, block in blocks_of(features):
        whole.update(np.ascontiguousarray(block))
    return whole.hexdigest()[:8]
