"""Features of a test set in a file, with all that an evaluation needs beside a matcher.

    write_features(path, stored)
    stored = read_features(path)

A file (.safetensors, or .npz of NumPy, uncompressed) holds one row for each image, those of the
queries first: `features` [N, ...], `pid`, `camid`, `time` (seconds; NaN if unknown), `digest` (of
the image files), and a text `about`, in JSON: names and paths of the images, the number of queries,
the model. Anybody may have written it: it is checked, and takes no more memory than its size.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from jaxreid.data.images.on_disk import ImageFiles, chained
from jaxreid.data.split import Origin, Split
from jaxreid.runs.files import replacing
from jaxreid.weights.cards import model_of

FORMAT = "jaxreid features 1"
SUFFIXES = (".safetensors", ".npz")
# Settings of `eval` that belong to the features, or to the protocol of their evaluation.
SETTINGS = {
    "flip": bool,
    "dtype": str,
    "precision": str,
    "junk": str,
    "average_precision": str,
}
# Kinds of the numbers of each array beside `features`, and their type in the file.
_COLUMNS = {"pid": "<i8", "camid": "<i8", "time": "<f8", "digest": "<u8"}
_TYPES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "<i8": "I64", "<u8": "U64"}
# Feature values looked at together: 64 MiB.
_BLOCK = 2**24


@dataclasses.dataclass(frozen=True, eq=False)
class StoredFeatures:
    """Features of a test set, and what they are of.

    Attributes:
        name: name of the test set.
        features: [Q + G, ...] float, of the queries, then of the gallery.
        query: Q images. Those of a file are read by their paths; without paths, none can be.
        gallery: G images.
        card: model, as keywords of `make_model`; None if unknown.
        model: what rows of results say of the model: "model_digest", "parameters".
        step: number of updates of the model; None for a weights file, or if unknown.
        settings: settings of `eval` (`SETTINGS`) that the features were computed with.
    """

    name: str
    features: np.ndarray
    query: Split
    gallery: Split
    card: Mapping[str, Any] | None = None
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: int | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits "query" and "gallery"."""
        return {"query": self.query, "gallery": self.gallery}

    @property
    def pictured(self) -> bool:
        """Whether all images can be looked at."""
        return all(
            not isinstance(split.image, ImageFiles) or all(map(os.path.isfile, split.image.paths))
            for split in (self.query, self.gallery)
        )


def write_features(path: pathlib.Path, stored: StoredFeatures) -> None:
    """Write a file that `read_features` reads.

    bfloat16, which other programs rarely know, is written as float32.

    Raises:
        ValueError: the suffix is another.
        OSError: it cannot be written; an old file is still there.
    """
    check_suffix(path)
    query, gallery = stored.query, stored.gallery
    features = np.ascontiguousarray(stored.features)
    if features.dtype == jnp.bfloat16:
        features = features.astype(np.float32)
    arrays = {"features": features} | {
        name: np.concatenate([_column(query, name), _column(gallery, name)]).astype(kind)
        for name, kind in _COLUMNS.items()
    }
    images = chained([query.image, gallery.image])
    about = {
        "format": FORMAT,
        "set": stored.name,
        "queries": len(query),
        "names": [*query.name, *gallery.name],
        "paths": images.paths if isinstance(images, ImageFiles) else None,
        "origin": dataclasses.astuple(query.origins[0]) if query.origins else None,
        "card": stored.card,
        "model": dict(stored.model),
        "step": stored.step,
        "settings": dict(stored.settings),
        "sha256": _digest(arrays),
    }
    text = json.dumps(about)
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


def read_features(path: pathlib.Path) -> StoredFeatures:
    """Read a file of `write_features`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is something else, incomplete or damaged; the message says what.
    """
    arrays = read_arrays(path)
    try:
        return _stored(arrays, path)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path} does not hold the features of a test set ({FORMAT!r}): {reason}. Write it "
            "with jaxreid evaluate RUN --save-features=FILE, or name a table of the images of "
            "your own features: --table=FILE.csv."
        ) from error


def read_arrays(path: pathlib.Path) -> dict[str, Any]:
    """Read the arrays of a file: `features`, those beside it, and the text `about` if it has them.

    A .npy file is `features` alone, which stay on the disk.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it cannot be read, is of another kind, or damaged.
    """
    check_suffix(path, (*SUFFIXES, ".npy"))
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected features ({', '.join(SUFFIXES)}, .npy).")
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
    """Raise ValueError if the suffix of a file of features is another."""
    if path.suffix not in suffixes:
        raise ValueError(f"{path} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}.")


def check_features(features: np.ndarray, count: int) -> None:
    """Raise ValueError unless features are finite, [count, ...] and floating-point."""
    if features.ndim not in (2, 4) or len(features) != count or 0 in features.shape:
        raise ValueError(
            f"features are {list(features.shape)}; expected one row for each of the {count} "
            f"images, [{count}, d] or [{count}, h, w, d]"
        )
    if features.dtype.kind != "f":
        raise ValueError(f"features are {features.dtype}; expected floating-point numbers")
    for first, block in blocks_of(features):
        if not np.isfinite(block).all():
            row = first + int(np.flatnonzero(~np.isfinite(block.reshape(len(block), -1)).all(1))[0])
            raise ValueError(f"the features of row {row} hold NaN or infinity")


def blocks_of(features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, rows) of features, some at a time."""
    step = max(1, _BLOCK // max(1, features[:1].size))
    for first in range(0, len(features), step):
        yield first, features[first : first + step]


def _read_npy(path: pathlib.Path) -> dict[str, Any]:
    return {"features": np.load(path, mmap_mode="r", allow_pickle=False)}


def _read_npz(path: pathlib.Path) -> dict[str, Any]:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        arrays = {}
        for name in ("features", *_COLUMNS, "about"):
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
                    raise ValueError(f"{name} is not as large as it says, or holds Python objects")
            with archive.open(info) as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    if "about" in arrays:
        arrays["about"] = str(arrays["about"])
    return arrays


def _read_safetensors(path: pathlib.Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="numpy") as file:
        # The library compares the sizes that it claims with that of the file.
        held = set(file.keys())
        arrays = {n: file.get_tensor(n) for n in ("features", *_COLUMNS) if n in held}
        metadata = file.metadata() or {}
    return arrays | ({"about": metadata["about"]} if "about" in metadata else {})


def _stored(arrays: Mapping[str, Any], path: pathlib.Path) -> StoredFeatures:
    """Check what a file holds."""
    about = json.loads(arrays["about"])
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError("it does not say so")
    names, paths, queries = about["names"], about["paths"], about["queries"]
    if not _texts(names) or not (paths is None or (_texts(paths) and len(paths) == len(names))):
        raise ValueError("names or paths are not a text for each image")
    if type(queries) is not int or not 0 < queries < len(names):
        raise ValueError(f"{queries!r} is not a number of queries among {len(names)} images")
    features = arrays["features"]
    check_features(features, len(names))
    for name, kind in _COLUMNS.items():
        if arrays[name].shape != (len(names),) or arrays[name].dtype != kind:
            raise ValueError(f"{name} is not one {np.dtype(kind)} for each image")
    columns = {name: arrays[name] for name in _COLUMNS}
    if about["sha256"] != _digest({"features": features} | columns):
        raise ValueError("it is damaged, or was changed after it was written (sha256)")
    origin = about["origin"]
    origins = (Origin(*origin),) if _texts(origin) and len(origin) == 3 else ()
    query, gallery = splits_of(names, paths, queries, origins=origins, **columns)
    if about["card"] is not None:
        model_of(about["card"], path)
    settings = {name: about["settings"][name] for name in about["settings"] if name in SETTINGS}
    if any(type(value) is not SETTINGS[name] for name, value in settings.items()):
        raise ValueError("settings are of another type")
    if settings.get("dtype") == "bfloat16":
        features = features.astype(jnp.bfloat16)
    model = {
        name: about["model"][name]
        for name, kind in (("model_digest", str), ("parameters", int))
        if type(about["model"].get(name)) is kind
    }
    step = about["step"]
    if step is not None and (type(step) is not int or step < 0):
        raise ValueError(f"{step!r} is not a number of updates")
    if not isinstance(about["set"], str) or not about["set"].isprintable():
        raise ValueError("the name of the test set is not a line of text")
    card = about["card"]
    return StoredFeatures(about["set"], features, query, gallery, card, model, step, settings)


def splits_of(
    names: list[str],
    paths: list[str] | None,
    queries: int,
    *,
    pid: np.ndarray,
    camid: np.ndarray,
    time: np.ndarray,
    digest: np.ndarray,
    origins: tuple[Origin, ...] = (),
) -> tuple[Split, Split]:
    """Return N images, the first `queries` of them queries, as two splits.

    Images are read by `paths` when they are asked for; None if they are not known. The other
    arguments are those of `Split`; `digest` is [N] uint64.

    Raises:
        ValueError: a person or a camera is not a 32-bit integer.
    """
    count = len(names)
    files = paths if paths is not None else [""] * count
    images = ImageFiles(files, digest, np.zeros(count, bool), np.zeros((count, 2), np.int32))
    whole = Split(image=images, name=names, pid=pid, camid=camid, time=time, origins=origins)
    whole = dataclasses.replace(whole, pid=pid.astype(np.int32), camid=camid.astype(np.int32))
    return whole.take(np.arange(queries)), whole.take(np.arange(queries, count))


def _column(split: Split, name: str) -> np.ndarray:
    return split.digests if name == "digest" else getattr(split, name)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the sha256 of arrays: their names, types, shapes and bytes."""
    whole = hashlib.sha256()
    for name, array in arrays.items():
        whole.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        for _, block in blocks_of(array):
            whole.update(np.ascontiguousarray(block).view(np.uint8).reshape(-1))
    return whole.hexdigest()
