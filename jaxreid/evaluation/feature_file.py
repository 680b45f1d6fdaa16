"""Features or scores of a test set in a file, with all that an evaluation needs besides a matcher.

    write_stored(path, stored)
    stored = read_stored(path, StoredFeatures)

A file (.safetensors, or .npz of NumPy, uncompressed) holds one row for each image, those of the
queries first: `features` [N, ...], `pid`, `camid`, `time` (seconds; NaN if unknown), `digest` (of
the image files), and a text `about`, in JSON: names and paths of the images, the number of queries,
the model. In place of the features it may hold `scores` [Q, G]. Anybody may have written it: it is
checked, and takes no more memory than its size.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp
import numpy as np

from jaxreid.data.images.on_disk import ImageFiles, chained
from jaxreid.data.split import Origin, Split
from jaxreid.evaluation.array_file import (
    COLUMNS,
    KINDS,
    blocks_of,
    check_suffix,
    digest_of,
    read_arrays,
    write_arrays,
)
from jaxreid.weights.cards import model_of

# Settings of `eval` that belong to the features, or to the protocol of their evaluation.
SETTINGS = {
    "flip": bool,
    "dtype": str,
    "precision": str,
    "junk": str,
    "average_precision": str,
}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Stored:
    """A test set, and the model behind its features or scores.

    Attributes:
        name: name of the test set.
        query: Q images. Those of a file are read by their paths; without paths, none can be.
        gallery: G images.
        card: model, as keywords of `make_model`; None if unknown.
        model: entries on the model in rows of results: "model_digest", "parameters".
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
        for name, kind in COLUMNS.items()
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
        "sha256": digest_of(arrays),
    }
    write_arrays(path, arrays, json.dumps(about))


def read_stored(path: pathlib.Path, kind: type[Kind]) -> Kind:
    """Read a file of `write_stored`.

    Args:
        path: the file.
        kind: `StoredFeatures` or `StoredScores`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is something else, incomplete or damaged; the message gives the reason.
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


def check_features(features: np.ndarray, count: int) -> None:
    """Raise ValueError unless features are finite, [count, ...] and floating-point."""
    if features.ndim not in (2, 4) or len(features) != count or 0 in features.shape:
        raise ValueError(
            f"features are {list(features.shape)}; expected one row for each of the {count} "
            f"images, [{count}, d] or [{count}, h, w, d]"
        )
    _check_finite(features, "features")


def check_scores(scores: np.ndarray, queries: int, images: int) -> None:
    """Raise ValueError unless scores are finite, [queries, images] and floating-point."""
    if scores.shape != (queries, images):
        raise ValueError(
            f"scores are {list(scores.shape)}; expected [{queries}, {images}], one row for each "
            "query and one column for each image of the gallery"
        )
    _check_finite(scores, "scores")


def _check_finite(values: np.ndarray, name: str) -> None:
    if values.dtype.kind != "f":
        raise ValueError(f"{name} are {values.dtype}; expected floating-point numbers")
    for first, block in blocks_of(values):
        finite = np.isfinite(block.reshape(len(block), -1)).all(1)
        if not finite.all():
            row = first + int(np.flatnonzero(~finite)[0])
            raise ValueError(f"the {name} of row {row} hold NaN or infinity")


def _stored(arrays: Mapping[str, Any], path: pathlib.Path, kind: type[Kind]) -> Kind:
    """Check the content of a file."""
    about = json.loads(arrays["about"])
    declared = about.get("format") if isinstance(about, dict) else None
    if declared != _format(kind.kind):
        for other in KINDS:
            if declared == _format(other):
                raise ValueError(f"it holds {other}: evaluate it with --{other}=FILE")
        raise ValueError("it does not declare this format")
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
    for name, dtype in COLUMNS.items():
        if arrays[name].shape != (len(names),) or arrays[name].dtype != dtype:
            raise ValueError(f"{name} is not one {np.dtype(dtype)} for each image")
    columns = {name: arrays[name] for name in COLUMNS}
    if about["sha256"] != digest_of({kind.kind: values} | columns):
        raise ValueError("it is damaged, or was changed after it was written (sha256)")
    origins = _origins(about["origin"])
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

    Images are read by `paths` on demand; None if they are not known. The other arguments are those
    of `Split`; `digest` is [N] uint64.

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


def _origins(value: Any) -> tuple[Origin, ...]:
    """Return the origin that a file has, if any; older files have no `numbered_anew`."""
    if not isinstance(value, list) or len(value) not in (3, 4) or not _texts(value[:3]):
        return ()
    return (Origin(*value[:3], numbered_anew=value[3:] == [True]),)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
