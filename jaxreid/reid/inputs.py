"""Images that a model is given: people cut out of a frame, and whole frames that are noticed."""

import logging
from collections.abc import Sequence
from typing import Any

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
