"""Trace of some training steps, for xprof, TensorBoard's profile page and Perfetto."""

import pathlib
import tempfile
from typing import Any

import jax

from jaxreid.places import is_remote

# Steps before the trace, which compile and fill the input pipeline.
SKIPPED = 10


class Profile:
    """Trace of `steps` training steps of this process, written to `workdir`/profile.

    A training that ends within them writes a shorter trace.

    Args:
        workdir: work directory.
        steps: steps to trace; 0: none.
    """

    def __init__(self, workdir: pathlib.Path, steps: int) -> None:
        self._folder, self._steps, self._seen = workdir / "profile", steps, 0
        if steps and is_remote(workdir):
            # The profiler writes local files.
            self._folder = pathlib.Path(tempfile.mkdtemp(prefix="jaxreid-profile-"))
        self._on = False

    def after(self, metrics: Any) -> str | None:
        """Count a step, whose results are `metrics`; return a message at the end of the trace."""
        self._seen += 1
        if not self._steps or self._seen not in (SKIPPED, SKIPPED + self._steps):
            return None
        jax.block_until_ready(metrics)  # whole steps only
        if not self._on:
            jax.profiler.start_trace(self._folder)
            self._on = True
            return None
        self._stop()
        return (
            f"{self._steps} steps are traced in {self._folder}: pip install xprof and "
            f"xprof --logdir={self._folder}, or open the .trace.json.gz in Perfetto"
        )

    def _stop(self) -> None:
        if self._on:
            self._on = False
            jax.profiler.stop_trace()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()
