"""Event files for TensorBoard: the same events as metrics.jsonl, each written at once.

tensorboardX's own writer holds events back for two minutes, which a kill loses, and waits forever
once its thread has ended for want of space.
"""

import os
import pathlib
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from jaxreid.runs.files import append, explained, replace_file


class Board:
    """Event file of TensorBoard, of this process.

    Args:
        folder: folder of event files; created if it does not exist.
        again: events that replace all earlier files, so that each is shown once; None to leave
            other files as they are.

    Raises:
        ModuleNotFoundError: tensorboardX is not installed.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: pathlib.Path, again: Iterable[Mapping[str, Any]] | None) -> None:
        self._import()
        content = self._record(time.time(), file_version="brain.Event:2")
        with explained(folder):
            folder.mkdir(exist_ok=True)
            for old in folder.glob("events.*") if again is not None else ():
                old.unlink()
        if again is not None:
            # An open TensorBoard forgets what it has read.
            start = self._session(status=self._session.START)
            content += self._record(time.time(), session_log=start)
            content += b"".join(map(self._records, again))
        # TensorBoard reads files in the order of their names.
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"{seconds}.{rest:09}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / f"events.out.tfevents.{name}"
        replace_file(self._path, content)

    @classmethod
    def open(cls, *args: Any) -> "Board | None":
        """Return a board, or None without tensorboardX, which jaxreid[train] installs."""
        try:
            return cls(*args)
        except ModuleNotFoundError:
            return None

    def write(self, event: Mapping[str, Any]) -> None:
        """Append the numbers of an event of metrics.jsonl, as `kind/set/key`.

        Numbers of a "variant" other than "plain" go to `kind/set/variant/key`, and those of a named
        "model", such as the average of the weights, to `kind/set/model/key`.

        Raises:
            OSError: no space, or the folder is gone.
        """
        append(self._path, self._records(event))

    def _records(self, event: Mapping[str, Any]) -> bytes:
        variant = event.get("variant", "plain")
        tag = [event["kind"], event.get("set"), variant if variant != "plain" else None]
        tag.append(event.get("model"))
        prefix = "/".join(part for part in tag if part)
        values = [
            self._summary.Value(tag=f"{prefix}/{key}", simple_value=value)
            for key, value in event.items()
            if isinstance(value, int | float) and key not in ("step", "time")
        ]
        summary = self._summary(value=values)
        return self._record(event.get("time", 0.0), step=event["step"], summary=summary)

    def _record(self, seconds: float, **fields: Any) -> bytes:
        data = self._event(wall_time=seconds, **fields).SerializeToString()
        header = struct.pack("<Q", len(data))
        sums = [struct.pack("<I", self._checksum(part)) for part in (header, data)]
        return b"".join((header, sums[0], data, sums[1]))

    def _import(self) -> None:
        # tensorboardX imports PyTorch if it is installed: four seconds, and nothing here uses it.
        if hidden := "torch" not in sys.modules:
            sys.modules["torch"] = None  # type: ignore[assignment]
        try:
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.proto.summary_pb2 import Summary
            from tensorboardX.record_writer import masked_crc32c
        finally:
            if hidden:
                del sys.modules["torch"]
        self._event, self._session, self._summary = Event, SessionLog, Summary
        self._checksum = masked_crc32c
