"""Features or scores of a test set in a file, with all that an evaluation needs beside a matcher.

    write_stored(path, stored)
    stored = read_stored(path, StoredFeatures)

A file (.safetensors, or .npz of NumPy, uncompressed) holds one row for each image, those of the
queries first: `features` [N, ...], `pid`, `camid`, `time` (seconds; NaN if unknown), `digest` (of
the image files), and a text `about`, in JSON: names and paths of the images, the number of queries,
the model. In place of the features it may hold `scores` [Q, G]. Anybody may have written it: it is
checked, and takes no more memory than its size.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp
import numpy as np
import safetensors

from jaxreid.data.images.on_disk import ImageFiles, chained
from jaxreid.data.split import Origin, Split
from jaxreid.runs.files import replacing
from jaxreid.weights.cards import model_of

SUFFIXES = (".safetensors", ".npz")
# Settings of `eval` that belong to the features, or to the protocol of their evaluation.
SETTINGS = {
    "flip": bool,
    "dtype": str,
    "precision": str,
    "junk": str,
    "average_precision": str,
}
_KINDS = ("features", "scores")
# Kinds of the numbers of each array beside them, and their type in the file.
_COLUMNS = {"pid": "<i8", "camid": "<i8", "time": "<f8", "digest": "<u8"}
_TYPES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "<i8": "I64", "<u8": "U64"}
# Feature values looked at together: 64 MiB.
_BLOCK = 2**24


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Stored:
    """A test set, and the model behind its features or scores.

    Attributes:
        name: name of the test set.
        query: Q images. Those of a file are read by their paths; without paths, none can be.
        gallery: G images.
        card: model, as keywords of `make_model`; None if unknown.
        model: what rows of results say of the model: "model_digest", "parameters".
        step: number of updates of the model; None for a weights file, or if unknown.
        settings: settings of `eval` (`SETTINGS`) that they were computed with.
    """

    name: str
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


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StoredFeatures(Stored):
    """Features of a test set.

    Attributes:
        features: [Q + G, ...] float, of the queries, then of the gallery.
    """

    features: np.ndarray

    kind: ClassVar[str] = "features"

    def with_scores(self, scores: np.ndarray) -> "StoredScores":
        """Return the scores [Q, G] of the features, which take their place."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Stored)}
        return StoredScores(**fields, scores=scores)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StoredScores(Stored):
    """Scores of a test set.

    Attributes:
        scores: [Q, G] float; larger is more similar.
    """

    scores: np.ndarray

    kind: ClassVar[str] = "scores"

    @property
    def features(self) -> np.ndarray:
        """[Q + G] int, for `GivenScores`: rows of the queries, then columns of the gallery."""
        return np.concatenate([np.arange(len(self.query)), np.arange(len(self.gallery))])


Kind = TypeVar("Kind", StoredFeatures, StoredScores)


def write_stored(path: pathlib.Path, stored: StoredFeatures | StoredScores) -> None:
    """Write a file that `read_stored` reads.

    bfloat16, which other programs rarely know, is written as float32.

    Raises:
        ValueError: the suffix is another.
        OSError: it cannot be written; an old file is still there.
    """
    check_suffix(path)
    query, gallery = stored.query, stored.gallery
    values = np.ascontiguousarray(getattr(stored, stored.kind))
    if values.dtype == jnp.bfloat16:
        values = values.astype(np.float32)
    arrays = {stored.kind: values} | {
        name: np.concatenate([_column(query, name), _column(gallery, name)]).astype(kind)
        for name, kind in _COLUMNS.items()
    }
    images = chained([query.image, gallery.image])
    about = {
        "format": _format(stored.kind),
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


def read_stored(path: pathlib.Path, kind: type[Kind]) -> Kind:
    """Read a file of `write_stored`.

    Args:
        path: the file.
        kind: `StoredFeatures` or `StoredScores`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is something else, incomplete or damaged; the message says what.
    """
    arrays = read_arrays(path)
    try:
        return _stored(arrays, path, kind)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        name = kind.kind
        raise ValueError(
            f"{path} does not hold the {name} of a test set ({_format(name)!r}): {reason}. Write "
            f"it with jaxreid evaluate RUN --save-{name}=FILE, or name a table of the images of "
            f"your own {name}: --table=FILE.csv."
        ) from error


def _format(kind: str) -> str:
    return f"jaxreid {kind} 1"


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


def check_scores(scores: np.ndarray, queries: int, images: int) -> None:
    """Raise ValueError unless scores are finite, [queries, images] and floating-point."""
    if scores.shape != (queries, images):
        raise ValueError(
            f"scores are {list(scores.shape)}; expected [{queries}, {images}], one row for each "
            "query and one column for each image of the gallery"
        )
    if scores.dtype.kind != "f":
        raise ValueError(f"scores are {scores.dtype}; expected floating-point numbers")
    for first, block in blocks_of(scores):
        if not np.isfinite(block).all():
            row = first + int(np.flatnonzero(~np.isfinite(block).all(1))[0])
            raise ValueError(f"the scores of row {row} hold NaN or infinity")


def blocks_of(features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, rows) of features, some at a time."""
    step = max(1, _BLOCK // max(1, features[:1].size))
    for first in range(0, len(features), step):
        yield first, features[first : first + step]


def _read_npy(path: pathlib.Path) -> dict[str, Any]:
    return dict.fromkeys(_KINDS, np.load(path, mmap_mode="r", allow_pickle=False))


def _read_npz(path: pathlib.Path) -> dict[str, Any]:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        arrays = {}
        for name in (*_KINDS, *_COLUMNS, "about"):
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
        arrays = {n: file.get_tensor(n) for n in (*_KINDS, *_COLUMNS) if n in held}
        metadata = file.metadata() or {}
    return arrays | ({"about": metadata["about"]} if "about" in metadata else {})


def _stored(arrays: Mapping[str, Any], path: pathlib.Path, kind: type[Kind]) -> Kind:
    """Check what a file holds."""
    about = json.loads(arrays["about"])
    if not isinstance(about, dict) or about.get("format") != _format(kind.kind):
        others = [
            name
            for name in _KINDS
            if isinstance(about, dict) and _format(name) == about.get("format")
        ]
        if others:
            raise ValueError(f"it holds {others[0]}: evaluate it with --{others[0]}=FILE")
        raise ValueError("it does not say so")
    names, paths, queries = about["names"], about["paths"], about["queries"]
    if not _texts(names) or not (paths is None or (_texts(paths) and len(paths) == len(names))):
        raise ValueError("names or paths are not a text for each image")
    if type(queries) is not int or not 0 < queries < len(names):
        raise ValueError(f"{queries!r} is not a number of queries among {len(names)} images")
    values = arrays[kind.kind]
    if kind is StoredFeatures:
        check_features(values, len(names))
    else:
        check_scores(values, queries, len(names) - queries)
    for name, dtype in _COLUMNS.items():
        if arrays[name].shape != (len(names),) or arrays[name].dtype != dtype:
            raise ValueError(f"{name} is not one {np.dtype(dtype)} for each image")
    columns = {name: arrays[name] for name in _COLUMNS}
    if about["sha256"] != _digest({kind.kind: values} | columns):
        raise ValueError("it is damaged, or was changed after it was written (sha256)")
    origin = about["origin"]
    origins = (Origin(*origin),) if _texts(origin) and len(origin) == 3 else ()
    query, gallery = splits_of(names, paths, queries, origins=origins, **columns)
    if about["card"] is not None:
        model_of(about["card"], path)
    settings = {name: about["settings"][name] for name in about["settings"] if name in SETTINGS}
    if any(type(value) is not SETTINGS[name] for name, value in settings.items()):
        raise ValueError("settings are of another type")
    if settings.get("dtype") == "bfloat16" and kind is StoredFeatures:
        values = values.astype(jnp.bfloat16)
    model = {
        name: about["model"][name]
        for name, of_type in (("model_digest", str), ("parameters", int))
        if type(about["model"].get(name)) is of_type
    }
    step = about["step"]
    if step is not None and (type(step) is not int or step < 0):
        raise ValueError(f"{step!r} is not a number of updates")
    if not isinstance(about["set"], str) or not about["set"].isprintable():
        raise ValueError("the name of the test set is not a line of text")
    return kind(
        name=about["set"],
        query=query,
        gallery=gallery,
        card=about["card"],
        model=model,
        step=step,
        settings=settings,
        **{kind.kind: values},
    )


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
