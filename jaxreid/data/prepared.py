"""Prepared copies of data sets: written once by TFDS, whole or not at all, and read into memory."""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import io
import logging
import pathlib
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping

import numpy as np

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set in memory, N images sorted by name; or several, joined by `join`.

    Attributes:
        image: N encoded images (JPEG or PNG), the published bytes.
        name: N file names, unique.
        pid: [N] int32, person ids as published; equal ids of two sources are two people.
        camid: [N] int32, cameras, from 0; in each source anew.
        time: [N] float64, seconds; NaN where unknown.
        source: [N] int32, which of the joined sets an image is from; 0 where nothing was joined,
            which None stands for.
    """

    image: list[bytes]
    name: list[str]
    pid: np.ndarray
    camid: np.ndarray
    time: np.ndarray
    source: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.source is None:
            object.__setattr__(self, "source", np.zeros(len(self), np.int32))

    def __len__(self) -> int:
        return len(self.name)

    @functools.cached_property
    def summary(self) -> dict[str, int | str]:
        """What tells this split from another: numbers, and a digest of names and people."""
        columns = [self.name, self.pid]
        if self.source.any():  # a split of one source keeps the digest that its checkpoints hold
            columns.append(self.source)
        rows = "".join(" ".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))
        digest = hashlib.sha256(rows.encode()).hexdigest()[:16]
        return {"identities": self.num_classes, "images": len(self), "digest": digest}

    def select(self, keep: np.ndarray) -> "Split":
        """The images where `keep` [N] bool is True."""
        return self.take(np.flatnonzero(keep))

    def take(self, chosen: np.ndarray) -> "Split":
        """The images of the places [M] int, in their order."""
        return Split(
            image=[self.image[i] for i in chosen],
            name=[self.name[i] for i in chosen],
            pid=self.pid[chosen],
            camid=self.camid[chosen],
            time=self.time[chosen],
            source=self.source[chosen],
        )

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Training classes, [N] int32 in 0..num_classes-1: places of the sorted (source, pid)."""
        return np.unique(self._people, return_inverse=True)[1].astype(np.int32)

    @functools.cached_property
    def num_classes(self) -> int:
        """Number of different people."""
        return len(np.unique(self._people))

    @property
    def _people(self) -> np.ndarray:
        """Numbers of the people, [N] int64, in the order of (source, pid)."""
        return (self.source.astype(np.int64) << 32) + self.pid


def join(splits: Mapping[str, Split]) -> Split:
    """Several training sets as one; no person of one set is a person of another.

    Args:
        splits: the splits by the names of their data sets.

    Returns:
        The images of all, in the order of the sets: `source` is the place of the set, images are
        called `<data set>/<file name>`, and the rest is as published. A single split is returned as
        it is.

    Raises:
        ValueError: there is no split, or one that has been joined already.
    """
    if not splits:
        raise ValueError("nothing to join: needed is at least one split.")
    if len(splits) == 1:
        return next(iter(splits.values()))
    for name, split in splits.items():
        if split.source.any():
            raise ValueError(f"{name} is joined already: join all splits at once.")
    parts = splits.values()
    return Split(
        image=[image for split in parts for image in split.image],
        name=[f"{name}/{file}" for name, split in splits.items() for file in split.name],
        pid=np.concatenate([split.pid for split in parts]),
        camid=np.concatenate([split.camid for split in parts]),
        time=np.concatenate([split.time for split in parts]),
        source=np.repeat(np.arange(len(splits), dtype=np.int32), [len(split) for split in parts]),
    )


def leave_accelerators(tf: types.ModuleType) -> None:
    """Leaves the accelerators to JAX; TensorFlow would reserve their memory on first use."""
    for kind in ("GPU", "TPU"):
        # RuntimeError: other code has set TensorFlow up before, and has decided
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)


def import_tensorflow() -> tuple[types.ModuleType, types.ModuleType]:
    """Imports TensorFlow without start-up messages, and leaves the accelerators to JAX.

    Returns:
        The modules `tensorflow` and `tensorflow_datasets`.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    leave_accelerators(tf)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # in a log file every step of a bar is another line
    return tf, tfds


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS's remarks (custom configuration, where it reads from) out of the log."""
    absl_logger = logging.getLogger("absl")
    level = absl_logger.level
    absl_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl_logger.setLevel(level)


def is_prepared(builder) -> bool:
    """True if a whole copy is there."""
    # TFDS writes beside the final folder and renames. After a power cut the name can be on disk
    # without the content; the information file is what TFDS writes last.
    return (pathlib.Path(builder.data_dir) / "dataset_info.json").is_file()


def prepare(builder, tfds, what: str) -> None:
    """Prepares a copy, or waits for another process that does."""
    final = pathlib.Path(builder.data_dir)
    with _lock(final.parent.with_name(final.parent.name + ".lock"), what) as held:
        if is_prepared(builder):
            return
        # whoever wrote these did not finish; with the lock we know that nobody is still writing
        for left_over in [final, *(final.parent.glob("incomplete.*") if held else ())]:
            if left_over.exists():
                print(f"removing an unfinished copy: {left_over}", file=sys.stderr)
                shutil.rmtree(left_over)
        print(f"preparing {what} into {final}", file=sys.stderr, flush=True)
        with (
            tempfile.TemporaryDirectory() as downloads,  # wanted by TFDS, and left empty
            contextlib.redirect_stdout(io.StringIO()),  # TFDS prints there, in bold
        ):
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )


@contextlib.contextmanager
def _lock(path: pathlib.Path, what: str) -> Iterator[bool]:
    """Holds a lock which a dying process lets go; yields False where a disk has no locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for a process that prepares {what}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            logger.warning("%s: no lock (%s); let one process prepare %s alone", path, error, what)
            held = False
        yield held


def read(builder, split: str, tf, tfds) -> Split:
    """Reads a split of a prepared copy; raises OSError where the copy is damaged."""
    dataset = builder.as_dataset(
        split=split,
        decoders={"image": tfds.decode.SkipDecoding()},
        shuffle_files=False,
        read_config=tfds.ReadConfig(try_autocache=False),  # it is read once
    )
    columns: dict[str, list] = {key: [] for key in ("image", "name", "pid", "camid", "time")}
    try:
        for batch in dataset.batch(1024).as_numpy_iterator():
            for key, values in columns.items():
                values.extend(batch[key].tolist())
    except tf.errors.OpError as error:
        raise _damaged(builder, error.message) from error
    names = [name.decode() for name in columns["name"]]
    if len(names) != builder.info.splits[split].num_examples:
        raise _damaged(builder, f"{len(names)} images in the {split} split")
    order = sorted(range(len(names)), key=names.__getitem__)  # not TFDS's, which is that of a hash
    return Split(
        image=[columns["image"][i] for i in order],
        name=[names[i] for i in order],
        pid=np.array(columns["pid"], np.int32)[order],
        camid=np.array(columns["camid"], np.int32)[order],
        time=np.array(columns["time"], np.float64)[order],
    )


def _damaged(builder, what: str) -> OSError:
    return OSError(
        f"the prepared copy in {builder.data_dir} is damaged ({what}). Delete that folder and "
        "start again: it is prepared anew."
    )
