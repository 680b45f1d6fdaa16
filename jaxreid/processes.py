"""The processes of a run: when one of them ends, all end and name it.

The error of a broken connection arises in any collective and names an address at most, and
processes that wait for one that is still there would wait for JAX's own timeout.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

import jax

# Between two signs of life, and without one until a process counts as lost.
BEAT_SECONDS, LOST_SECONDS = 1.0, 6.0
# Process 0 holds what the others read, so it ends last.
LAST_SECONDS = 4.0


@contextlib.contextmanager
def lost_processes_named() -> Iterator[None]:
    """End this process when another one of the run has ended, with an error that names it.

    Raises:
        ConnectionError: processes of this run have ended, or cannot be reached. Where the run waits
            for another process at that time, the error is printed and the process exits with 1.
    """
    if jax.process_count() == 1:
        yield
        return
    watch = _Watch()
    try:
        yield
    except Exception as error:
        if _has_cause(error, jax.errors.JaxRuntimeError) and (lost := watch.find_lost()):
            raise ConnectionError(_sentence(lost)) from error
        raise
    finally:
        watch.stop()


class _Watch:
    """Thread that sends heartbeats, and checks whether a process misses those of another.

    Both use the key-value store of `jax.distributed`, which JAX does not offer publicly.
    """

    def __init__(self) -> None:
        from jax._src import distributed

        self._client = distributed.global_state.client
        self._me, self._count = jax.process_index(), jax.process_count()
        self._end = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._end.set()

    def find_lost(self) -> str:
        """Return the processes without heartbeat, as "1, 2"; notify all others."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 has ended
            if lost := self._reported():
                return lost
            before = self._beats()
            deadline = time.monotonic() + LOST_SECONDS
            while time.monotonic() < deadline:
                time.sleep(BEAT_SECONDS)
                now = self._beats()
                silent = [p for p in range(self._count) if now.get(p) == before.get(p)]
                if not silent:
                    return ""
            lost = ", ".join(map(str, silent))
            self._client.key_value_set("jaxreid/lost/processes", lost, allow_overwrite=True)
            self._wait_for_others()
            return lost
        return "0"

    def _run(self) -> None:
        beat = 0
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 has ended
            while not self._end.wait(BEAT_SECONDS):
                beat += 1
                self._client.key_value_set(
                    f"jaxreid/beat/{self._me}", str(beat), allow_overwrite=True
                )
                if lost := self._reported():
                    self._wait_for_others()
                    # The main thread may wait for a process that does not come.
                    print(f"error: {_sentence(lost)}", file=sys.stderr, flush=True)
                    os._exit(1)

    def _beats(self) -> dict[int, str]:
        beats = self._client.key_value_dir_get("jaxreid/beat/")
        return {int(key.rpartition("/")[2]): beat for key, beat in beats}

    def _reported(self) -> str:
        return "".join(lost for _, lost in self._client.key_value_dir_get("jaxreid/lost/"))

    def _wait_for_others(self) -> None:
        if self._me == 0:
            time.sleep(LAST_SECONDS)


def _sentence(lost: str) -> str:
    return (
        f"process {lost} of 0 to {jax.process_count() - 1} has ended or cannot be reached, so this "
        "one ends, too. Its own output says why, unless it was killed. Start all of them again "
        "with the same commands: a training resumes from its newest whole checkpoint."
    )


def _has_cause(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None
