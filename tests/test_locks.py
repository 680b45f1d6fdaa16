"""Locks: one holder, none after a crash, also without locks of the system."""

import contextlib
import signal
import subprocess
import sys
import threading

import pytest

from jaxreid import locks
from jaxreid.locks import InUseError, hold

HOLD = """
import pathlib, sys
from jaxreid.locks import hold
with hold(pathlib.Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["flock", "no module", "refused"])
def system(request, monkeypatch):
    if request.param == "no module":  # Windows
        monkeypatch.setattr(locks, "fcntl", None)
    if request.param == "refused":  # some network file systems

        def flock(*_):
            raise OSError(37, "No locks available")

        monkeypatch.setattr(locks.fcntl, "flock", flock)


def refused(path, message):
    with pytest.raises(InUseError, match=message), hold(path, "work directory runs/a"):
        pass


@pytest.mark.usefixtures("system")
def test_the_second_is_refused_in_words_until_the_first_ends(tmp_path):
    path = tmp_path / "folder" / "lock"
    with contextlib.suppress(KeyError), hold(path, "work directory runs/a"):
        refused(path, r"work directory runs/a is in use by another process \(host .* pid .*since")
        raise KeyError  # an error ends it, too
    with hold(path, "work directory runs/a"):
        pass


@pytest.mark.usefixtures("system")
def test_who_waits_says_so_and_goes_on(tmp_path, capsys):
    path, order = tmp_path / "lock", []

    def second():
        with hold(path, "the copy", wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with hold(path, "the copy"):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "waiting: the copy is in use by another process" in capsys.readouterr().err


def test_a_killed_process_holds_nothing(tmp_path):
    path = tmp_path / "lock"
    words = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    refused(path, f"pid {process.pid}")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with hold(path, "it"):
        pass


def test_a_stand_in_of_a_dead_process_is_removed_and_of_another_host_named(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    path, stand_in = tmp_path / "lock", tmp_path / "lock.held"
    stand_in.write_text(locks._holder().replace(f"pid {locks.os.getpid()}", "pid 99999999"))
    with hold(path, "it"):
        pass
    assert not stand_in.exists()
    stand_in.write_text("host elsewhere, pid 1, since yesterday")
    refused(path, f"elsewhere.* has ended, delete {stand_in}")
    assert stand_in.exists()
