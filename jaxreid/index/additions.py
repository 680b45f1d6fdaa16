"""Additions to an index: new images as features with columns, some at a time."""

import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxreid.data.images.pillow import ImageSource, read_image
from jaxreid.index.conditions import seconds
from jaxreid.index.reading import COLUMNS
from jaxreid.names import check_name
from jaxreid.reid.hits import name_of
from jaxreid.reid.loaded import LONG, ReID
from jaxreid.runs.log import progress

# Images that become one addition, and images embedded at once.
COMMIT, CHUNK = 1024, 128
# Features that are given cost nothing to give again: more of them become one addition, up to these
# numbers of images and bytes. Fewer parts are merged less often.
_MOST, _BYTES = 16_384, 1 << 27

# Features [n, ...], and a list of n cells for each column; None where unknown.
Addition = tuple[np.ndarray, dict[str, list]]

# Conversion of a known cell of metadata.
_CONVERT: Mapping[str, Callable[[Any], Any]] = {
    "id": str,
    "path": os.fspath,
    "camera": str,
    "time": seconds,
    "person": str,
}


def columns_of(metadata: Mapping[str, Any], count: int) -> dict[str, list]:
    """Return metadata as `count` cells for each column; None where unknown.

    Args:
        metadata: as for `Index.add`.
        count: number of images.

    Raises:
        ValueError: it does not fit.
    """
    columns: dict[str, list] = {key: [None] * count for key in COLUMNS}
    for key, value in metadata.items():
        check_name(key, COLUMNS, "metadata")
        single = (
            value is None or isinstance(value, str | os.PathLike) or not hasattr(value, "__len__")
        )
        cells = [value] * count if single else list(value)
        if len(cells) != count:
            raise ValueError(
                f"metadata {key!r} has {len(cells)} values for {count} images; expected one for "
                "each, or one for all."
            )
        if key == "id" and single and count > 1 and value is not None:
            raise ValueError("metadata 'id' is one for all; expected one for each image.")
        columns[key] = [None if _unknown(cell) else _CONVERT[key](cell) for cell in cells]
    return columns


def of_images(
    reid: ReID, sources: Sequence[ImageSource], columns: Mapping[str, list], known: set[str]
) -> Iterator[Addition]:
    """Yield images whose ids are not known, with features.

    Args:
        reid: model.
        sources: images, as for `ReID.embed`.
        columns: their metadata, as `columns_of` returns it.
        known: ids; those of the images are added.
    """
    features, held = [], []
    with progress("index", total=len(sources), least=LONG) as bar:
        for first in range(0, len(sources), CHUNK):
            chunk, rows, names = [], [], []
            for i in range(first, min(first + CHUNK, len(sources))):
                source = sources[i]
                name = name_of(source, i)
                content, digest = _read(source, name)
                row = {key: cells[i] for key, cells in columns.items()}
                row["id"] = row["id"] or digest
                if isinstance(source, str | os.PathLike):
                    row["path"] = row["path"] or os.path.abspath(source)
                if row["id"] not in known:
                    known.add(row["id"])
                    chunk.append(content)
                    rows.append(row)
                    names.append(name)
            if chunk:
                features.append(reid.embed(chunk, names=names))
                held += rows
            bar.update(min(CHUNK, len(sources) - first))
            if held and (len(held) >= COMMIT or first + CHUNK >= len(sources)):
                yield np.concatenate(features), _turned(held)
                features, held = [], []


def of_features(
    features: np.ndarray, columns: Mapping[str, list], known: set[str]
) -> Iterator[Addition]:
    """Yield features whose ids are not known; arguments as for `of_images`."""
    at_once = max(COMMIT, min(_MOST, _BYTES * len(features) // max(features.nbytes, 1)))
    for first in range(0, len(features), at_once):
        kept, held = [], []
        for i in range(first, min(first + at_once, len(features))):
            row = {key: cells[i] for key, cells in columns.items()}
            row["id"] = row["id"] or digest_of(np.ascontiguousarray(features[i]).tobytes())
            if row["id"] not in known:
                known.add(row["id"])
                kept.append(i)
                held.append(row)
        if kept:
            yield features[kept], _turned(held)


def digest_of(content: bytes) -> str:
    """Return the default id of an image: the digest of its file, its pixels or its features."""
    return hashlib.sha256(content).hexdigest()[:32]


def _unknown(cell: Any) -> bool:
    return cell is None or cell == "" or cell != cell  # NaN


def _turned(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def _read(source: ImageSource, name: str) -> tuple[ImageSource, str]:
    """Return an image, read if it is a file, and the digest of its bytes or pixels."""
    if isinstance(source, str | os.PathLike):
        try:
            source = pathlib.Path(source).read_bytes()
        except OSError as error:
            raise type(error)(
                f"cannot read image {name}: {error.strerror}; expected the path of an image file"
            ) from error
    if isinstance(source, bytes):
        return source, digest_of(source)
    pixels = read_image(source, name)
    return pixels, digest_of(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes())
