"""Graceful stop of a training on Ctrl-C and SIGTERM (preemption)."""

import os
import signal
import sys
import threading
from types import FrameType

import jax


class StopRequest:
    """Context in which the first Ctrl-C or SIGTERM only sets `name`; a second one acts as usual.

    The training loop checks `stop.name` between two steps, saves and returns.

    Attributes:
        name: name of the received signal, or None.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        # Python delivers signals to the main thread only; in other threads the caller handles them.
        if threading.current_thread() is not threading.main_thread():
            return self
        # Asking for the number of processes takes the devices.
        if jax.distributed.is_initialized() and jax.process_count() > 1:
            # All processes must stop at the same step: jax.distributed handles SIGTERM and notifies
            # the others.
            forward = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, forward)
            return self
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._restore()
        print(f"{self.name}: stopping after this step; send it again to stop now", file=sys.stderr)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
