"""The cameras of the four domains, and what their optics and electronics do to a picture."""

import dataclasses
import functools
import io

import numpy as np
from PIL import Image, ImageFilter

from jaxreid.data.synthetic.stream import Stream

Colour = tuple[int, int, int]
PICTURE = (64, 128)  # width, height of the finished picture


@dataclasses.dataclass(frozen=True)
class Camera:
    """One camera: where it hangs, what is in front of it, and how it spoils the picture."""

    at: tuple[int, int]  # metres on the map of the domain
    facing: int  # degrees on this map
    pitch: int  # degrees down
    horizon: int  # row of the scene
    foot: int  # row of the scene where the wall meets the floor
    floor: tuple[str, Colour]
    wall: tuple[str, Colour]
    things: tuple[str, ...]
    light: int  # degrees from the camera to the light
    ambient: int  # light in the shade, 256ths
    gain: Colour  # red, green, blue in 256ths: the colour cast
    curve: float  # > 0 lifts the middle tones, < 0 presses them down
    contrast: int  # 256ths
    lift: int  # black becomes this
    saturation: int  # 256ths
    lines: int  # rows the sensor resolves; below 128 the picture is enlarged
    blur: float  # radius of the lens in pixels
    noise: int  # amplitude
    quality: tuple[int, int]  # of JPEG
    occluders: tuple[str, ...]
    hidden: float  # probability of an occluder
    slop: float  # of the detector's boxes
    shadows: float = 0.0  # probability of a hard edge of shade across the picture


@functools.lru_cache(maxsize=1024)
def _curves(camera: Camera, exposure: int, cast: tuple[int, int, int]) -> np.ndarray:
    """Returns int32 [3, 256], the response of the sensor by channel."""
    gain = np.array(camera.gain, np.float64) * (256 + exposure + np.array(cast)) / 65536
    x = np.arange(256) / 255 * gain[:, None]
    x = x * (1 + camera.curve) / (1 + camera.curve * x)
    x = (x - 0.45) * camera.contrast / 256 + 0.45
    x = camera.lift + x * (255 - camera.lift)
    return np.clip(np.rint(x), 0, 255).astype(np.int32)


def develop(picture: np.ndarray, camera: Camera, visit: Stream, shot: Stream) -> bytes:
    """Turns what is in front of a camera into the JPEG of a detection.

    Args:
        picture: uint8 [256, 128, 3], at twice the final size.
        camera: which camera.
        visit: random numbers of the passage of a person.
        shot: random numbers of this picture.

    Returns:
        JPEG of 128 rows and 64 columns.
    """
    x = np.asarray(Image.fromarray(picture).reduce(2), np.int32)
    x = _illuminate(x, camera, visit)
    grey = (x[..., 0] * 77 + x[..., 1] * 150 + x[..., 2] * 29)[..., None] >> 8
    x = np.clip(grey + ((x - grey) * camera.saturation >> 8), 0, 255)
    exposure = visit.integer(-3, 3) * 7 + shot.integer(-1, 1) * 4
    cast = tuple(visit.integer(-1, 1) * 6 for _ in range(3))
    table = _curves(camera, exposure, cast)
    x = np.stack([table[c][x[..., c]] for c in range(3)], -1)
    image = Image.fromarray(x.astype(np.uint8))
    if camera.blur:
        image = image.filter(ImageFilter.BoxBlur(camera.blur * (1 + shot.integer(-1, 1) / 4)))
    if shot.chance(0.12):  # motion: two pictures a little apart
        moved = image.transform(
            image.size, Image.Transform.AFFINE, (1, 0, shot.choice((-2, 2)), 0, 1, 0)
        )
        image = Image.fromarray(
            ((np.asarray(image, np.int32) + np.asarray(moved, np.int32)) // 2).astype(np.uint8)
        )
    lines = camera.lines - visit.integer(0, camera.lines // 12)
    if lines < 124:
        image = image.resize((lines // 2, lines), Image.Resampling.BOX)
        x = _grain(np.asarray(image, np.int32), camera.noise, shot)
        image = Image.fromarray(x).resize(PICTURE, Image.Resampling.BILINEAR)
    else:
        image = Image.fromarray(_grain(np.asarray(image, np.int32), camera.noise, shot))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=shot.integer(*camera.quality), subsampling="4:2:0")
    return file.getvalue()


def _grain(x: np.ndarray, amplitude: int, shot: Stream) -> np.ndarray:
    """Returns uint8, with noise of a triangular distribution added."""
    if amplitude:
        noise = shot.bytes(2, *x.shape[:2], 4).astype(np.int32)
        common = noise[0, ..., 3:] + noise[1, ..., 3:] - 255  # the same in all colours
        own = noise[0, ..., :3] + noise[1, ..., :3] - 255
        x = x + (common * 2 + own) * amplitude // 640
    return np.clip(x, 0, 255).astype(np.uint8)


def _illuminate(x: np.ndarray, camera: Camera, visit: Stream) -> np.ndarray:
    """Returns int32 like `x`: lamps and shade make some parts of the picture darker."""
    height, width = x.shape[:2]
    down, right = visit.integer(-36, 36), visit.integer(-26, 26)
    rows = np.arange(-height, height, 2, dtype=np.int32)[:, None] * down // height
    columns = np.arange(-width, width, 2, dtype=np.int32)[None] * right // width
    share = 256 + rows + columns
    if visit.chance(camera.shadows):
        edge = visit.integer(20, 108)
        slope = visit.integer(-20, 20)
        line = np.arange(height)[:, None] * 16 + np.arange(width)[None] * slope
        inside = line > edge * 16 if visit.chance(0.5) else line < edge * 16
        share = np.where(inside, share * 150 >> 8, share)
    return np.clip(x * share[..., None] >> 8, 0, 255)
