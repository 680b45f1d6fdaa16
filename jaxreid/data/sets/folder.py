"""Your own images in folders: one sub-folder per person, or names that identify the person.

    alice/0001.jpg              a person's folder
    alice/cam1/0001.jpg         with a folder per camera
    0001_c1_000451.jpg          pattern={pid}_c{camid}_{time}
    train/..., query/..., gallery/...     already divided, each in one of these forms

People may have names of any characters.
"""

import math
import os
import pathlib
import re
from collections.abc import Callable, Sequence

from jaxreid.data.images.formats import SUFFIXES
from jaxreid.data.sets.division import SPLITS, Photo, own_source
from jaxreid.data.sets.files import SYSTEM_FOLDERS, list_images, some
from jaxreid.data.sets.source import Source
from jaxreid.names import check_name
from jaxreid.places import expanded

# Person, camera and time; names are "" where unknown.
_Label = tuple[str, str, float]
_UNKNOWN: _Label = "", "", math.nan
_PLACEHOLDERS = {
    "pid": "[^/]+?",
    "camid": "[^/]+?",
    "time": r"[0-9]+(\.[0-9]+)?",
    "frame": "[0-9]+",
}
_FORMS = (
    "Expected a sub-folder per person, as in alice/0001.jpg, or alice/cam1/0001.jpg with cameras; "
    "or a pattern of the names, as in folder:DIR?pattern={pid}_c{camid}_*. Images of people who "
    "are not known are read with split=none."
)


def find(
    folder: str | os.PathLike,
    *,
    pattern: str = "",
    split: str | None = None,
    seed: int = 0,
    fps: float = 25,
    combine_all: bool = False,
) -> Source:
    """Find the images in a folder of your own, one sub-folder per person.

    Sub-folders train (or bounding_box_train), query and gallery (or bounding_box_test), any of
    them, are the splits; queries are drawn from a folder test that stands without them. All other
    folders are divided by `split`.

    Args:
        folder: holds a sub-folder per person, or files that `pattern` explains. A person's folder
            may hold a folder per camera; otherwise, cameras are unknown.
        pattern: how file names are built, without their suffix; with a slash, how paths are.
            {pid} is the person (without it, the person is the sub-folder), {camid} the camera,
            {time} seconds, {frame} a number of frames; * is anything.
        split: "people": half of the people train, and the others are tested: one query of each
            person and camera, if it has more than one image, and the other images in the gallery.
            "camera": all people are tested, queries are from the first camera, nobody trains.
            "none": all images are in the gallery, and people may be unknown (pid -1), also where a
            pattern does not name them and sub-folders are missing. "learn": for fine-tuning, a
            quarter of the people is tested, or with less than 20 people two images of each, and the
            others train; sub-folders of splits take precedence. None: these, else "people".
        seed: which people and queries are drawn.
        fps: frames per second, for {frame}.
        combine_all: train on the people of all splits.

    Returns:
        Splits train, query and gallery, as far as there are any. People are numbered from 1 and
        cameras from 0 in the order of their names; -1 is a person or a camera that is not known.
        Images of the person "-1" are junk and dropped. A notice says how the images were
        divided.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: an image is not in a person's folder or unlike the pattern, the images cannot
            be divided, or an option is wrong.
    """
    root, photos, notices = read_photos(folder, pattern=pattern, split=split, fps=fps)
    return own_source(
        "folder",
        root,
        photos,
        split=split,
        seed=seed,
        combine_all=combine_all,
        notices=notices,
        description=__doc__,
    )


def read_photos(
    folder: str | os.PathLike, *, pattern: str = "", split: str | None = None, fps: float = 25
) -> tuple[pathlib.Path, list[Photo], list[str]]:
    """Find the images in a folder, with the people in their names; arguments as for `find`.

    Returns:
        The folder, one photo or more, and notices.
    """
    root = expanded(folder)
    if root.is_file():
        raise FileNotFoundError(
            f"{root} is a file; expected the folder of your images, or table:{root} for a table."
        )
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {str(root)!r} (from {os.getcwd()}); expected the folder of your images."
        )
    parts = [path for path in _subfolders(root) if path.name.lower() in SPLITS]
    read = _by_pattern(pattern, fps, loose=split == "none") if pattern else _by_folder
    photos, wrong, left_out = [], [], []
    for part in parts or [root]:
        files, sentences = images_below(part)
        left_out += sentences
        for path in files:
            relative = path.relative_to(part)
            label = read(relative)
            if label is None and split == "none" and not pattern:
                label = _UNKNOWN
            if label is None:
                wrong.append(path.relative_to(root).as_posix())
            else:
                name = part.name.lower() if parts else ""
                photos.append(Photo(path, relative.as_posix(), *label, split=name))
    notices = left_out[:1]
    if left_out[1:]:
        notices[0] += f" The same in {len(left_out) - 1} other folders."
    if wrong:
        about = f"unlike the pattern {pattern}" if pattern else "not in a person's folder"
        if pattern.lower().endswith(SUFFIXES):
            about += " (write it without the suffix)"
        raise ValueError(
            f"{root}: images {about}: {len(wrong)} of {len(wrong) + len(photos)} ({some(wrong)}). "
            + _FORMS
        )
    if not photos:
        raise ValueError(f"{root} holds no images (.jpg, ...). {' '.join([*notices, _FORMS])}")
    example = next((photo for photo in photos if photo.person), photos[0])
    notices.append(
        f"{root}: for example, {example.name} shows "
        f"{f'person {example.person!r}' if example.person else 'a person who is not known'}, "
        f"{f'camera {example.camera!r}' if example.camera else 'camera not known'}."
    )
    if beside := _beside(root, parts):
        notices.append(
            f"{root}: only {', '.join(path.name for path in parts)} are read, not the images "
            f"beside them: {len(beside)} ({some(beside)})."
        )
    return root, photos, notices


def _by_folder(path: pathlib.Path) -> _Label | None:
    """Return the label of an image by its relative path; None if the path is of another form."""
    folders = path.parts[:-1]
    if len(folders) not in (1, 2):
        return None
    person, camera = (*folders, "")[:2]
    return person, camera, math.nan


def _by_pattern(
    pattern: str, fps: float, *, loose: bool
) -> Callable[[pathlib.Path], _Label | None]:
    """Return a function as `_by_folder` that follows a pattern; people are not known if `loose`."""
    compiled, rate = _compiled(pattern), _rate(fps)
    names_people = "pid" in compiled.groupindex

    def read(path: pathlib.Path) -> _Label | None:
        match = compiled.fullmatch(path.with_suffix("").as_posix() if "/" in pattern else path.stem)
        label = _UNKNOWN if names_people else _by_folder(path)
        if loose and label is None and len(path.parts) == 1:
            label = _UNKNOWN
        if match is None or label is None:
            return None
        (person, camera, time), fields = label, match.groupdict()
        if "time" in fields:
            time = float(fields["time"])
        elif "frame" in fields:
            time = int(fields["frame"]) / rate
        return fields.get("pid", person), fields.get("camid", camera), time

    return read


def _compiled(pattern: str) -> re.Pattern:
    expression, names = "", []
    for piece in re.split(r"(\{.*?\}|\*)", pattern):
        if piece.startswith("{") and piece.endswith("}"):
            name = check_name(piece[1:-1], _PLACEHOLDERS, "placeholder")
            names.append(name)
            if names.count(name) > 1 or {"time", "frame"} <= set(names):
                raise ValueError(
                    f"pattern {pattern!r} has {name} twice; expected each of "
                    "{pid}, {camid}, and {time} or {frame}, once at most."
                )
            expression += f"(?P<{name}>{_PLACEHOLDERS[name]})"
        else:
            expression += ".*" if piece == "*" else re.escape(piece)
    if "/" in pattern and "pid" not in names:
        raise ValueError(f"pattern {pattern!r} has a slash; expected {{pid}} in it.")
    return re.compile(expression, re.DOTALL)


def _rate(fps: float) -> float:
    try:
        rate = float(fps)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"fps is {fps!r}; expected frames per second, such as 25.")
    return rate


def _beside(root: pathlib.Path, parts: Sequence[pathlib.Path]) -> list[str]:
    """Return the images in none of the splits; [] without splits."""
    if not parts:
        return []
    images = [pathlib.Path(entry.path) for entry in list_images(root)[0]]
    images += [i for path in _subfolders(root) if path not in parts for i in images_below(path)[0]]
    return [image.relative_to(root).as_posix() for image in images]


def images_below(
    folder: pathlib.Path, above: tuple[str, ...] = ()
) -> tuple[list[pathlib.Path], list[str]]:
    """Return the images at any depth, and sentences about files of other formats."""
    entries, sentence = list_images(folder)
    images, below = [pathlib.Path(entry.path) for entry in entries], _subfolders(folder)
    sentences = [sentence] if sentence and not below else []
    above = (*above, os.path.realpath(folder))
    for path in below:
        # A link may lead to a folder above.
        if os.path.realpath(path) not in above:
            more = images_below(path, above)
            images += more[0]
            sentences += more[1]
    return images, sentences


def _subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return [
        folder / name
        for name in sorted(names)
        if not name.startswith(".") and name not in SYSTEM_FOLDERS
    ]
