"""Several processes: one that ends ends all, and a training goes on with another number."""

import signal
import time

import jax
import pytest
from test_main import (
    GRAPH,
    SEVERAL,
    assert_nearly_equal,
    outputs_of,
    place,  # noqa: F401
    run,
    start_several,
    wait_for_step,
)

pytestmark = [
    pytest.mark.full,
    pytest.mark.end_to_end,
    pytest.mark.multiprocess,
    pytest.mark.usefixtures("one_device"),
]


def test_the_end_of_one_process_ends_all_in_seconds_and_is_named(place):  # noqa: F811
    more = [*GRAPH, "--config.epochs=50", "--config.checkpoint.every_steps=2"]
    processes = start_several(4, place, place / "lost", *more)
    wait_for_step(place / "lost", 2, lambda: processes[0].poll() is None)
    processes[2].kill()
    killed = time.monotonic()
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert time.monotonic() - killed < 60
    assert [process.returncode for process in processes] == [1, 1, -9, 1]
    for output in (outputs[n] for n in (0, 1, 3)):
        message = "error: process 2 of 0 to 3 has ended or cannot be reached"
        assert message in output, output[-900:]


def test_a_training_goes_on_with_other_numbers_of_processes(place):  # noqa: F811
    one, several = place / "one of several", place / "several"
    with jax.enable_x64(True):
        run(place, one, *SEVERAL)
    for count, step in ((4, 2), (2, 4)):
        processes = start_several(count, place, several, *SEVERAL, double=True)
        wait_for_step(several, step, lambda: processes[0].poll() is None)  # noqa: B023
        processes[-1].send_signal(signal.SIGINT)
        outputs = outputs_of(processes, status=75)
        assert "stopped by preemption at step" in outputs[0]
    with jax.enable_x64(True):
        assert "resuming from step" in run(place, several, *SEVERAL).stdout
    assert_nearly_equal(one, several)
