"""Drawing of pictures in several processes."""

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

# Pictures per request to a process.
_CHUNK = 24


def render_all(seed: int, planned: Sequence[Plan], workers: int) -> Iterator[bytes]:
    """Yield pictures drawn by new interpreters, in the order of the plans.

    `multiprocessing` is not used: a fork after TensorFlow or JAX has started threads may hang, and
    a spawned process would import the user's main module, and with it TensorFlow, again.

    Raises:
        RuntimeError: an interpreter died.
    """
    paths = [path or os.getcwd() for path in sys.path]
    code = (
        f"import sys; sys.path[:] = {paths!r}; from jaxreid.data.synthetic.workers import serve; "
    )
    command = [sys.executable, "-c", code + "serve()"]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(workers)]
    idle: queue.SimpleQueue = queue.SimpleQueue()
    for process in processes:
        idle.put(process)

    def request(chunk: Sequence[Plan]) -> list[bytes]:
        process = idle.get()
        try:
            pickle.dump((seed, chunk), process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise RuntimeError(
                "synthetic_people: a drawing process died (its last output is on stderr); use "
                "workers=1 to draw in this process."
            ) from error
        finally:
            idle.put(process)

    chunks = (planned[i : i + _CHUNK] for i in range(0, len(planned), _CHUNK))
    waiting: collections.deque = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        for chunk in chunks:
            waiting.append(pool.submit(request, chunk))
            if len(waiting) > 3 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        for process in processes:
            # A process ends when its input is closed.
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.stdout.close()
            process.wait()


def serve() -> None:
    """Draw the requests of `render_all` on stdin, until it is closed."""
    output = sys.stdout.buffer
    # Prints must not corrupt the responses on stdout.
    sys.stdout = sys.stderr
    while True:
        try:
            seed, chunk = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump([render(seed, p) for p in chunk], output)
        output.flush()
