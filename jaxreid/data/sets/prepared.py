"""Prepared copies of data sets: written once by TFDS, whole or not at all, and read into memory."""

import contextlib
import functools
import io
import logging
import pathlib
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator

import numpy as np

from jaxreid.data.sets.folder import check_image
from jaxreid.data.sets.source import Record, Source
from jaxreid.data.split import Split

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

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


def read_prepared(source: Source, root: pathlib.Path, title: str) -> dict[str, Split]:
    """Reads a data set from its prepared copy, `<root>/<name>/<config>/<version>`.

    Preparing is safe to interrupt and safe to start from several processes at once: one of them
    prepares, and the others wait.

    Args:
        source: the data set.
        root: folder of prepared copies; needs no write access once the copy is there.
        title: name of the data set for messages.

    Raises:
        ImportError: TensorFlow or TFDS is not installed.
        ValueError: a broken image.
        OSError: the prepared copy is damaged.
    """
    tf, tfds = import_tensorflow()
    with _quiet():
        builder = _builder_class(tfds)(source, root)
        if not _is_prepared(builder):
            _prepare(builder, tfds, f"{title} ({len(source):,} images)")
            builder = _builder_class(tfds)(source, root)
        return {split: _read(builder, split, tf, tfds) for split in source.splits}


@functools.cache
def _builder_class(tfds: types.ModuleType) -> type:
    """The TFDS builder of every data set; defined late, because TFDS is imported late."""

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def __init__(self, source: Source, root: pathlib.Path) -> None:
            self._source = source
            # TFDS reads these off the class, or off the instance before it.
            self.name, self.VERSION = source.name, tfds.core.Version(source.version)
            config = tfds.core.BuilderConfig(name=source.config)
            super().__init__(data_dir=str(root), config=config)

        def _info(self):
            # As bytes: TFDS would keep a plain float64 in 32 bits, which is 8 ms too coarse.
            seconds = tfds.features.Tensor(
                shape=(), dtype=np.float64, encoding=tfds.features.Encoding.BYTES
            )
            features = {
                "image": tfds.features.Image(encoding_format="jpeg", shape=(None, None, 3)),
                "name": tfds.features.Text(),
                "pid": np.int32,
                "camid": np.int32,
                "time": seconds,
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=self._source.description,
                citation=self._source.citation,
                features=tfds.features.FeaturesDict(features),
            )

        def _split_generators(self, dl_manager):
            return {s: self._generate_examples(r) for s, r in self._source.splits.items()}

        def _generate_examples(self, records):
            for record in records:
                yield record.name, _example(record)

    return Prepared


def _example(record: Record) -> dict:
    """What TFDS writes; it keeps the bytes of an image that is a path or a file."""
    image = record.image
    if isinstance(image, bytes):
        image = io.BytesIO(image)
    else:
        check_image(image)
    example = {"name": record.name, "pid": record.pid, "camid": record.camid, "time": record.time}
    return {"image": image} | example


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's remarks (custom configuration, where it reads from) out of the log."""
    absl_logger = logging.getLogger("absl")
    level = absl_logger.level
    absl_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl_logger.setLevel(level)


def _is_prepared(builder) -> bool:
    """True if a whole copy is there."""
    # TFDS writes beside the final folder and renames. After a power cut the name can be on disk
    # without the content; the information file is what TFDS writes last.
    return (pathlib.Path(builder.data_dir) / "dataset_info.json").is_file()


def _prepare(builder, tfds, what: str) -> None:
    """Prepares a copy, or waits for another process that does."""
    final = pathlib.Path(builder.data_dir)
    with _lock(final.parent.with_name(final.parent.name + ".lock"), what) as held:
        if _is_prepared(builder):
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
    if fcntl is None:
        logger.warning("this system has no file locks; let one process prepare %s alone", what)
        yield False
        return
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


def _read(builder, split: str, tf, tfds) -> Split:
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
