"""Faults: kills at random moments, and every write of a run that fails. Under `-m full`."""

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from golden import REPOSITORY
from people import market_tree
from program import program
from test_main import (
    GRAPH,
    KEPT,
    PAIRS,
    assert_same_bits,
    command,
    conversion,
    final_state,
    losses,
    newest_step,
    outputs_of,
    start,
    start_two,
    untimed,
)

from jaxreid.data import sets
from jaxreid.runs import files

pytestmark = [pytest.mark.full, pytest.mark.end_to_end, pytest.mark.usefixtures("one_device")]
# Kills of each case, and their seed: JAXREID_KILLS=100 JAXREID_KILLS_SEED=7 pytest -m full -k kills
KILLS = int(os.environ.get("JAXREID_KILLS", "5"))
SEED = int(os.environ.get("JAXREID_KILLS_SEED", "0"))
SHORT = ["--config.epochs=2", "--config.init_expects="]
LEARNERS = {
    "class memory": ["--config.epochs=4"],
    "graph": [*GRAPH, "--config.epochs=2"],
    "multi-scale": ["--config=configs/qaconv_ms.py:market1501,debug", *SHORT],
    "transmatcher": ["--config=configs/transmatcher.py:market1501,debug", *SHORT],
    "gmn": PAIRS,
    "osnet": ["--config=configs/osnet.py:market1501,debug", *SHORT],
    "average and best": [*SHORT, *KEPT],
    "search": ["--config=configs/osnet_search.py:market1501,debug", *SHORT],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("kills")
    market_tree(root / "market1501")
    market_tree(root / "strangers", world=8)
    return root


def seconds_of(run):
    begin = time.monotonic()
    run()
    return time.monotonic() - begin


def kill_at_random(begin, seconds, draw):
    """Start processes and kill them all after a random share of the time that they would take.

    Returns:
        Whether they were killed before their end, and what they said.
    """
    processes = begin()
    time.sleep(draw.uniform(0, seconds))
    for process in processes:
        process.send_signal(signal.SIGKILL)
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    return any(process.returncode for process in processes), outputs


def kill_often(begin, workdir, whole, seconds, draw):
    """Kill a training `KILLS` times; each time that it reaches its end, compare it and begin again.

    Args:
        begin: starts its processes; they go on where the last were killed.
        workdir: its work directory.
        whole: work directory of the same training, not killed.
        seconds: that it takes.
        draw: source of the moments.
    """
    steps, ends = [], 0
    while len(steps) < KILLS:
        killed, outputs = kill_at_random(begin, seconds, draw)
        assert not any("error:" in output for output in outputs), outputs
        if killed:
            steps.append(newest_step(workdir))
        else:
            assert_same_end(workdir, whole)
            shutil.rmtree(workdir)
            ends += 1
    outputs_of(begin())
    assert_same_end(workdir, whole)
    print(f"{workdir.name}: {KILLS} kills, after steps {steps}; {ends + 1} ends compared")


def assert_same_end(workdir, whole):
    assert_same_bits(final_state(workdir), final_state(whole))
    assert losses(workdir) == losses(whole)
    assert untimed(workdir) == untimed(whole)
    assert not list(workdir.rglob("*.partial"))
    for file in (*whole.glob("architecture.json"), *whole.glob("*.safetensors")):
        assert (workdir / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("learner", LEARNERS)
def test_kills_of_a_training_change_no_bit(place, learner):
    more, draw = LEARNERS[learner], random.Random(f"{SEED} {learner}")
    whole, killed = place / f"{learner} whole", place / f"{learner} killed"
    begin = lambda w: [start(["tests/program.py", *command(place, w, *more)])]  # noqa: E731
    begin(whole)[0].communicate()
    # The first one also compiled, which those that are killed need not.
    seconds = seconds_of(lambda: begin(killed)[0].communicate())
    shutil.rmtree(killed)
    kill_often(lambda: begin(killed), killed, whole, seconds, draw)


@pytest.mark.multiprocess
def test_kills_of_two_processes_change_no_bit(place):
    more, draw = [*LEARNERS["graph"], "--config.epochs=1"], random.Random(f"{SEED} two")
    whole, killed = place / "two whole", place / "two killed"
    seconds = seconds_of(lambda: outputs_of(start_two(place, whole, *more)))
    kill_often(lambda: start_two(place, killed, *more), killed, whole, seconds, draw)


PREPARE = """
import sys
from jaxreid.data import sets
splits = sets.load("market1501", dir=sys.argv[1], prepared_dir=sys.argv[2])
print(*(split.fingerprint for _, split in sorted(splits.items())))
"""
CONVERT = "import sys; from jaxreid import cli; sys.exit(cli.main(sys.argv[1:]))"


def python(code, *arguments):
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def test_kills_of_a_preparation_leave_no_half_copy(place):
    draw = random.Random(f"{SEED} preparation")
    begin = lambda folder: [python(PREPARE, place, place / folder)]  # noqa: E731
    expected = []
    seconds = seconds_of(lambda: expected.append(begin("whole")[0].communicate()[0]))
    assert expected[0]
    copies = 0
    for _ in range(KILLS):
        kill_at_random(lambda: begin("killed"), seconds, draw)
        if any(copy.complete for copy in sets.prepared_copies(prepared_dir=place / "killed")):
            assert begin("killed")[0].communicate()[0] == expected[0]
            shutil.rmtree(place / "killed")  # the next kill finds something to do
            copies += 1
    assert begin("killed")[0].communicate()[0] == expected[0]
    print(f"preparation: {KILLS} kills; {copies + 1} copies compared")


def test_kills_of_a_conversion_leave_no_half_file(place):
    draw = random.Random(f"{SEED} conversion")
    begin = lambda out: [python(CONVERT, *conversion(place, out))]  # noqa: E731
    whole, killed = place / "whole.safetensors", place / "killed.safetensors"
    seconds = seconds_of(lambda: begin(whole)[0].communicate())
    for _ in range(KILLS):
        kill_at_random(lambda: begin(killed), seconds, draw)
        assert not killed.exists() or killed.read_bytes() == whole.read_bytes()
    begin(killed)[0].communicate()
    assert killed.read_bytes() == whole.read_bytes()


FEW = ["--config.epochs=1", "--config.checkpoint.every_steps=2", "--config.log.every_steps=2"]


def failing_at(monkeypatch, number, error):
    """Let the write of this number fail in its middle; count all writes."""
    count, put = [0], files.put

    def fail(file, content):
        count[0] += 1
        if count[0] == number:
            file.write(content[: len(content) // 2])
            raise OSError(error, os.strerror(error))
        put(file, content)

    monkeypatch.setattr(files, "put", fail)
    return count


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_every_write_of_a_run_may_fail_and_the_run_goes_on(place, error, monkeypatch):
    workdir, whole = place / "failing", place / "not failing"
    with monkeypatch.context() as patch:
        count = failing_at(patch, 0, error)
        assert program(command(place, whole, *FEW)).returncode == 0
    writes = count[0]
    assert writes > 10
    for number in range(1, writes + 1):
        shutil.rmtree(workdir, ignore_errors=True)
        with monkeypatch.context() as patch:
            failing_at(patch, number, error)
            result = program(command(place, workdir, *FEW))
        assert result.returncode == 1, f"write {number}: {result.stdout}"
        assert f"cannot write {workdir}" in result.stderr, f"write {number}"
        assert os.strerror(error) in result.stderr
        assert "Traceback" not in result.stderr
        result = program(command(place, workdir, *FEW))
        assert result.returncode == 0, f"write {number}: {result.stderr}"
        assert_same_end(workdir, whole)


def test_a_slow_disk_changes_no_bit(place, monkeypatch):
    slow, whole = place / "slow", place / "not slow"
    assert program(command(place, whole, *FEW)).returncode == 0
    count, put = failing_at(monkeypatch, 0, errno.EIO), files.put
    monkeypatch.setattr(files, "put", lambda *a: time.sleep(0.2) or put(*a))
    assert program(command(place, slow, *FEW)).returncode == 0
    assert count[0] > 10
    assert_same_end(slow, whole)


@pytest.fixture
def disk(tmp_path):
    """A file system in memory, and a function that gives it a size in KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size):
        again = "remount," if os.path.ismount(folder) else ""
        words = ["mount", "-t", "tmpfs", "-o", f"{again}size={size}k", "tmpfs", str(folder)]
        mounted = subprocess.run(words, capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")

    resize(1024)
    yield folder, resize
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_of_any_size_loses_nothing(place, disk):
    folder, resize = disk
    resize(100_000)
    begin = lambda: start(  # noqa: E731
        ["tests/program.py", *command(place, folder / "run", *FEW)]
        + [f"--config.data.prepared_dir={folder / 'prepared'}"]
    )
    outputs_of([begin()])
    whole, statuses = place / "on a large disk", []
    shutil.copytree(folder / "run", whole)
    needed = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) // 1024
    for tenth in range(1, 11):
        shutil.rmtree(folder / "run")
        shutil.rmtree(folder / "prepared")
        resize(needed * tenth // 10)
        process = begin()
        output, _ = process.communicate(timeout=300)
        statuses.append(process.returncode)
        assert process.returncode in (0, 1), output
        assert "Traceback" not in output
        if process.returncode:
            assert re.search(r"error: .*(No space left|cannot be written|cannot write)", output)
            assert str(folder) in output
        resize(100_000)
        outputs_of([begin()])
        assert_same_end(folder / "run", whole)
    assert statuses[0] == 1
    print(f"full disks: {needed} KiB needed, ended with {statuses} at 1 to 10 tenths of them")
