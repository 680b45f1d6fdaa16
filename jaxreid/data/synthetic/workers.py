"""Drawing in several processes."""

import collections
import concurrent.futures
import contextlib
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence

from jaxreid.data.synthetic.rendering import render
from jaxreid.data.synthetic.walks import Plan

_CHUNK = 24  # pictures a process draws before it answers


def render_all(seed: int, domain: int, planned: Sequence[Plan], workers: int) -> Iterator[bytes]:
    """Yields pictures drawn by fresh interpreters, in the order of the plans.

    Not `multiprocessing`: a fork after TensorFlow or JAX has started its threads may hang, and a
    spawned process would import the user's main module, and so TensorFlow, again.

    Args:
        seed: of the data set.
        domain: number of the domain.
        planned: what to draw.
        workers: number of interpreters.

    Raises:
        RuntimeError: one of them died.
    """
    paths = [path or os.getcwd() for path in sys.path]
    code = (
        f"import sys; sys.path[:] = {paths!r}; from jaxreid.data.synthetic.workers import serve; "
    )
    command = [sys.executable, "-c", code + "serve()"]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(workers)]
    idle: queue.SimpleQueue = queue.SimpleQueue()
    for process in started:
        idle.put(process)

    def ask(chunk: Sequence[Plan]) -> list[bytes]:
        process = idle.get()
        try:
            pickle.dump((seed, domain, chunk), process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise RuntimeError(
                "synthetic_people: a drawing process died (its last words are on stderr); "
                "workers=1 draws in this process."
            ) from error
        finally:
            idle.put(process)

    chunks = (planned[i : i + _CHUNK] for i in range(0, len(planned), _CHUNK))
    waiting: collections.deque = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        for chunk in chunks:
            waiting.append(pool.submit(ask, chunk))
            if len(waiting) > 3 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        for process in started:
            with contextlib.suppress(OSError):
                process.stdin.close()  # the process ends when it has nothing more to read
            process.stdout.close()
            process.wait()


def serve() -> None:
    """Draws what is asked on stdin, until that is closed; the other end of `render_all`."""
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever prints must not spoil the answers
    while True:
        try:
            seed, domain, chunk = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump([render(seed, domain, p) for p in chunk], answers)
        answers.flush()
