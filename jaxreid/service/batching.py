"""Batches of concurrent requests: images that arrive within some milliseconds are embedded at once.

A compiled program has a fixed number of images, and one of a few is hardly slower than one of a
single image. One thread embeds; requests wait for their part.
"""

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

# Images in one call: `ReID.embed` is compiled for 1, 8 and 64.
FEW, MANY = 8, 64


class Full(Exception):
    """Too many images wait already."""


@dataclasses.dataclass(eq=False)
class _Job:
    images: Sequence[np.ndarray]
    result: Future


class Batcher:
    """Thread that embeds submitted images in batches.

    Args:
        embed: [h, w, 3] images -> features [N, ...].
        wait: seconds for which the first image of a batch waits for others.
        room: images that may wait.
        observe: called with the number of requests and images of each batch.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[np.ndarray]], np.ndarray],
        *,
        wait: float,
        room: int,
        observe: Callable[[int, int], Any] = lambda requests, images: None,
    ) -> None:
        self._embed, self._wait, self._room, self._observe = embed, wait, room, observe
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.waiting, self._closed = 0, False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, images: Sequence[np.ndarray]) -> Future:
        """Return a future of the features [N, ...] of images.

        Raises:
            Full: too many images wait already.
        """
        with self._lock:
            if self._closed or self.waiting + len(images) > self._room:
                raise Full
            self.waiting += len(images)
            job = _Job(images, Future())
            self._queue.put(job)
        return job.result

    def close(self) -> None:
        """Embed the waiting images, and end the thread."""
        with self._lock:
            self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        for first in iter(self._queue.get, None):
            jobs, count = [first], len(first.images)
            until = time.monotonic() + self._wait
            while count < MANY:
                try:
                    # Images that arrived while the last batch was embedded are always taken.
                    job = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                if job is None:
                    # Nothing comes after it: left for the end of this loop.
                    self._queue.put(None)
                    break
                jobs.append(job)
                count += len(job.images)
            self._answer(jobs)

    def _answer(self, jobs: Sequence[_Job]) -> None:
        with self._lock:
            self.waiting -= sum(len(job.images) for job in jobs)
        # Requests that have given up are left out.
        jobs = [job for job in jobs if job.result.set_running_or_notify_cancel()]
        if not jobs:
            return
        self._observe(len(jobs), sum(len(job.images) for job in jobs))
        try:
            features = self._all([image for job in jobs for image in job.images])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].result.set_exception(error)
                return
            # One request must not fail because of another.
            for job in jobs:
                try:
                    job.result.set_result(self._all(job.images))
                except Exception as own:
                    job.result.set_exception(own)
            return
        first = 0
        for job in jobs:
            job.result.set_result(features[first : first + len(job.images)])
            first += len(job.images)

    def _all(self, images: Sequence[np.ndarray]) -> np.ndarray:
        parts, first = [], 0
        while first < len(images):
            # A batch is filled up: with at most half of it, only for more than half of `MANY`.
            size = MANY if len(images) - first > MANY // 2 else FEW
            parts.append(self._embed(images[first : first + size]))
            first += size
        return np.concatenate(parts)
