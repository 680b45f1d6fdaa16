"""Description of an index: its model, the form of its features on disk, and its measured recall."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxreid.index.encoding import (
    DTYPES,
    decode,
    encode,
    pooled,
    pooled_scores,
    pooled_shape,
    vectors,
)
from jaxreid.names import check_name
from jaxreid.reid.loaded import ReID

FORMAT = "jaxreid index 2"
# Images that are scored exactly for a query, until it has been measured how many it takes.
SHORTLIST = 400
# Images whose pooled maps are compared at once: these fit into a processor's cache.
_COMPARED = 256
# Values of one image's features; the largest published maps have 500,000.
_MOST = 2**24


@dataclasses.dataclass(frozen=True)
class About:
    """Description of an index.

    Attributes:
        model: place that the model was loaded from.
        digest: of the model, by `model_digest`.
        shape: shape of one image's features, [h, w, d] or [d].
        unit: embeddings are compared by their angles.
        dtype: dtype of the features on disk, one of `DTYPES`.
        shortlist: images that are scored exactly for a query.
        recall: measured share of the exactly best ten that are found, by length of the shortlist.
        measured: queries, images that they were compared with, and images in the index then.
    """

    model: str
    digest: str
    shape: tuple[int, ...]
    unit: bool
    dtype: str
    shortlist: int = SHORTLIST
    recall: Mapping[int, float] = dataclasses.field(default_factory=dict)
    measured: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, which `read_about` reads."""
        recall = {str(length): share for length, share in self.recall.items()}
        return {"format": FORMAT, **dataclasses.asdict(self), "recall": recall}

    @property
    def is_map(self) -> bool:
        """Whether features are maps. The vector of an embedding stands for it."""
        return len(self.shape) == 3

    @property
    def layout(self) -> dict[str, int]:
        """Length of the vector, and bytes of a map and of its pooled one."""
        content = self.content(np.zeros((1, *self.shape), np.float32))
        return {name: values.shape[1] for name, values in content.items()}

    def vectors(self, features: np.ndarray) -> np.ndarray:
        """Return the vectors [n, dim] of features [n, ...]."""
        return vectors(features, unit=self.unit)

    def content(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return features [n, ...] as columns of an index.

        Returns:
            "vector", [n, dim] float16; for maps also "pooled" and "feature", [n, bytes] uint8.
        """
        content = {"vector": self.vectors(features)}
        if self.is_map:
            content["pooled"] = encode(pooled(features), "int8")
            content["feature"] = encode(features, self.dtype)
        return content

    def pooled_scores(self, query: np.ndarray, content: np.ndarray) -> np.ndarray:
        """Return how alike a map [h, w, d] and pooled ones, [n, bytes] uint8, are: [n]."""
        shape, (small,) = pooled_shape(self.shape), pooled(query[None])
        parts = (content[first : first + _COMPARED] for first in range(0, len(content), _COMPARED))
        scores = [pooled_scores(small, decode(part, shape, "int8")) for part in parts]
        return np.concatenate([np.zeros(0, np.float32), *scores])

    def decode(self, content: np.ndarray) -> np.ndarray:
        """Return the features [n, ...] float32 of rows: of `Rows.feature`, vectors or bytes."""
        if content.dtype == np.float16:
            return content.astype(np.float32)
        return decode(content, self.shape, self.dtype)


def about_model(reid: ReID, dtype: str | None) -> About:
    """Describe an empty index for a model.

    Args:
        reid: the model.
        dtype: dtype of feature maps on disk; None for int8. Embeddings are float16.

    Raises:
        ValueError: its features cannot be of this dtype.
    """
    shape = reid.feature_shape
    is_map = len(shape) == 3
    kind = dtype or ("int8" if is_map else "float16")
    check_name(kind, DTYPES if is_map else DTYPES[:1], "dtype")
    unit = not is_map and getattr(reid.model.matcher, "metric", "") == "cosine"
    return About(os.path.abspath(reid.path or ""), model_digest(reid), shape, unit, kind)


def read_about(held: Any, place: str) -> About:
    """Check the description of an index.

    Raises:
        ValueError: it is of another version, or not of the form of `About.as_dict`.
    """
    held = held if isinstance(held, dict) else {}
    if (version := held.get("format")) != FORMAT:
        raise ValueError(
            f"index {place} has the format {version!r}; expected {FORMAT!r}. Create it again, or "
            "use the version of jaxreid that made it."
        )
    try:
        return _checked({key: value for key, value in held.items() if key != "format"})
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"index {place} has an unreadable description ({error}): it is damaged. Restore it "
            "from a copy, or create it again."
        ) from error


def _checked(held: dict[str, Any]) -> About:
    recall = {int(length): float(share) for length, share in held.pop("recall").items()}
    measured = {str(key): int(value) for key, value in held.pop("measured").items()}
    about = About(**held, recall=recall, measured=measured)
    shape = tuple(about.shape)
    if len(shape) not in (1, 3) or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"shape {about.shape}")
    if math.prod(shape) > _MOST or about.dtype not in DTYPES:
        raise ValueError(f"shape {shape}, dtype {about.dtype!r}")
    if not (type(about.shortlist) is int and 0 < about.shortlist <= 10**6):
        raise ValueError(f"shortlist {about.shortlist!r}")
    if not (isinstance(about.model, str) and isinstance(about.digest, str)):
        raise ValueError("model")
    return dataclasses.replace(about, shape=shape, unit=bool(about.unit))


def model_digest(reid: ReID) -> str:
    """Return 16 hexadecimal digits that change with any weight, size or option of a model."""
    digest = hashlib.sha256(json.dumps(reid.card, sort_keys=True, default=list).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(reid.variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
