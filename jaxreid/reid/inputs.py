"""Model inputs: people cut out of a frame, warnings about whole frames, features."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxreid.data.images.pillow import ImageSource, read_image, size_of
from jaxreid.data.sets.files import some
from jaxreid.frames.crops import cut_boxes
from jaxreid.reid.hits import listed, name_of

logger = logging.getLogger(__name__)


def people_in(
    images: ImageSource | Sequence[ImageSource], xyxy: Any, names: Sequence[str] | None
) -> tuple[list[ImageSource], Sequence[str]]:
    """Return images of people with their names; arguments as for `ReID.embed`.

    Without boxes, a warning is logged where images are wider than high.

    Raises:
        ValueError, OSError: as `ReID.embed`.
    """
    images = listed(images)
    if xyxy is not None:
        if len(images) != 1:
            raise ValueError(
                f"got boxes and {len(images)} images; expected the frame of the boxes."
            )
        images = [*cut_boxes(read_image(images[0]), xyxy)]
        return images, names or [f"box {i}" for i in range(len(images))]
    if not images:
        raise ValueError("no images: expected at least one path, PIL image or uint8 array.")
    names = names or [name_of(image, i) for i, image in enumerate(images)]
    _warn_of_frames(images, names)
    return images, names


def checked_features(features: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return features of at least one image.

    Raises:
        ValueError: they are not [N, *shape], floating-point and finite.
    """
    features = np.asarray(features)
    if features.shape[1:] != shape or not len(features):
        raise ValueError(
            f"features are {list(features.shape)}; expected [N, "
            f"{', '.join(map(str, shape))}], as embed returns them, with N at least 1."
        )
    if features.dtype.kind not in "fV" or not np.isfinite(features.astype(np.float32)).all():
        raise ValueError(
            f"features are {features.dtype}, or not all finite; expected finite floating-point "
            "numbers, as embed returns them. Look for NaN and infinity with np.isfinite."
        )
    return features


def _warn_of_frames(images: Sequence[ImageSource], names: Sequence[str]) -> None:
    """Log a warning about images that are wider than high, as frames are and people seldom."""
    sizes = zip(names, map(size_of, images), strict=False)
    wide = [name for name, size in sizes if size is not None and size[1] > size[0]]
    if wide:
        logger.warning(
            "warning: wider than high, so perhaps whole frames: %d of %d images (%s). A model "
            "compares people cut out of frames: jaxreid crop, or embed(frame, xyxy=boxes).",
            len(wide),
            len(images),
            some(wide),
        )
