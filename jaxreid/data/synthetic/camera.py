"""Cameras: their parameters, and the effects of their optics and electronics on a picture."""

import dataclasses
import functools
import io

import numpy as np
from PIL import Image, ImageFilter

from jaxreid.data.synthetic.stream import Stream

Colour = tuple[int, int, int]
# Width and height of the final picture.
PICTURE = (64, 128)


@dataclasses.dataclass(frozen=True)
class Camera:
    """One camera: its position, the scene in front of it, and how it degrades the picture."""

    at: tuple[int, int]  # metres on the map of the domain
    facing: int  # degrees on this map
    pitch: int  # degrees down
    horizon: int  # row in the scene
    foot: int  # row in the scene where the wall meets the floor
    floor: tuple[str, Colour]
    wall: tuple[str, Colour]
    things: tuple[str, ...]
    light: int  # degrees from the camera to the light
    ambient: int  # light in the shade, 256ths
    gain: Colour  # red, green, blue in 256ths: the colour cast
    curve: float  # > 0 brightens the middle tones, < 0 darkens them
    contrast: int  # 256ths
    lift: int  # output level of black
    saturation: int  # 256ths
    lines: int  # rows the sensor resolves; below 124 the picture is enlarged
    blur: float  # radius in pixels
    noise: int  # amplitude
    quality: tuple[int, int]  # range of the JPEG quality
    occluders: tuple[str, ...]
    hidden: float  # probability of an occluder
    slop: float  # inaccuracy of the detector's boxes
    shadows: float = 0.0  # probability of a hard shadow edge across the picture
    # Of drawn domains alone: the defaults change nothing.
    rich: bool = False  # boxes that fit the figure, more poses, things in hands
    sharpen: int = 0  # strength of the sharpening in the camera, percent
    vary: int = 0  # how far light and white balance move from visit to visit, 256ths
    interlaced: bool = False  # odd and even lines are taken one after the other


@functools.lru_cache(maxsize=1024)
def _curves(camera: Camera, exposure: int, cast: tuple[int, int, int]) -> np.ndarray:
    """Return the response of the sensor by channel, int32 [3, 256]."""
    gain = np.array(camera.gain, np.float64) * (256 + exposure + np.array(cast)) / 65536
    x = np.arange(256) / 255 * gain[:, None]
    x = x * (1 + camera.curve) / (1 + camera.curve * x)
    x = (x - 0.45) * camera.contrast / 256 + 0.45
    x = camera.lift + x * (255 - camera.lift)
    return np.clip(np.rint(x), 0, 255).astype(np.int32)


def develop(picture: np.ndarray, camera: Camera, visit: Stream, shot: Stream) -> bytes:
    """Convert a rendered picture, uint8 [256, 128, 3], to the JPEG of a detection (128 x 64).

    `visit` holds the random numbers of the passage of a person, `shot` those of this picture.
    """
    x = np.asarray(Image.fromarray(picture).reduce(2), np.int32)
    x = _illuminate(x, camera, visit)
    grey = (x[..., 0] * 77 + x[..., 1] * 150 + x[..., 2] * 29)[..., None] >> 8
    x = np.clip(grey + ((x - grey) * camera.saturation >> 8), 0, 255)
    exposure = visit.integer(-3, 3) * 7 + shot.integer(-1, 1) * 4
    cast = tuple(visit.integer(-1, 1) * 6 for _ in range(3))
    if camera.vary:
        # Clouds, hours, and a white balance that follows what is in front of the camera.
        exposure += visit.integer(-camera.vary, camera.vary)
        cast = tuple(c + visit.integer(-camera.vary, camera.vary) // 3 for c in cast)
    table = _curves(camera, exposure, cast)
    x = np.stack([table[c][x[..., c]] for c in range(3)], -1)
    image = Image.fromarray(x.astype(np.uint8))
    if camera.blur:
        image = image.filter(ImageFilter.BoxBlur(camera.blur * (1 + shot.integer(-1, 1) / 4)))
    # Motion blur: the mean of two slightly shifted pictures.
    if shot.chance(0.12):
        moved = image.transform(
            image.size, Image.Transform.AFFINE, (1, 0, shot.choice((-2, 2)), 0, 1, 0)
        )
        image = Image.fromarray(
            ((np.asarray(image, np.int32) + np.asarray(moved, np.int32)) // 2).astype(np.uint8)
        )
    if camera.interlaced and shot.chance(0.5):
        x = np.array(image)
        x[1::2] = np.roll(x[1::2], shot.choice((-2, -1, 1, 2)), axis=1)
        image = Image.fromarray(x)
    lines = camera.lines - visit.integer(0, camera.lines // (4 if camera.rich else 12))
    if lines < 124:
        image = image.resize((lines // 2, lines), Image.Resampling.BOX)
        x = _grain(np.asarray(image, np.int32), camera.noise, shot)
        image = Image.fromarray(x).resize(PICTURE, Image.Resampling.BILINEAR)
    else:
        image = Image.fromarray(_grain(np.asarray(image, np.int32), camera.noise, shot))
    if camera.sharpen:
        image = image.filter(ImageFilter.UnsharpMask(1, camera.sharpen, 0))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=shot.integer(*camera.quality), subsampling="4:2:0")
    return file.getvalue()


def _grain(x: np.ndarray, amplitude: int, shot: Stream) -> np.ndarray:
    """Add noise with a triangular distribution; returns uint8."""
    if amplitude:
        noise = shot.bytes(2, *x.shape[:2], 4).astype(np.int32)
        # The same in all channels.
        common = noise[0, ..., 3:] + noise[1, ..., 3:] - 255
        own = noise[0, ..., :3] + noise[1, ..., :3] - 255
        x = x + (common * 2 + own) * amplitude // 640
    return np.clip(x, 0, 255).astype(np.uint8)


def _illuminate(x: np.ndarray, camera: Camera, visit: Stream) -> np.ndarray:
    """Darken parts of the picture, as uneven light and shade do; returns int32 like `x`."""
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
