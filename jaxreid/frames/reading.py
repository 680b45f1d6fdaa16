"""Frames of one camera: a folder of images, or a video, decoded by PyAV."""

import dataclasses
import functools
import math
import os
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from jaxreid.data.images.formats import SUFFIXES
from jaxreid.data.images.pillow import read_image
from jaxreid.data.sets.division import natural
from jaxreid.data.sets.files import list_images
from jaxreid.places import expanded

# Frames per second of a folder of images, if not given.
FPS = 25.0


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        number: its number, as detections count.
        name: file name, or "frame 12" of a video.
        seconds: time since frame `first`.
        load: returns the pixels, uint8 [h, w, 3] RGB.
    """

    number: int
    name: str
    seconds: float
    load: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Frames:
    """Frames of one camera, in their order.

    Attributes:
        path: folder or video.
        name: default name of the camera: that of the folder or file.
        numbers: range of their numbers; None if a video does not declare its length.
        notice: a sentence on how the frames are counted.
    """

    path: pathlib.Path
    name: str
    numbers: range | None
    notice: str
    frames: Callable[[], Iterator[Frame]]

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()


def open_frames(
    place: str | os.PathLike, *, first: int | None = None, fps: float | None = None
) -> Frames:
    """Open the frames of a camera.

    Args:
        place: folder of images, or a video.
        first: number of the first frame. None: 0 for a video; images have the number that ends
            their names (img_000123.jpg is frame 123), if all end in different ones.
        fps: frames per second; None: those of the video, and `FPS` for images.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: no images, not a video, or `fps` is not above 0.
        ModuleNotFoundError: PyAV, which decodes videos, is not installed.
    """
    path = expanded(place)
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps}; expected frames per second, such as 25.")
    if path.is_dir():
        return _open_folder(path, first, fps or FPS)
    if not path.is_file():
        raise FileNotFoundError(
            f"no frames in {path}: expected a video, or a folder of images, one per frame."
        )
    if path.suffix.lower() in SUFFIXES:
        raise ValueError(f"{path} is an image; expected a video, or the folder of the frames.")
    return _open_video(path, first or 0, fps)


def _open_folder(path: pathlib.Path, first: int | None, fps: float) -> Frames:
    entries, left_out = list_images(path)
    if not entries:
        raise ValueError(f"{path} contains no images (.jpg, ...); expected frames. {left_out}")
    names = sorted((entry.name for entry in entries), key=natural)
    ends = [re.search(r"([0-9]{1,15})$", os.path.splitext(name)[0]) for name in names]
    numbers = [int(end[1]) for end in ends if end]
    if first is None and max(Counter(numbers).values(), default=2) == 1 and all(ends):
        order = sorted(zip(numbers, names, strict=True))
        how = f"by the number that ends their names, {order[0][0]} to {order[-1][0]}"
    else:
        order = list(enumerate(names, first or 0))
        how = f"in the order of their names, from {first or 0}"
    start = order[0][0]

    def frames() -> Iterator[Frame]:
        for number, name in order:
            read = functools.partial(read_image, path / name)
            yield Frame(number, name, (number - start) / fps, read)

    numbered = range(start, order[-1][0] + 1)
    notice = f"{path}: {len(order)} frames, counted {how}; {fps:g} frames per second."
    return Frames(path, path.resolve().name, numbered, notice, frames)


def _open_video(path: pathlib.Path, first: int, fps: float | None) -> Frames:
    try:
        import av
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{path}: reading videos needs PyAV: pip install 'jaxreid[video]' (or give a folder "
            "of its frames, as ffmpeg writes it)"
        ) from error

    def opened():
        try:
            container = av.open(os.fspath(path))
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{path} is not a video that FFmpeg reads ({error}).") from error
        if not container.streams.video:
            container.close()
            raise ValueError(f"{path} has no pictures; expected a video.")
        return container

    with opened() as container:
        stream = container.streams.video[0]
        count, rate = stream.frames, float(stream.average_rate or stream.guessed_rate or FPS)

    def frames() -> Iterator[Frame]:
        with opened() as container:
            container.streams.video[0].thread_type = "AUTO"
            start, number = None, first
            try:
                for picture in container.decode(video=0):
                    start = picture.time if start is None else start
                    seconds = (number - first) / (fps or rate)
                    if fps is None and None not in (picture.time, start):
                        seconds = picture.time - start
                    load = lambda picture=picture: _pixels(picture)  # noqa: E731
                    yield Frame(number, f"frame {number}", seconds, load)
                    number += 1
            except av.FFmpegError as error:
                raise ValueError(
                    f"{path} is damaged after frame {number - 1} ({error}). What was cut before is "
                    "whole; repair the video (ffmpeg -i IN -c copy OUT), or cut it there."
                ) from error

    numbers = range(first, first + count) if count else None
    notice = (
        f"{path}: {count or 'an unknown number of'} frames, counted from {first}; "
        f"{f'{fps:g}' if fps else f'about {rate:.5g}'} frames per second."
    )
    return Frames(path, path.stem, numbers, notice, frames)


def _pixels(picture) -> np.ndarray:
    """Return the pixels of a decoded frame, turned as players show it."""
    pixels = picture.to_ndarray(format="rgb24")
    # Degrees counterclockwise; telephones turn their videos by it.
    turns = round(getattr(picture, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
