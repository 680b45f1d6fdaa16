"""Prepared copies of data sets: written once by TFDS, whole or not at all, and read into memory."""

import contextlib
import fcntl
import io
import logging
import pathlib
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator

import numpy as np

from jaxreid.data.split import Split

logger = logging.getLogger(__name__)


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
