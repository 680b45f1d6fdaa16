"""Pictures of activation maps, each beside its image."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxreid.data.images.pillow import ImageSource, read_image
from jaxreid.pictures.canvas import CAPTION, Canvas, grid
from jaxreid.pictures.matches import RAMP

GAP, MARGIN = 16, 16
# Images with their maps in a row.
PER_ROW = 4
# Share of colour over the image, where a map is 0 and where it is 1.
COVER = 0.15, 0.75


def activation_picture(
    images: Sequence[ImageSource],
    maps: np.ndarray,
    titles: Sequence[str],
    *,
    size: tuple[int, int],
) -> Image.Image:
    """Draw N images with maps [N, h, w] in [0, 1] over them, from yellow (weak) to red (strong).

    `size` is the width and height of an image in the picture.
    """
    width, height = size
    step = 2 * width + 2 * GAP, height + CAPTION + GAP
    columns = min(len(images), PER_ROW)
    rows = -(-len(images) // PER_ROW)
    canvas = Canvas((2 * MARGIN + columns * step[0], 2 * MARGIN + rows * step[1]))
    corners = grid(len(images), columns, step, (MARGIN, MARGIN))
    for image, map_, title, (x, y) in zip(images, maps, titles, corners, strict=True):
        canvas.text((x, y), title, 11, width=2 * width)
        canvas.cell((x, y + CAPTION), image, size)
        canvas.cell((x + width + 2, y + CAPTION), covered(image, map_, size), size)
    return canvas.picture()


def covered(image: ImageSource, map_: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image, uint8 [height, width, 3], under the colours of a map [h, w] in [0, 1]."""
    pixels = Image.fromarray(read_image(image)).resize(size, Image.Resampling.BICUBIC)
    layer = Image.fromarray(np.asarray(map_, np.float32)).resize(size, Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(layer), 0, 1)[..., None]
    places = np.linspace(0, 1, len(RAMP))
    colour = np.concatenate(
        [np.interp(share, places, channel) for channel in np.array(RAMP, float).T], axis=-1
    )
    cover = COVER[0] + (COVER[1] - COVER[0]) * share
    return ((1 - cover) * np.asarray(pixels) + cover * colour).round().astype(np.uint8)
