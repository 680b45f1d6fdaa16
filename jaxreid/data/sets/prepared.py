"""Prepared copies of data sets: written once and atomically by TFDS, then read into memory."""

import contextlib
import dataclasses
import datetime
import functools
import io
import json
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator

import numpy as np

from jaxreid.data.sets.checks import ImageCheck
from jaxreid.data.sets.source import Record, Source
from jaxreid.data.split import Split
from jaxreid.locks import hold
from jaxreid.places import expanded, scheme_of

_FEATURES = ("image", "name", "pid", "camid", "time")


def leave_accelerators(tf: types.ModuleType) -> None:
    """Leave the accelerators to JAX; TensorFlow would reserve their memory on first use."""
    for kind in ("GPU", "TPU"):
        # TensorFlow raises RuntimeError if other code has initialised it; respect its choice.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)


def import_tensorflow() -> tuple[types.ModuleType, types.ModuleType]:
    """Import `tensorflow` and `tensorflow_datasets` without start-up messages or accelerators."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    leave_accelerators(tf)
    if not sys.stderr.isatty():
        # In a log file every step of a progress bar is another line.
        tfds.disable_progress_bar()
    return tf, tfds


def read_prepared(
    source: Source, root: pathlib.Path, title: str, skip_broken: bool = False
) -> dict[str, Split]:
    """Read a data set from its copy `<root>/<name>/<config>/<version>`, prepared on first use.

    Preparation is safe to interrupt and safe to start in several processes at once: one process
    prepares, and the others wait. `root` needs no write access once the copy exists. Messages name
    the data set by `title`.

    Raises:
        ImportError: TensorFlow or TFDS is not installed.
        ValueError: broken images.
        OSError: the prepared copy is damaged, or cannot be read or written.
    """
    tf, tfds = import_tensorflow()
    from jaxreid.data.images.decoding import agrees

    with _quiet(), _explained(root, tf):
        check = ImageCheck(title, agrees, skip_broken)
        builder = _builder_class(tfds)(source, root, check)
        if not _is_prepared(builder):
            _prepare(builder, tf, tfds, f"{title} ({len(source):,} images)")
            builder = _builder_class(tfds)(source, root, check)
        return {split: _read(builder, split, tf) for split in source.splits}


@dataclasses.dataclass(frozen=True)
class PreparedCopy:
    """One prepared copy on disk.

    Attributes:
        path: its folder, `<root>/<name>/<config>/<version>`; `<root>/<name>/<config>/incomplete.*`
            where a preparation did not finish, or still runs.
        megabytes: size of its files.
        prepared: when it was made.
    """

    path: pathlib.Path
    megabytes: float
    prepared: datetime.datetime

    @property
    def complete(self) -> bool:
        """Whether the preparation finished."""
        return not self.path.name.startswith("incomplete.")

    def remove(self) -> None:
        """Delete the copy; if interrupted, no half of it stays under its name.

        Raises:
            InUseError: another process prepares it.
            OSError: it cannot be deleted.
        """
        with hold(_lock_of(self.path), f"the prepared copy {self.path}"):
            path = self.path
            if self.complete:
                doomed = path.with_name("incomplete.removed")
                shutil.rmtree(doomed, ignore_errors=True)
                path = path.rename(doomed)
            # What an earlier removal left is gone with the copy beside it.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)


def folder_of_copies(prepared_dir: str | os.PathLike | None) -> pathlib.Path:
    """Return the folder of prepared copies: as given, or the default of TFDS.

    Raises:
        ValueError: it is not a local folder, or the default has no home folder.
    """
    location = prepared_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if scheme_of(location):
        raise ValueError(
            f"prepared_dir is {str(location)!r} (given, or from TFDS_DATA_DIR); expected a local "
            "folder for prepared copies: mount the store as a folder, or set prepared_dir to one."
        )
    try:
        path = expanded(location).absolute()
    except ValueError as error:
        raise ValueError(
            f"no home folder for prepared copies ({location}): {error} Expected a writable "
            "folder: set --config.data.prepared_dir=DIR (prepared_dir= in Python) or TFDS_DATA_DIR."
        ) from error
    # Not Path.exists, which raises where a parent folder may not be entered.
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"data.prepared_dir is {path}, a file; expected a folder.")
    return path


def find_copies(root: pathlib.Path) -> list[PreparedCopy]:
    """Return the prepared copies of this package below a folder, which may hold others' too."""
    finished = [file.parent for file in root.glob("*/*/*/features.json") if _is_ours(file)]
    # Others of TFDS leave such folders too, but no lock.
    left_over = [path for path in root.glob("*/*/incomplete.*") if _lock_of(path).is_file()]
    return [
        PreparedCopy(
            path=path,
            megabytes=sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6,
            prepared=datetime.datetime.fromtimestamp(path.stat().st_mtime),
        )
        for path in sorted({*finished, *left_over})
    ]


def _is_ours(features: pathlib.Path) -> bool:
    """Return whether a file describes the features of a prepared copy of this package."""
    try:
        return set(json.loads(features.read_text())["featuresDict"]["features"]) == set(_FEATURES)
    except (ValueError, LookupError, TypeError):  # of another program
        return False


def _lock_of(copy: pathlib.Path) -> pathlib.Path:
    """Return the lock that a process holds while it prepares a copy."""
    return copy.parent.with_name(copy.parent.name + ".lock")


@functools.cache
def _builder_class(tfds: types.ModuleType) -> type:
    """Return the TFDS builder class of all data sets; defined late as TFDS is imported late."""

    class Prepared(  # type: ignore[call-arg]
        tfds.core.GeneratorBasedBuilder,  # type: ignore[name-defined]
        skip_registration=True,
    ):
        VERSION = tfds.core.Version("1.0.0")

        def __init__(self, source: Source, root: pathlib.Path, check: ImageCheck) -> None:
            self._source, self._check = source, check
            # TFDS reads both from the instance before the class.
            self.name, self.VERSION = source.name, tfds.core.Version(source.version)
            config = tfds.core.BuilderConfig(name=source.config)
            super().__init__(data_dir=str(root), config=config)

        def _info(self):
            # As bytes: TFDS would store a plain float64 in 32 bits, which resolves only 8 ms.
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
            splits = self._source.splits
            last = list(splits)[-1]
            return {s: self._generate_examples(r, s == last) for s, r in splits.items()}

        def _generate_examples(self, records, last):
            for record, data in self._check.read(records):
                yield record.name, _example(record, data)
            if last:
                self._check.finish()

    return Prepared


def _example(record: Record, data: bytes) -> dict:
    """Return an example for TFDS, which keeps the bytes of an image given as a file."""
    example = {"name": record.name, "pid": record.pid, "camid": record.camid, "time": record.time}
    return {"image": io.BytesIO(data)} | example


@contextlib.contextmanager
def _explained(root: pathlib.Path, tf: types.ModuleType) -> Iterator[None]:
    """Add the folder of prepared copies, and how to choose another one, to errors of its files."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise
        reason = error.strerror if isinstance(error, OSError) else error.message
        place = getattr(error, "filename", None) or root
        raise OSError(
            f"the prepared copy in {root} cannot be written or read: {reason} ({place}). Make "
            "room or make the folder accessible, or keep prepared copies in another one: "
            "--config.data.prepared_dir=DIR (prepared_dir= in Python, --prepared-dir of the verbs)."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TFDS's remarks (custom configuration, folder that it reads) out of the log."""
    absl_logger = logging.getLogger("absl")
    level = absl_logger.level
    absl_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl_logger.setLevel(level)


def _is_prepared(builder) -> bool:
    """Return whether a complete copy exists."""
    # TFDS writes beside the final folder and renames. After a power cut the renamed folder can be
    # on disk without its content. TFDS writes the information file last.
    return (pathlib.Path(builder.data_dir) / "dataset_info.json").is_file()


def _prepare(builder, tf, tfds, title: str) -> None:
    """Prepare a copy, or wait for another process that does."""
    final = pathlib.Path(builder.data_dir)
    with hold(_lock_of(final), f"the prepared copy of {title}", wait=True):
        if _is_prepared(builder):
            return
        # Left by a process that did not finish. Holding the lock means that none is still writing.
        for left_over in [final, *final.parent.glob("incomplete.*")]:
            if left_over.exists():
                print(f"removing an unfinished copy: {left_over}", file=sys.stderr)
                shutil.rmtree(left_over)
        print(f"preparing {title} into {final}", file=sys.stderr, flush=True)
        with (
            # TFDS requires a download folder, which stays empty.
            tempfile.TemporaryDirectory() as downloads,
            # TFDS prints to stdout, in bold.
            contextlib.redirect_stdout(io.StringIO()),
        ):
            try:
                builder.download_and_prepare(
                    download_dir=downloads,
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                )
            except (RuntimeError, OSError) as error:
                # TFDS wraps the error of TensorFlow or the system about a write.
                cause = _first_cause(error)
                if isinstance(cause, OSError | tf.errors.OpError):
                    raise cause from None
                raise


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _read(builder, split: str, tf) -> Split:
    """Read a split of a prepared copy; raise OSError if the copy is damaged."""
    # Not `as_dataset`, which traces functions for a third of a second: a set is read once.
    shards = [os.fspath(path) for path in builder.info.splits[split].filepaths]
    columns: dict[str, list] = {key: [] for key in _FEATURES}
    try:
        for batch in tf.data.TFRecordDataset(shards).batch(1024):
            examples = tf.io.parse_example(batch, builder.info.features.tf_example_spec)
            for key, values in columns.items():
                values.extend(examples[key].numpy().tolist())
    except tf.errors.OpError as error:
        raise _damaged(builder, error.message) from error
    names = [name.decode() for name in columns["name"]]
    if len(names) != builder.info.splits[split].num_examples:
        raise _damaged(builder, f"{len(names)} images in the {split} split")
    # TFDS orders examples by a hash.
    order = sorted(range(len(names)), key=names.__getitem__)
    return Split(
        image=[columns["image"][i] for i in order],
        name=[names[i] for i in order],
        pid=np.array(columns["pid"], np.int32)[order],
        camid=np.array(columns["camid"], np.int32)[order],
        time=np.frombuffer(b"".join(columns["time"]), "<f8")[order],
    )


def _damaged(builder, reason: str) -> OSError:
    return OSError(
        f"the prepared copy in {builder.data_dir} is damaged ({reason}). Delete that folder and "
        "start again to prepare it anew."
    )
