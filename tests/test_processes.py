"""Several processes: one that ends ends all, and another number of them goes on."""

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
    start_two,
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


def test_a_training_of_four_processes_goes_on_with_two_and_equals_one(place):  # noqa: F811
    one, several = place / "one of several", place / "several"
    with jax.enable_x64(True):
        run(place, one, *SEVERAL)
    processes = start_several(4, place, several, *SEVERAL, double=True)
    wait_for_step(several, 2, lambda: processes[0].poll() is None)
    processes[3].send_signal(signal.SIGINT)
    assert "stopped by preemption at step" in outputs_of(processes, status=75)[0]
    outputs = outputs_of(start_two(place, several, *SEVERAL, double=True))
    assert "resuming from step" in outputs[0]
    assert_nearly_equal(one, several)
